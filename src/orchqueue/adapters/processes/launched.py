"""The owner's end of a launcher, and the end of launchers that earlier owners left.

Req: ORCH-4027
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from orchqueue.adapters.processes import launcher
from orchqueue.adapters.processes.crash import read_tail
from orchqueue.adapters.processes.identity import Identity, ProcessId, lives, read_identity, send_signal
from orchqueue.ports.errors import ProcessError

LOG_MAX_BYTES = 1 << 20
ORPHAN_GRACE_S = 60.0
STOP_GRACE_S = 5.0
KILL_WAIT_S = 5.0
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class Message(msgspec.Struct, frozen=True):
    """What a launcher says."""

    event: str
    engine_pid: int = 0
    port: int = 0
    returncode: int = 0
    asked: bool = False
    detail: str = ""
    fingerprint: str = ""


def file_stem(replica_id: str) -> str:
    """Turn a replica's id into a file name that no id can lead elsewhere with."""
    if _SAFE.fullmatch(replica_id) and not replica_id.startswith("."):
        return replica_id
    return sha256(replica_id.encode()).hexdigest()[:32]


class LaunchSpec(msgspec.Struct, frozen=True):
    """Which program to run, and how it is watched. `fingerprint` says what was launched, for a later adoption."""

    replica_id: str
    argv: list[str]
    env: dict[str, str]
    fingerprint: str = ""
    orphan_grace_s: float = ORPHAN_GRACE_S
    stop_grace_s: float = STOP_GRACE_S


class Exit(msgspec.Struct, frozen=True):
    """How it ended. `returncode` as subprocess has it; `asked`: the launcher had been told to stop."""

    returncode: int
    asked: bool
    detail: str = ""


class LaunchedProcess:
    """An engine process under its launcher, owned by us as long as this object's connection is open."""

    def __init__(
        self, directory: Path, spec: LaunchSpec, orders: launcher.Orders, process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        self.log_path = directory / orders.log_name
        self.engine_pid: int | None = None
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.port: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._spec = spec
        self._token = orders.token
        self._files = tuple(directory / f"{orders.name}{suffix}" for suffix in (".sock", ".json", ".part"))
        self._process = process
        self._reader = reader
        self._writer = writer
        self._listening = asyncio.create_task(self._listen())

    @property
    def launcher_pid(self) -> int:
        """Give the launcher's process id."""
        return self._process.pid

    async def stop(self) -> Exit:
        """End the engine: TERM, the grace, KILL; return when it and its launcher are gone."""
        self._say("stop")
        try:
            async with asyncio.timeout(self._spec.stop_grace_s + KILL_WAIT_S):
                ended = await asyncio.shield(self.exited)
                await self._process.wait()
        except TimeoutError:
            # The launcher hangs. The kernel ends the engine with it.
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            ended = await self.exited
        await self._listening
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        # A launcher that was killed could not clean up.
        for path in self._files:
            path.unlink(missing_ok=True)
        return ended

    def tail(self) -> str:
        """Read the engine's last words."""
        return read_tail(self.log_path)

    def _say(self, command: str) -> None:
        with suppress(OSError, RuntimeError):
            self._writer.write(json.dumps({"command": command, "token": self._token}).encode() + b"\n")

    async def _listen(self) -> None:
        ended = Exit(-signal.SIGKILL, asked=False, detail="the launcher is gone")
        self._say("status")
        with suppress(OSError, msgspec.DecodeError, ValueError):
            while line := await self._reader.readline():
                message = msgspec.json.decode(line, type=Message)
                if message.engine_pid:
                    self.engine_pid = message.engine_pid
                if message.port and not self.port.done():
                    self.port.set_result(message.port)
                if message.event == "exited":
                    ended = Exit(message.returncode, message.asked)
                    break
                if message.event == "failed":
                    ended = Exit(1, asked=False, detail=message.detail)
                    break
        if not self.port.done():
            self.port.set_result(None)
        self.exited.set_result(ended)


async def launch_process(directory: Path, spec: LaunchSpec) -> LaunchedProcess:
    """Start a launcher with its engine.

    Errors: ProcessError when the launcher cannot be started.
    """
    prepare_directory(directory)
    stem = file_stem(spec.replica_id)
    orders = launcher.Orders(
        replica_id=spec.replica_id,
        name=f"{stem}-{secrets.token_hex(4)}",
        token=secrets.token_hex(32),
        fingerprint=spec.fingerprint,
        argv=spec.argv,
        env=spec.env,
        log_name=f"{stem}.log",
        log_max_bytes=LOG_MAX_BYTES,
        orphan_grace_s=spec.orphan_grace_s,
        stop_grace_s=spec.stop_grace_s,
    )
    ours, theirs = socket.socketpair()
    try:
        # -P: the working directory is not a place to import from.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", launcher.__name__,
            stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, cwd=directory,
        )  # fmt: skip
    except OSError as error:
        ours.close()
        raise ProcessError("never_ready", f"cannot start the launcher of {spec.replica_id}: {error}") from error
    finally:
        theirs.close()
    ours.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    writer.write(json.dumps(orders._asdict()).encode() + b"\n")
    return LaunchedProcess(directory, spec, orders, process, reader, writer)


def prepare_directory(directory: Path) -> None:
    """Make the directory of sockets and identities, for our user only."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)


async def end_leftovers(
    directory: Path, report: Callable[[str], None] = lambda _: None, *, answer_within_s: float = STOP_GRACE_S + 1.0
) -> int:
    """End every launcher and engine that an earlier owner left in the directory, and remove its files; give their number.

    1. Ask the launcher by its socket.
    2. Where they live on, kill both. A pid is only signalled while its start time is right.

    Req: ORCH-4139
    """
    found = await asyncio.to_thread(_identities, directory)
    await asyncio.gather(*(_end_one(path, identity, report, answer_within_s) for path, identity in found))
    await asyncio.to_thread(_sweep, directory)
    return len(found)


def _identities(directory: Path) -> list[tuple[Path, Identity | None]]:
    return [(path, read_identity(path)) for path in sorted(directory.glob("*.json"))]


def _sweep(directory: Path) -> None:
    for pattern in ("*.json", "*.sock", "*.part"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


async def _end_one(
    path: Path, identity: Identity | None, report: Callable[[str], None], answer_within_s: float
) -> None:
    if identity is not None:
        processes = [process for process in (identity.launcher, identity.engine) if lives(process)]
        if processes:
            report(f"ending {identity.replica_id} (pid {identity.engine.pid}), left by an earlier daemon")
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0), _connected(path.with_suffix(".sock")) as writer:
                writer.write(json.dumps({"command": "stop", "token": identity.token}).encode() + b"\n")
                await writer.drain()
        if not await _gone(processes, answer_within_s):
            for process in processes:
                send_signal(process, signal.SIGKILL)
            await _gone(processes, KILL_WAIT_S)


@asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[asyncio.StreamWriter]:
    # A socket's path has at most 107 bytes; by way of an open directory any data directory will do.
    directory = os.open(path.parent, os.O_DIRECTORY | os.O_PATH)
    try:
        _, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    try:
        yield writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _gone(processes: list[ProcessId], timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + timeout_s
    while any(lives(process) for process in processes):
        if loop.time() >= until_s:
            return False
        await asyncio.sleep(0.02)
    return True
