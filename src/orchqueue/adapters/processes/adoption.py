"""What an engine of an earlier life must show before it serves again.

Req: ORCH-4140, ORCH-4381
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.adapters.processes.launched import LaunchedProcess
from orchqueue.core.events import ReplicaFacts
from orchqueue.ports.errors import EngineError, ProcessError

T = TypeVar("T")

IDLE_WITHIN_S = 30.0
IDLE_POLL_S = 0.05


class AdoptedReplica(LlamacppReplica):
    """A replica that is proven before it is handed over, so that a fresh one can take its place where it fails."""

    _proof: ReplicaFacts | None = None

    async def prove(self) -> None:
        """See it idle, test it, see it idle again.

        What it did for its dead owner may still run, or be on its way to a slot: then it comes up during the test.

        Errors: EngineError.
        """
        await self._see_idle()
        proof = await super().self_test()
        await self._see_idle()
        self._proof = proof

    async def self_test(self) -> ReplicaFacts:
        """Give what `prove` has just shown, once; then test anew."""
        proof, self._proof = self._proof, None
        return proof if proof is not None else await super().self_test()

    async def _see_idle(self) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + IDLE_WITHIN_S
        while (slots := await self.slots()) is None or any(slot.is_processing for slot in slots):
            if slots is None:
                raise EngineError(f"{self.endpoint.url} does not show its slots, so it cannot be seen idle")
            if loop.time() >= until_s:
                raise EngineError(
                    f"{self.endpoint.url} was still at work for its earlier owner after {IDLE_WITHIN_S:g} s"
                )
            await asyncio.sleep(IDLE_POLL_S)


async def while_alive(process: LaunchedProcess, work: Coroutine[None, None, T]) -> T:
    """Do something with an engine, as long as it does not end.

    Errors: ProcessError when it does.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        either: set[asyncio.Future[Any]] = {task, process.exited}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ProcessError("exit", "it ended before it was proven")
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
