"""Fake engines: small programs that do what a test needs an engine process to do."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio

from orchqueue.adapters.processes.identity import ProcessId, start_ticks_of
from orchqueue.adapters.processes.launched import LaunchedProcess, LaunchSpec, launch_process
from tests.conformance.engine.conftest import simulate

__all__ = ["simulate"]

READY = "import os,signal,sys,threading; os.write(int(os.environ['ORCHQUEUE_READY_FD']), b'4711\\n');"
STAY = READY + "threading.Event().wait()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + STAY


def spec_of(
    program: str, *, replica_id: str = "pool-0", orphan_grace_s: float = 0.3, stop_grace_s: float = 5.0
) -> LaunchSpec:
    """Describe a fake engine."""
    return LaunchSpec(
        replica_id, [sys.executable, "-c", program], {}, orphan_grace_s=orphan_grace_s, stop_grace_s=stop_grace_s
    )


Launch = Callable[..., Awaitable[LaunchedProcess]]


@pytest_asyncio.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Launch fake engines that end with the test."""
    started: list[LaunchedProcess] = []

    async def start(spec: LaunchSpec) -> LaunchedProcess:
        process = await launch_process(tmp_path / "replicas", spec)
        started.append(process)
        return process

    yield start
    await asyncio.gather(*(process.stop() for process in started))


def pin(pid: int | None) -> ProcessId:
    """Name a running process."""
    assert pid is not None
    ticks = start_ticks_of(pid)
    assert ticks is not None
    return ProcessId(pid, ticks)
