"""What the future probably holds: rates, costs, start times. Whole numbers only; same inputs, same prediction.

Req: ORCH-3029
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace
from itertools import product
from math import isqrt
from typing import NamedTuple

import msgspec

from orchqueue.core.events import ReplicaFacts
from orchqueue.core.records import Basis

STEPS_AT_MOST = 32
RATE_ONE = 1 << 40
PROMISES_AT_LEAST = 256
# The mean miss of a length that is pure chance is 0.736 of its mean.
SPREAD_OF_CHANCE = 1_359
MEMORY = 32


class Pace(msgspec.Struct):
    """Time over tokens, of the latest attempts more than of earlier ones. Long ones count for as much as they took.

    Units: microseconds.
    """

    us: int = 0
    tokens: int = 0

    def learn(self, took_ms: int, tokens: int) -> None:
        """Take an attempt in; tokens in thousandths, so that forgetting does not stop at small numbers."""
        self.us += 1_000 * took_ms - self.us // MEMORY
        self.tokens += 1_000 * tokens - self.tokens // MEMORY

    @property
    def us_per_token(self) -> int:
        """Divide; 0 before anything was learned.

        >>> pace = Pace(); pace.learn(10, 2); pace.us_per_token
        5000
        """
        return 1_000 * self.us // self.tokens if self.tokens else 0


class Rates(msgspec.Struct):
    """How fast a replica works, all in all and at each number of tasks that were decoded at once.

    Units: microseconds per token; `overhead_us` per task: what a slot is held beside reading and decoding.
    Req: ORCH-4166
    """

    prefill_us: int = 0
    decode_us: int = 0
    basis: Basis = "none"
    overhead_us: int = 0
    prefill: Pace = msgspec.field(default_factory=Pace)
    decode: Pace = msgspec.field(default_factory=Pace)
    prefill_at: dict[int, Pace] = {}
    decode_at: dict[int, Pace] = {}

    def start_from(self, facts: ReplicaFacts) -> None:
        """Begin with the self-test's rates, unless something was measured before."""
        if self.basis != "measured":
            self.prefill_us = facts.prefill_us_per_token
            self.decode_us = facts.decode_us_per_token
            self.basis = "selftest"

    def learn(self, tokens_in: int, prefill_ms: int, tokens_out: int, decode_ms: int, busy: int) -> None:
        """Take in what a finished attempt took while `busy` tasks, itself included, shared the devices."""
        if tokens_in > 0 and prefill_ms > 0:
            self.prefill.learn(prefill_ms, tokens_in)
            self.prefill_us = self.prefill.us_per_token
            self.prefill_at.setdefault(busy, Pace()).learn(prefill_ms, tokens_in)
        if tokens_out > 0 and decode_ms > 0:
            self.decode.learn(decode_ms, tokens_out)
            self.decode_us = self.decode.us_per_token
            self.decode_at.setdefault(busy, Pace()).learn(decode_ms, tokens_out)
            self.basis = "measured"

    def learn_overhead(self, held_ms: int, worked_ms: int) -> None:
        """Take in how long an attempt held its slot beyond the engine's work: connections, templates, the way to idle."""
        self.overhead_us = smooth(self.overhead_us, 1_000 * max(0, held_ms - worked_ms))

    def at(self, busy: int) -> Rates:
        """Tell the rates while so many tasks are decoded at once: measured there, else at the nearest number, else overall.

        >>> rates = Rates(1); rates.learn(0, 0, 10, 80, 1); rates.learn(0, 0, 10, 140, 4); rates.at(3).decode_us
        14000
        """
        if not self.decode_at:
            return self
        nearest = min(self.decode_at, key=lambda known: (abs(known - busy), known))
        prefill = self.prefill_at.get(nearest, self.prefill).us_per_token or self.prefill_us
        return Rates(prefill, self.decode_at[nearest].us_per_token, self.basis, self.overhead_us)


def smooth(old: int, new: int) -> int:
    """Move an eighth of the way to a new figure, the whole way from nothing.

    >>> smooth(0, 80), smooth(80, 160)
    (80, 90)
    """
    return old + (new - old) // 8 if old else new


def service_ms(prompt_tokens: int, decode_tokens: int, rates: Rates, tasks: int = 0) -> int:
    """Predict how long so many tokens, and what comes beside them with each of some tasks, occupy a slot."""
    return (prompt_tokens * rates.prefill_us + decode_tokens * rates.decode_us + tasks * rates.overhead_us) // 1000


def remaining_tokens(expected: int, spread: int, done: int, limit: int) -> int:
    """Predict how many tokens a running task still decodes: what is left of its expectation, at least its usual miss.

    >>> remaining_tokens(10, 3, 4, 256), remaining_tokens(10, 3, 12, 256), remaining_tokens(10, 3, 12, 14)
    (6, 3, 2)
    """
    return max(1, min(max(expected - done, spread), limit - done))


class SlotFrees(NamedTuple):
    """When a slot probably frees, and by how much that is usually missed; 0, 0 for a free one."""

    in_ms: int
    spread_ms: int


def start_after_ms(slots: Sequence[SlotFrees], ahead: int, each_ms: int) -> int:
    """Predict when a slot is free for a newcomer behind `ahead` tasks that take `each_ms` on average.

    Two ideas of the same queue are mixed. If every task takes just what is expected, each one ahead takes the slot that
    frees first. If lengths are pure chance, some slot frees much sooner than any is expected to: a slot that should free in
    R frees at a rate of 1/R, and rates add up. How far lengths are usually off says how much chance there is.

    Shape: `slots` not empty.

    >>> start_after_ms([SlotFrees(0, 0), SlotFrees(500, 0)], 0, 100)
    0
    >>> start_after_ms([SlotFrees(100, 0), SlotFrees(500, 0)], 2, 150)
    400
    >>> start_after_ms([SlotFrees(300, 300)] * 3, 0, 300), start_after_ms([SlotFrees(300, 300)] * 3, 3, 300)
    (66, 366)
    """
    levels = sorted(slot.in_ms for slot in slots)
    planned_ms = _in_turn(levels.copy(), ahead, each_ms)
    expected_ms = sum(levels)
    eighths = min(8, sum(slot.spread_ms for slot in slots) * 8 * SPREAD_OF_CHANCE // (1_000 * max(1, expected_ms)))
    if not eighths:
        return planned_ms
    return _between(planned_ms, _by_chance(levels, ahead, each_ms), eighths)


def _between(planned_ms: int, by_chance_ms: int, eighths: int) -> int:
    """Take the weighted geometric mean: the two may lie orders of magnitude apart.

    >>> _between(1_600, 100, 4), _between(1_600, 100, 8)
    (400, 100)
    """
    return isqrt(isqrt(isqrt(planned_ms ** (8 - eighths) * by_chance_ms**eighths)))


def _in_turn(levels: list[int], ahead: int, each_ms: int) -> int:
    """Let each task ahead take the slot that frees first; a long queue's rest is poured over the slots."""
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


def _by_chance(levels: list[int], ahead: int, each_ms: int) -> int:
    """Add up the mean times between slots that free at rates, the one that should free first renewed first.

    Told is the median of that: of n such times together it is about a third of one below the mean.
    """
    rates = [RATE_ONE // max(1, level) for level in levels]
    fresh = RATE_ONE // max(1, each_ms)
    together, waited = sum(rates), 0
    for rate in rates[: ahead + 1]:
        waited += RATE_ONE * 1_000 // together
        together += fresh - rate
    mean_ms = waited // 1_000 + max(0, ahead + 1 - len(rates)) * each_ms // len(rates)
    return mean_ms * (3 * ahead + 2) // (3 * ahead + 3)


class Passers(NamedTuple):
    """Work that is still to come and will pass: which part of the slots it takes, and at most how much of their time."""

    permille: int
    at_most_ms: int


def passed_on_the_way(start_in_ms: int, passers: Sequence[Passers]) -> int:
    """Put a start off by the work that comes and passes until then, as it has come lately.

    While it waits a task is passed by each kind of work at its rate, up to its bound; the wait that this gives is the
    least over which kinds reach their bound.

    >>> passed_on_the_way(1_000, [Passers(500, 10_000)]), passed_on_the_way(1_000, [Passers(500, 300)])
    (2000, 1300)
    >>> passed_on_the_way(1_000, [Passers(500, 300), Passers(1_500, 2_000)]), passed_on_the_way(1_000, [])
    (3300, 1000)
    """
    waits = []
    for way in product(*(((0, one.at_most_ms), (one.permille, 0)) for one in passers)):
        slower = 1_000 - sum(permille for permille, _ in way)
        if slower > 0:
            waits.append((start_in_ms + sum(bound_ms for _, bound_ms in way)) * 1_000 // slower)
    return min(waits)


class Readmission(msgspec.Struct):
    """Hands out retry times so that refused clients come back one by one as places free, not all at once.

    Req: ORCH-2007, ORCH-4119
    """

    promised_until_ms: int = 0

    def promise(self, now_ms: int, first_free_in_ms: int, interval_ms: int, places: int) -> int:
        """Promise the next free place, at the latest when a queue of so many places could be empty twice over.

        Not everybody who was promised one comes back, and nobody's hammering may put all others off for ever.

        Units: `interval_ms` between two places freed at the queue's measured rate.
        Shape: milliseconds from now, at least 1.
        """
        first_ms = now_ms + first_free_in_ms
        at_most = max(2 * places, PROMISES_AT_LEAST)
        base = min(max(self.promised_until_ms, first_ms), first_ms + at_most * max(1, interval_ms))
        self.promised_until_ms = base + max(1, interval_ms)
        return max(1, self.promised_until_ms - now_ms)
