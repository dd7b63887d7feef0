"""What the future probably holds: rates, costs, start times. Whole numbers only; same inputs, same prediction.

Req: ORCH-3029
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace

import msgspec

from orchqueue.core.effects import Basis
from orchqueue.core.events import ReplicaFacts

STEPS_AT_MOST = 32


class Rates(msgspec.Struct):
    """How fast a replica works, all in all and at each number of tasks that were decoded at once.

    Units: microseconds per token.
    Req: ORCH-4166
    """

    prefill_us: int = 0
    decode_us: int = 0
    basis: Basis = "none"
    decode_us_at: dict[int, int] = {}

    def start_from(self, facts: ReplicaFacts) -> None:
        """Begin with the self-test's rates, unless something was measured before."""
        if self.basis != "measured":
            self.prefill_us = facts.prefill_us_per_token
            self.decode_us = facts.decode_us_per_token
            self.basis = "selftest"

    def learn(self, tokens_in: int, prefill_ms: int, tokens_out: int, decode_ms: int, busy: int) -> None:
        """Take in what a finished attempt took while `busy` tasks, itself included, shared the devices."""
        if tokens_in > 0 and prefill_ms > 0:
            self.prefill_us = smooth(self.prefill_us, prefill_ms * 1000 // tokens_in)
        if tokens_out > 0 and decode_ms > 0:
            took_us = decode_ms * 1000 // tokens_out
            self.decode_us = smooth(self.decode_us, took_us)
            self.decode_us_at[busy] = smooth(self.decode_us_at.get(busy, 0), took_us)
            self.basis = "measured"

    def at(self, busy: int) -> Rates:
        """Tell the rates while so many tasks are decoded at once: measured there, else at the nearest number, else overall.

        >>> Rates(1, 10, "measured", {1: 8, 4: 14}).at(3).decode_us
        14
        """
        if not self.decode_us_at:
            return self
        nearest = min(self.decode_us_at, key=lambda known: (abs(known - busy), known))
        return Rates(self.prefill_us, self.decode_us_at[nearest], self.basis)


def smooth(old: int, new: int) -> int:
    """Move an eighth of the way to a new figure, the whole way from nothing.

    >>> smooth(0, 80), smooth(80, 160)
    (80, 90)
    """
    return old + (new - old) // 8 if old else new


def service_ms(prompt_tokens: int, decode_tokens: int, rates: Rates) -> int:
    """Predict how long a task occupies a slot."""
    return (prompt_tokens * rates.prefill_us + decode_tokens * rates.decode_us) // 1000


def remaining_tokens(expected: int, spread: int, done: int, limit: int) -> int:
    """Predict how many tokens a running task still decodes: what is left of its expectation, at least its usual miss.

    >>> remaining_tokens(10, 3, 4, 256), remaining_tokens(10, 3, 12, 256), remaining_tokens(10, 3, 12, 14)
    (6, 3, 2)
    """
    return max(1, min(max(expected - done, spread), limit - done))


def start_after_ms(slots_free_in_ms: Sequence[int], ahead: int, each_ms: int) -> int:
    """Predict when a slot is free for a newcomer behind `ahead` tasks that take `each_ms` on average.

    1. Each of the first tasks ahead takes the slot that frees first.
    2. What is left of a long queue is poured over the slots, the one that frees first filling up first.

    Shape: `slots_free_in_ms` one entry per slot, not empty.

    >>> start_after_ms([0, 500], 0, 100), start_after_ms([100, 500], 2, 150), start_after_ms([100, 500], 5, 200)
    (0, 400, 700)
    """
    levels = sorted(slots_free_in_ms)
    stepped = min(ahead, STEPS_AT_MOST + len(levels))
    for _ in range(stepped):
        heapreplace(levels, levels[0] + each_ms)
    poured = (ahead - stepped) * each_ms
    levels.sort()
    for count, level in enumerate(levels, start=1):
        step = (levels[count] - level) * count if count < len(levels) else poured
        if poured <= step:
            return level + poured // count
        poured -= step
    raise AssertionError("no slot given")


class Readmission(msgspec.Struct):
    """Hands out retry times so that refused clients come back one by one as places free, not all at once.

    Req: ORCH-2007, ORCH-4119
    """

    promised_until_ms: int = 0

    def promise(self, now_ms: int, first_free_in_ms: int, interval_ms: int) -> int:
        """Promise the next free place.

        Units: `interval_ms` between two places freed at the queue's measured rate.
        Shape: milliseconds from now, at least 1.
        """
        base = max(self.promised_until_ms, now_ms + first_free_in_ms)
        self.promised_until_ms = base + max(1, interval_ms)
        return max(1, self.promised_until_ms - now_ms)
