"""Who waits for which answer."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from orchqueue.core.effects import Accept, Done
from orchqueue.core.ids import ReplyId
from orchqueue.core.outcome import Refusal

Answer: TypeAlias = Accept | Done | Refusal


class Replies:
    """Futures by reply id; one that nobody waits for any more is dropped silently."""

    def __init__(self) -> None:
        self._waiting: dict[ReplyId, asyncio.Future[Answer]] = {}
        self._last = 0

    def expect(self) -> tuple[ReplyId, asyncio.Future[Answer]]:
        """Make a place for an answer."""
        self._last += 1
        reply = ReplyId(self._last)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future
        future.add_done_callback(lambda _: self._waiting.pop(reply, None))
        return reply, future

    def resolve(self, reply: ReplyId, answer: Answer) -> None:
        """Hand an answer to who waits for it."""
        future = self._waiting.pop(reply, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def __len__(self) -> int:
        return len(self._waiting)
