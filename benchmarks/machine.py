"""Cores, processor time and memory of processes, as the kernel tells them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import clock_gettime

SERVER_CORE = 0
CLIENT_CORE = min(1, (os.cpu_count() or 1) - 1)


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

    Units: seconds; /proc would tell them in steps of 10 ms, which is all that a few tasks take.
    """
    total_s = 0.0
    for one in tree(pid):
        with suppress(OSError):
            total_s += clock_gettime(_cpu_clock_of(one))
    return total_s


def _cpu_clock_of(pid: int) -> int:
    """Name the processor time of another process as clock_getcpuclockid(3) does."""
    return (~pid << 3) | 2


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
