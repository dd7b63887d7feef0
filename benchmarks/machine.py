"""Cores, processor time and memory of processes, as the kernel tells them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

SERVER_CORE = 0
CLIENT_CORE = min(1, (os.cpu_count() or 1) - 1)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pin_to(core: int) -> Callable[[], None]:
    """Make a function that binds the calling process to one core; given to new processes."""

    def pin() -> None:
        os.sched_setaffinity(0, {core})

    return pin


def tree(pid: int) -> list[int]:
    """List a process and all its descendants that are alive."""
    found = [pid]
    for one in found:
        for thread in Path(f"/proc/{one}/task").glob("*"):
            try:
                found += [int(child) for child in (thread / "children").read_text().split()]
            except OSError:
                continue
    return found


def cpu_s(pid: int) -> float:
    """Add up the user and system time of a process tree.

    Units: seconds, in steps of 10 ms.
    """
    total = 0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Add up the resident memory of a process tree."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for one in tree(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page_bytes
        except OSError:
            continue
    return total


def core_wait_s(pid: int) -> float:
    """Add up how long the threads of a process were ready and another process had their core.

    Figures of rounds in which this is much are those of the neighbours.
    """
    total_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        try:
            total_ns += int((thread / "schedstat").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total_ns / 1e9
