"""Virtual time: what happens next, with ties broken by the seed."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

BEGIN_MS = 1_700_000_000_000


class Agenda:
    """Things to do at virtual instants; two at the same instant come in an order that the seed decides."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._heap: list[tuple[int, float, int, Callable[[], None]]] = []
        self._count = 0
        self.now_ms = BEGIN_MS

    def after(self, delay_ms: int, act: Callable[[], None]) -> None:
        """Do something `delay_ms` from now."""
        self.at(self.now_ms + delay_ms, act)

    def at(self, at_ms: int, act: Callable[[], None]) -> None:
        """Do something at an instant, at once when it is past."""
        self._count += 1
        heappush(self._heap, (max(at_ms, self.now_ms), self._rng.random(), self._count, act))

    def stand_still(self, lasts_ms: int) -> None:
        """Let time pass in which nothing is done: whatever was due meanwhile is late."""
        self.now_ms += lasts_ms

    def step(self) -> bool:
        """Do the next thing; False when nothing is left."""
        if not self._heap:
            return False
        at_ms, _, _, act = heappop(self._heap)
        self.now_ms = max(self.now_ms, at_ms)
        act()
        return True
