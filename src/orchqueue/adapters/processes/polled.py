"""A replica whose health is polled, wherever it runs.

Req: ORCH-3038
"""

from __future__ import annotations

import asyncio

from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.adapters.processes.healthy import unhealthy
from orchqueue.core.events import CrashCause
from orchqueue.ports.process import OnExit

HEALTH_INTERVAL_S = 3.0
HEALTH_FAILURES = 3


class PolledReplica:
    """What spawned and external replicas share: the health watch, and telling of the end at most once."""

    def __init__(self, replica: EngineReplica, on_exit: OnExit, health_interval_s: float) -> None:
        self._replica = replica
        self._on_exit: OnExit | None = on_exit
        self._interval_s = health_interval_s
        self._watch = asyncio.create_task(self._poll_health())

    @property
    def replica(self) -> EngineReplica:
        """Give the engine connection."""
        return self._replica

    @property
    def pid(self) -> int | None:
        """Give the engine's process id."""
        return self._replica.description.pid

    @property
    def url(self) -> str:
        """Give the base URL."""
        return self._replica.endpoint.url

    def tell(self, cause: CrashCause, detail: str) -> None:
        """Report the end, unless it was asked for or told already."""
        on_exit, self._on_exit = self._on_exit, None
        if on_exit is not None:
            on_exit(cause, detail)

    async def stop(self) -> None:
        """Disconnect."""
        self._on_exit = None
        self._watch.cancel()
        await self._replica.close()

    async def _poll_health(self) -> None:
        failures = 0
        broken: tuple[CrashCause, str] | None = None
        while failures < HEALTH_FAILURES and broken is None:
            await asyncio.sleep(self._interval_s)
            problem = await unhealthy(self._replica)
            failures = failures + 1 if problem else 0
            broken = await self._broken_device()
        await self._let_exit_tell()
        self.tell(*(broken or ("health", f"{failures} health polls failed in a row: {problem}")))

    async def _broken_device(self) -> tuple[CrashCause, str] | None:
        """Look whether the engine told of a device that failed it: not where its log is elsewhere."""
        return None

    async def _let_exit_tell(self) -> None:
        """Wait for what says more than a failed poll: nothing, where the process is not ours."""
