"""What the future probably holds: rates, costs, start times. Whole numbers only; same inputs, same prediction.

Req: ORCH-3029
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchqueue.core.effects import Basis
from orchqueue.core.events import ReplicaFacts


class Rates(msgspec.Struct):
    """How fast a replica works.

    Units: microseconds per token.
    Req: ORCH-4166
    """

    prefill_us: int = 0
    decode_us: int = 0
    basis: Basis = "none"

    def start_from(self, facts: ReplicaFacts) -> None:
        """Begin with the self-test's rates, unless something was measured before."""
        if self.basis != "measured":
            self.prefill_us = facts.prefill_us_per_token
            self.decode_us = facts.decode_us_per_token
            self.basis = "selftest"

    def learn(self, tokens_in: int, prefill_ms: int, tokens_out: int, decode_ms: int) -> None:
        """Take in what a finished attempt took."""
        if tokens_in > 0 and prefill_ms > 0:
            self.prefill_us = smooth(self.prefill_us, prefill_ms * 1000 // tokens_in)
        if tokens_out > 0 and decode_ms > 0:
            self.decode_us = smooth(self.decode_us, decode_ms * 1000 // tokens_out)
            self.basis = "measured"


def smooth(old: int, new: int) -> int:
    """Move an eighth of the way to a new figure, the whole way from nothing.

    >>> smooth(0, 80), smooth(80, 160)
    (80, 90)
    """
    return old + (new - old) // 8 if old else new


def service_ms(prompt_tokens: int, decode_tokens: int, rates: Rates) -> int:
    """Predict how long a task occupies a slot."""
    return (prompt_tokens * rates.prefill_us + decode_tokens * rates.decode_us) // 1000


def remaining_tokens(expected: int, done: int, limit: int) -> int:
    """Predict how many tokens a running task still decodes; one that outlived its expectation has half its limit left.

    >>> remaining_tokens(10, 4, 256), remaining_tokens(10, 12, 256)
    (6, 122)
    """
    if done < expected:
        return expected - done
    return max(1, (limit - done) // 2)


def start_after_ms(slots_free_in_ms: Sequence[int], work_ahead_ms: int) -> int:
    """Predict when a slot is free for a newcomer, with all work ahead poured onto the slots as they free.

    Shape: `slots_free_in_ms` one entry per slot, not empty.

    >>> start_after_ms([0, 500], 0), start_after_ms([100, 500], 200), start_after_ms([100, 500], 1000)
    (0, 300, 800)
    """
    levels = sorted(slots_free_in_ms)
    poured = work_ahead_ms
    for count, level in enumerate(levels, start=1):
        if count == len(levels):
            return level + -(-poured // count)
        step = (levels[count] - level) * count
        if poured <= step:
            return level + -(-poured // count)
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
