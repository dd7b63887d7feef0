"""Timers by key on one heap, with one wake-up for the earliest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

from orchqueue.core.ids import TimerKey
from orchqueue.ports.clock import Clock


class Timers:
    """What the core wants to be woken for.

    A key has one instant; setting it again replaces it. Cost: O(log n) a change; what was replaced is dropped when it
    would have been due, or when half the heap is such.
    """

    def __init__(self, clock: Clock, fire: Callable[[TimerKey], None]) -> None:
        self._clock = clock
        self._fire = fire
        self._due: dict[TimerKey, int] = {}
        self._heap: list[tuple[int, TimerKey]] = []
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at_ms = 0

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: TimerKey, at_ms: int) -> None:
        """Fire the key at an instant, not at any earlier one that was set."""
        self._due[key] = at_ms
        heappush(self._heap, (at_ms, key))
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = sorted((at, k) for k, at in self._due.items())
        self._arm()

    def clear(self, key: TimerKey) -> None:
        """Never fire the key."""
        self._due.pop(key, None)

    def close(self) -> None:
        """Fire nothing any more."""
        self._due.clear()
        self._heap.clear()
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _arm(self) -> None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        if not self._heap:
            return
        at_ms = self._heap[0][0]
        if self._wake is not None:
            if self._wake_at_ms <= at_ms:
                return
            self._wake.cancel()
        delay_s = max(0, at_ms - self._clock.now_ms()) / 1000
        self._wake_at_ms = at_ms
        self._wake = asyncio.get_running_loop().call_later(delay_s, self._on_wake)

    def _on_wake(self) -> None:
        self._wake = None
        now_ms = self._clock.now_ms()
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, key = heappop(self._heap)
            if self._due.get(key) == at_ms:
                del self._due[key]
                self._fire(key)
        self._arm()
