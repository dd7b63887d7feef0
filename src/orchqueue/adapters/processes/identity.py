"""Who a process is: a pid alone may have been given to another one meanwhile.

Standard library only: the launcher imports it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

MEMBER_MAX_BYTES = 64 * 1024


class ProcessId(NamedTuple):
    """A process, told from others that had or will have its pid. Units: `start_ticks` since boot."""

    pid: int
    start_ticks: int


class Identity(NamedTuple):
    """What the launcher writes beside its socket, for whoever comes after the owner.

    Req: ORCH-4139
    """

    replica_id: str
    token: str
    launcher: ProcessId
    engine: ProcessId
    fingerprint: str
    boot_id: str


def boot_id() -> str:
    """Name this run of the kernel: start times count from its beginning, so after another boot they say nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_ticks_of(pid: int) -> int | None:
    """Read when a process began; None when there is no such process or it has ended and waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name stands in parentheses and may hold anything, parentheses and spaces included.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def lives(process: ProcessId) -> bool:
    """Tell whether that very process still runs."""
    return start_ticks_of(process.pid) == process.start_ticks


def write_identity(path: Path, identity: Identity) -> None:
    """Write the file whole or not at all, readable by its owner only."""
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(identity, file)
    part.replace(path)


def read_identity(path: Path) -> Identity | None:
    """Read such a file; None when it is gone, torn, or of another boot."""
    try:
        replica_id, token, launcher, engine, fingerprint, boot = json.loads(path.read_bytes()[:MEMBER_MAX_BYTES])
        if boot != boot_id():
            return None
        return Identity(
            str(replica_id),
            str(token),
            ProcessId(int(launcher[0]), int(launcher[1])),
            ProcessId(int(engine[0]), int(engine[1])),
            str(fingerprint),
            str(boot),
        )
    except (OSError, ValueError, OverflowError, RecursionError, TypeError, IndexError, KeyError):
        return None
