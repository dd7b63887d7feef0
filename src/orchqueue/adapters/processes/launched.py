"""The owner's end of a launcher.

Req: ORCH-4027, ORCH-4378
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
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from orchqueue.adapters.processes import launcher
from orchqueue.adapters.processes.crash import read_tail
from orchqueue.adapters.processes.identity import Identity, ProcessId, start_ticks_of
from orchqueue.adapters.processes.watched import WatchedProcess
from orchqueue.ports.errors import ProcessError

LOG_MAX_BYTES = 1 << 20
ORPHAN_GRACE_S = 60.0
STOP_GRACE_S = 5.0
KILL_WAIT_S = 5.0
END_TOLD_WITHIN_S = 5.0
"""How long an engine or a launcher may be gone before we go on without the launcher's word about it."""
REFUSED_PAUSE_S = 0.05
SILENT, UNREACHABLE = "silent", "unreachable"
FILE_SUFFIXES = (".sock", ".json", ".part")
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,80}")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Message(msgspec.Struct, frozen=True):
    """What a launcher says."""

    event: str
    engine_pid: int = 0
    engine_start_ticks: int = 0
    port: int = 0
    returncode: int = 0
    asked: bool = False
    detail: str = ""
    fingerprint: str = ""
    secret: str = ""


def file_stem(replica_id: str) -> str:
    """Turn a replica's id into a file name that no id can lead elsewhere with."""
    if _SAFE.fullmatch(replica_id) and not replica_id.startswith("."):
        return replica_id
    return sha256(replica_id.encode()).hexdigest()[:32]


def log_name(replica_id: str) -> str:
    """Name the file that a replica's engine speaks into."""
    return f"{file_stem(replica_id)}.log"


class LaunchSpec(msgspec.Struct, frozen=True):
    """Which program to run, and how it is watched.

    `fingerprint` says what was launched, and `secret` is what an owner must know to use it; both are kept for a later adoption.
    """

    replica_id: str
    argv: list[str]
    env: dict[str, str]
    fingerprint: str = ""
    secret: str = ""
    orphan_grace_s: float = ORPHAN_GRACE_S
    stop_grace_s: float = STOP_GRACE_S


class Place(msgspec.Struct, frozen=True):
    """Where a launcher is found, and by which word it obeys. `name`: the stem of its files."""

    directory: Path
    replica_id: str
    name: str
    token: str
    fingerprint: str
    secret: str
    stop_grace_s: float = STOP_GRACE_S


class Exit(msgspec.Struct, frozen=True):
    """How it ended. `returncode` as subprocess has it; `asked`: the launcher had been told to stop."""

    returncode: int
    asked: bool
    detail: str = ""


class NotOwnedError(Exception):
    """An engine of an earlier owner cannot be taken over. `answer`: what its launcher said, or how it said nothing."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.answer = answer


class LaunchedProcess:
    """An engine process under its launcher, owned by us as long as this object's connection is open.

    `child`: the launcher, where it was us who started it.
    """

    def __init__(
        self, place: Place, streams: Streams, launched: WatchedProcess, child: asyncio.subprocess.Process | None = None
    ) -> None:
        self.place = place
        self.log_path = place.directory / log_name(place.replica_id)
        self.engine_pid: int | None = None
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self.port: asyncio.Future[int | None] = self._loop.create_future()
        self._reader, self._writer = streams
        self._launcher = launched
        self._engine: WatchedProcess | None = None
        self._child = child
        self._presumptions: list[asyncio.TimerHandle] = []
        self._presume(launched, "the launcher is gone")
        self._listening = asyncio.create_task(self._listen())

    @property
    def launcher_pid(self) -> int:
        """Give the launcher's process id."""
        return self._launcher.process.pid

    async def stop(self) -> Exit:
        """End the engine: TERM, the grace, KILL; return when it and its launcher are gone."""
        self._say("stop")
        if not await self._launcher.ends_within(self.place.stop_grace_s + KILL_WAIT_S):
            # It hangs. The kernel ends the engine with it.
            self._launcher.signal(signal.SIGKILL)
            await asyncio.shield(self._launcher.gone)
        if self._child is not None:
            await self._child.wait()
        await self._listening
        if self._engine is not None:
            self._engine.signal(signal.SIGKILL)
            await self._engine.ends_within(KILL_WAIT_S)
        self._close()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        # A launcher that was killed could not clean up.
        remove_files(self.place.directory, self.place.name)
        return self.exited.result()

    def tail(self) -> str:
        """Read the engine's last words."""
        return read_tail(self.log_path)

    def meet(self, engine: ProcessId) -> None:
        """Learn which process the engine is, and watch it."""
        if self._engine is None:
            self.engine_pid = engine.pid
            # Without a descriptor the launcher's word must do.
            with suppress(OSError):
                self._engine = WatchedProcess(engine)
                self._presume(self._engine, "the engine is gone and its launcher does not say how it ended")

    def _say(self, command: str) -> None:
        with suppress(OSError, RuntimeError):
            self._writer.write(encode(command, self.place.token))

    async def _listen(self) -> None:
        ended = Exit(-signal.SIGKILL, asked=False, detail="the launcher is gone")
        self._say("status")
        with suppress(OSError, msgspec.DecodeError, ValueError):
            while line := await self._reader.readline():
                message = msgspec.json.decode(line, type=Message)
                if message.engine_pid:
                    self.meet(ProcessId(message.engine_pid, message.engine_start_ticks))
                if message.port and not self.port.done():
                    self.port.set_result(message.port)
                if message.event == "exited":
                    ended = Exit(message.returncode, message.asked)
                    break
                if message.event == "failed":
                    ended = Exit(1, asked=False, detail=message.detail)
                    break
        self._conclude(ended)

    def _presume(self, watched: WatchedProcess, detail: str) -> None:
        """Take the end of a process for the engine's end, when the launcher says nothing of it in time."""
        ended = Exit(-signal.SIGKILL, asked=False, detail=detail)

        def begin(_: asyncio.Future[None]) -> None:
            if not self.exited.done():
                self._presumptions.append(self._loop.call_later(END_TOLD_WITHIN_S, self._conclude, ended))

        watched.gone.add_done_callback(begin)

    def _conclude(self, ended: Exit) -> None:
        for presumption in self._presumptions:
            presumption.cancel()
        if not self.exited.done():
            self.exited.set_result(ended)
        if not self.port.done():
            self.port.set_result(None)

    def _close(self) -> None:
        self._launcher.close()
        if self._engine is not None:
            self._engine.close()


async def launch_process(directory: Path, spec: LaunchSpec) -> LaunchedProcess:
    """Start a launcher with its engine.

    Errors: ProcessError when the launcher cannot be started.
    """
    prepare_directory(directory)
    orders = launcher.Orders(
        replica_id=spec.replica_id,
        name=f"{file_stem(spec.replica_id)}-{secrets.token_hex(4)}",
        token=secrets.token_hex(32),
        secret=spec.secret,
        fingerprint=spec.fingerprint,
        argv=spec.argv,
        env=spec.env,
        log_name=log_name(spec.replica_id),
        log_max_bytes=LOG_MAX_BYTES,
        orphan_grace_s=spec.orphan_grace_s,
        stop_grace_s=spec.stop_grace_s,
    )
    ours, theirs = socket.socketpair()
    try:
        # -P: the working directory is not a place to import from.
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", launcher.__name__,
            stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, cwd=directory,
        )  # fmt: skip
        watched = WatchedProcess(ProcessId(child.pid, start_ticks_of(child.pid) or 0))
    except OSError as error:
        # Without its orders, and with nobody who gives them, a launcher ends.
        ours.close()
        raise ProcessError("never_ready", f"cannot start the launcher of {spec.replica_id}: {error}") from error
    finally:
        theirs.close()
    ours.setblocking(False)
    streams = await asyncio.open_unix_connection(sock=ours)
    streams[1].write(json.dumps(orders._asdict()).encode() + b"\n")
    place = Place(
        directory, spec.replica_id, orders.name, orders.token, spec.fingerprint, spec.secret, spec.stop_grace_s
    )
    return LaunchedProcess(place, streams, watched, child)


async def own_process(directory: Path, name: str, identity: Identity, within_s: float) -> LaunchedProcess:
    """Take over an engine of an earlier owner, by the word of its launcher alone.

    One that has just died may not be gone for the launcher yet, so a refusal is not taken at once.

    Errors: NotOwnedError.
    Req: ORCH-4140, ORCH-4379
    """
    streams: Streams | None = None
    answer = SILENT
    try:
        async with asyncio.timeout(within_s):
            streams = await connect(directory / f"{name}.sock")
            while (said := await _ask_to_own(streams, identity)).event != "owned":
                answer = said.detail
                if answer != launcher.OWNED:
                    raise NotOwnedError(answer)
                await asyncio.sleep(REFUSED_PAUSE_S)
        place = Place(directory, identity.replica_id, name, identity.token, said.fingerprint, said.secret)
        owned = LaunchedProcess(place, streams, WatchedProcess(identity.launcher))
        owned.meet(ProcessId(said.engine_pid, said.engine_start_ticks))
        return owned
    except BaseException as error:
        if streams is not None:
            streams[1].close()
        if isinstance(error, TimeoutError):
            raise NotOwnedError(answer) from error
        if isinstance(error, OSError | ValueError):
            raise NotOwnedError(UNREACHABLE) from error
        raise


async def _ask_to_own(streams: Streams, identity: Identity) -> Message:
    reader, writer = streams
    writer.write(encode("own", identity.token))
    line = await reader.readline()
    if not line:
        raise ConnectionResetError("the launcher is gone")
    return msgspec.json.decode(line, type=Message)


def encode(command: str, token: str) -> bytes:
    """Put a command into the launcher's form."""
    return json.dumps({"command": command, "token": token}).encode() + b"\n"


async def connect(path: Path) -> Streams:
    """Connect to a launcher's socket.

    Errors: OSError.
    """
    # A socket's path has at most 107 bytes; by way of an open directory any data directory will do.
    directory = os.open(path.parent, os.O_DIRECTORY | os.O_PATH)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def prepare_directory(directory: Path) -> None:
    """Make the directory of sockets and identities, for our user only."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)


def remove_files(directory: Path, name: str) -> None:
    """Remove what a launcher that has ended left."""
    for suffix in FILE_SUFFIXES:
        (directory / f"{name}{suffix}").unlink(missing_ok=True)
