"""Engines that a dead daemon left: each is taken over by who launches its replica, or ended.

Req: ORCH-4139, ORCH-4140
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from orchqueue.adapters.processes import launcher
from orchqueue.adapters.processes.identity import Identity, ProcessId, read_identity, start_ticks_of
from orchqueue.adapters.processes.launched import (
    FILE_SUFFIXES,
    KILL_WAIT_S,
    ORPHAN_GRACE_S,
    SILENT,
    STOP_GRACE_S,
    UNREACHABLE,
    LaunchedProcess,
    NotOwnedError,
    connect,
    encode,
    own_process,
    remove_files,
)
from orchqueue.adapters.processes.watched import WatchedProcess
from orchqueue.ports.telemetry import LogValue

ANSWER_WITHIN_S = 5.0
_REASONS = {
    launcher.ENDING: "nobody had adopted it in time",
    SILENT: "its launcher does not answer",
    UNREACHABLE: "its launcher cannot be reached",
}
_CREDENTIALS = struct.Struct("3i")

Tell = Callable[[Literal["info", "warning", "error"], str, Mapping[str, LogValue]], None]


class _Left(msgspec.Struct, frozen=True):
    """What stands in the directory under one name. `identity`: None where it cannot be read."""

    name: str
    identity: Identity | None


class Leftovers:
    """What an earlier daemon left in a directory. None of it has two owners, and none is without one for long.

    1. `begin` owns at once what a configured replica may want, so that no grace runs out meanwhile, and ends the rest.
    2. `take` gives a replica's engine to its launch, once.
    3. What nobody took is ended `untaken_s` after `limit_patience`, or by `close`.

    Nothing here waits for anything but what concerns the same replica.

    Req: ORCH-4139, ORCH-4140
    """

    def __init__(
        self, directory: Path, tell: Tell, *, answer_within_s: float = ANSWER_WITHIN_S, untaken_s: float = ORPHAN_GRACE_S
    ) -> None:  # fmt: skip
        self._directory = directory
        self._tell = tell
        self._answer_within_s = answer_within_s
        self._untaken_s = untaken_s
        self._held: dict[str, list[asyncio.Task[LaunchedProcess | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._patience: asyncio.TimerHandle | None = None

    async def begin(self, wanted: Collection[str]) -> None:
        """Look into the directory. `wanted`: the replicas that are launched here."""
        loop = asyncio.get_running_loop()
        for left in await asyncio.to_thread(_find, self._directory):
            if left.identity is None:
                self._spawn(self._end(left, "nothing says which replica it is"))
            elif left.identity.replica_id not in wanted:
                self._spawn(self._end(left, "no replica of that name is configured to be launched here"))
            else:
                held = self._held.setdefault(left.identity.replica_id, [])
                held.append(loop.create_task(self._own(left, left.identity)))

    def limit_patience(self) -> None:
        """Wait no longer than so for what is to be taken: call it when the launches begin, however long it took to come so far."""
        self._patience = asyncio.get_running_loop().call_later(self._untaken_s, self._lose_patience)

    async def take(self, replica_id: str) -> LaunchedProcess | None:
        """Give what was left of a replica, owned by us; the caller adopts it or has it ended."""
        held = self._held.pop(replica_id, [])
        if not held:
            return None
        try:
            await asyncio.wait(held)
        except asyncio.CancelledError:
            self._held[replica_id] = held  # for `close` to end
            raise
        owned = [process for task in held if (process := task.result()) is not None]
        for other in owned[1:]:
            self._spawn(self.end(other, "another engine of that replica is taken"))
        return owned[0] if owned else None

    async def end(self, process: LaunchedProcess, why: str) -> None:
        """End one that we own."""
        self._tell_ending(process.place.replica_id, process.engine_pid or 0, why)
        await process.stop()

    def adopted(self, process: LaunchedProcess) -> None:
        """Tell that one serves on."""
        self._tell("info", "engine_adopted", {"replica_id": process.place.replica_id, "pid": process.engine_pid or 0})

    async def close(self) -> None:
        """End what nobody took, and wait for all that is being ended.

        Req: ORCH-4210
        """
        if self._patience is not None:
            self._patience.cancel()
        self._end_untaken("the daemon stops before its replica was started")
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _lose_patience(self) -> None:
        self._end_untaken(f"its replica was not started within {self._untaken_s:g} s")

    def _end_untaken(self, why: str) -> None:
        async def end(held: asyncio.Task[LaunchedProcess | None]) -> None:
            process = await held
            if process is not None:
                await self.end(process, why)

        for replica_id in tuple(self._held):
            for held in self._held.pop(replica_id):
                self._spawn(end(held))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_ending(self, replica_id: str, pid: int, why: str) -> None:
        detail = f"an earlier daemon left it, and it is ended: {why}"
        self._tell("warning", "leftover_engine", {"replica_id": replica_id, "pid": pid, "detail": detail})

    async def _own(self, left: _Left, identity: Identity) -> LaunchedProcess | None:
        """Become the owner; where that cannot be, return when the engine is gone, for it holds what its successor needs.

        One that somebody else owns is left alone.
        """
        try:
            return await own_process(self._directory, left.name, identity, self._answer_within_s)
        except NotOwnedError as error:
            answer = error.answer
        if answer == launcher.OWNED:
            detail = "an earlier daemon left it, and it is left alone: another process owns it"
            told: dict[str, LogValue] = {
                "replica_id": identity.replica_id,
                "pid": identity.engine.pid,
                "detail": detail,
            }
            self._tell("warning", "leftover_engine", told)
        else:
            await self._end(left, _REASONS.get(answer, answer), patient=answer != SILENT)
        return None

    async def _end(self, left: _Left, why: str, *, patient: bool = True) -> None:
        """End one that we do not own.

        1. Ask its launcher by its socket, or by TERM where that cannot be; without patience nobody is asked.
        2. Where they live on, kill both. A pid is only signalled while its start time is right.
        """
        processes = await self._processes(left)
        living = [process for process in processes if not process.gone.done()]
        if living:
            identity = left.identity
            pid = identity.engine.pid if identity else 0
            self._tell_ending(identity.replica_id if identity else left.name, pid, why)
            asked = patient and living[0] is processes[0] and await self._ask_to_stop(left, living[0])
            if not asked or not await _all_end(living, self._answer_within_s + STOP_GRACE_S):
                for process in living:
                    process.signal(signal.SIGKILL)
                await _all_end(living, KILL_WAIT_S)
        for process in living:
            process.close()
        remove_files(self._directory, left.name)

    async def _processes(self, left: _Left) -> list[WatchedProcess]:
        """Find launcher and engine; without an identity the launcher alone, with which the engine ends."""
        if left.identity is not None:
            return [WatchedProcess(left.identity.launcher), WatchedProcess(left.identity.engine)]
        listener = await _listener_of(self._directory / f"{left.name}.sock")
        return [listener] if listener is not None else []

    async def _ask_to_stop(self, left: _Left, listener: WatchedProcess) -> bool:
        if left.identity is None:
            return listener.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._answer_within_s):
                _, writer = await connect(self._directory / f"{left.name}.sock")
        except (OSError, TimeoutError):
            return listener.signal(signal.SIGTERM)
        # What is written before the close is read by a launcher that reads at all.
        writer.write(encode("stop", left.identity.token))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True


def _find(directory: Path) -> list[_Left]:
    names = {path.stem for suffix in FILE_SUFFIXES for path in directory.glob(f"*{suffix}")}
    return [_Left(name, read_identity(directory / f"{name}.json")) for name in sorted(names)]


async def _all_end(processes: list[WatchedProcess], timeout_s: float) -> bool:
    return all(await asyncio.gather(*(process.ends_within(timeout_s) for process in processes)))


async def _listener_of(path: Path) -> WatchedProcess | None:
    """Ask the kernel who listens at a socket of ours; None where nobody does."""
    loop = asyncio.get_running_loop()
    directory = os.open(path.parent, os.O_DIRECTORY | os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            await loop.sock_connect(asking, f"/proc/self/fd/{directory}/{path.name}")
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, user, _ = _CREDENTIALS.unpack(credentials)
            if user != os.geteuid():
                return None
            watched = WatchedProcess(ProcessId(pid, start_ticks_of(pid) or 0))
            try:
                asking.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                # It still listens, so the process that was opened meanwhile is no later one with its pid.
                return watched
            watched.close()
            return None
    except OSError:
        return None
    finally:
        os.close(directory)
