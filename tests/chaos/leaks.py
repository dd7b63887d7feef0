"""Who and what is left when a run is over: processes that carry its mark, and files that nobody should have kept.

Req: ORCH-4349
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from orchqueue.adapters.processes.identity import ProcessId, lives, start_ticks_of
from tests.chaos.timing import pass_time

MARK = "ORCHQ_CHAOS_PLACE"
KEPT = ("journal.sqlite", "journal.sqlite-*", "lock", "secret", "replicas", "replicas/*.log")
GONE_WITHIN_S = 60.0


def marked(data_dir: Path) -> Iterator[ProcessId]:
    """List the processes of a run: its daemon handed the mark down to all that it started."""
    wanted = f"{MARK}={data_dir}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                variables = Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            ticks = start_ticks_of(int(entry))
            if wanted in variables.split(b"\0") and ticks is not None:
                yield ProcessId(int(entry), ticks)


def spawned(data_dir: Path) -> list[int]:
    """List the pids of a run's real engines and of the launchers above them, whoever owns them now."""
    return [
        process.pid
        for process in marked(data_dir)
        if "llamacpp_server" in (told := _command(process)) or "processes.launcher" in told
    ]


async def processes_left(data_dir: Path) -> list[str]:
    """Name those that still live when they had time to go."""
    deadline_s = asyncio.get_running_loop().time() + GONE_WITHIN_S
    while left := list(marked(data_dir)):
        if asyncio.get_running_loop().time() >= deadline_s:
            return [_describe(process) for process in left if lives(process)]
        await pass_time(0.1)
    return []


def files_left(data_dir: Path, scratch: Path) -> list[str]:
    """Name the files that are neither the journal's nor the daemon's own for the next start."""
    found = [str(path.relative_to(data_dir)) for path in sorted(data_dir.rglob("*"))]
    odd = [name for name in found if not any(fnmatch(name, pattern) for pattern in KEPT)]
    return odd + [str(path) for path in sorted(scratch.rglob("*"))]


def _command(process: ProcessId) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "?"


def _describe(process: ProcessId) -> str:
    return f"pid {process.pid}, begun at tick {process.start_ticks}: {_command(process)[:120]}"
