"""What goes on around the seeds: other tasks, sessions, cancels. None of it may change a strict text.

Req: ORCH-4403
"""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Literal
from uuid import uuid4

import msgspec
from msgspec import UNSET, UnsetType

from orchqueue.client import AsyncClient, Placement, Sampling, TaskRequest
from orchqueue.client.errors import NotFound
from orchqueue.client.types import Token
from orchqueue.verify.prompts import prompt_of

Condition = Literal["load", "sessions", "cancels"]
CONDITIONS: tuple[Condition, ...] = ("load", "sessions", "cancels")
IgnoreEos = Literal[True] | UnsetType

LOAD_TOKENS = 12
LEFT_TOKENS = 200
TURNS = 8
"""As many as one session may have."""


async def load(client: AsyncClient, pool_id: str) -> None:
    """Keep a pool busy with best_effort tasks that may use the prompt cache, until cancelled."""
    for number in count():
        await _run(client, _neighbour(pool_id, number, LOAD_TOKENS))


async def leave_in_the_middle(client: AsyncClient, pool_id: str, seed: int, ignore_eos: IgnoreEos) -> None:
    """Start a task beside, and cancel it at its first text.

    `ignore_eos` where the engine can: a text that the model ends after a word or two has no middle.
    """
    request = _neighbour(pool_id, seed + 7, LEFT_TOKENS, ignore_eos)
    async with await client.run(request) as stream:
        try:
            async for event in stream:
                if isinstance(event, Token):
                    break
        finally:
            await client.cancel(str(request.task_id))


class Sessions:
    """Sessions of strict tasks that are asked to reuse what is cached, each with a best_effort turn that may fill the cache."""

    def __init__(self) -> None:
        self._session_id = ""
        self._turns = 0

    async def join(self, client: AsyncClient, request: TaskRequest) -> TaskRequest:
        """Put a task into the session of those before it; the first turn of each is a best_effort task of the same prompt."""
        if self._turns % (TURNS - 1) == 0:
            self._session_id = str(uuid4())
            await _run(
                client,
                msgspec.structs.replace(
                    request,
                    task_id=str(uuid4()),
                    session_id=self._session_id,
                    kv_hint="reuse",
                    determinism="best_effort",
                    max_tokens=LOAD_TOKENS,
                ),
            )
        self._turns += 1
        return msgspec.structs.replace(request, session_id=self._session_id, kv_hint="reuse")


def _neighbour(pool_id: str, number: int, max_tokens: int, ignore_eos: IgnoreEos = UNSET) -> TaskRequest:
    return TaskRequest(
        task_id=str(uuid4()),
        prompt=prompt_of(number),
        seed=number % 1000,
        max_tokens=max_tokens,
        determinism="best_effort",
        kv_hint="reuse",
        sampling=Sampling(temperature=1.0, ignore_eos=ignore_eos),
        placement=Placement(mode="pin", pool_ids=[pool_id]),
    )


async def _run(client: AsyncClient, request: TaskRequest) -> None:
    """Run a task whose text matters to nobody; when cancelled it is cancelled too."""
    try:
        async with await client.run(request) as stream:
            async for _ in stream:
                pass
    except BaseException:
        # Stopped before the server had accepted it, there is nothing to cancel.
        with suppress(NotFound):
            await client.cancel(str(request.task_id))
        raise
