"""How long to wait before asking again, and when to stop."""

from __future__ import annotations

import random
from time import monotonic
from typing import Final

import msgspec

_LONGEST_MS: Final = 15_000


class RetryPolicy(msgspec.Struct, frozen=True):
    """Whether a refused admission is asked again, and for how long in total.

    The same task id is sent each time, so the task can only be accepted once.

    Units: `max_wait_ms` counts from the first try; 0 never asks again.
    Req: ORCH-4227, ORCH-4228
    """

    max_wait_ms: int = 60_000
    jitter_ratio: float = 0.25
    first_backoff_ms: int = 250

    def wait_ms(self, attempt: int, hint_ms: int | None, waited_ms: int, chance: random.Random) -> int | None:
        """Choose the wait before the next try; None when patience is over.

        1. Never earlier than the server's hint: that is when it expects room.
        2. Without a hint: doubling from `first_backoff_ms` to 15 s.
        3. Up to `jitter_ratio` more by chance, so that those refused together do not return together.
        4. A wait that would pass `max_wait_ms` is not begun.

        Shape: `attempt` counts from 0.
        """
        base_ms = hint_ms if hint_ms is not None else backoff_ms(attempt, self.first_backoff_ms)
        wait_ms = base_ms + int(base_ms * self.jitter_ratio * chance.random())
        return wait_ms if waited_ms + wait_ms <= self.max_wait_ms else None


NO_RETRY: Final = RetryPolicy(max_wait_ms=0)


class ReconnectPolicy(msgspec.Struct, frozen=True):
    """How long a server that was there and went away is waited for, by streams and by calls.

    Units: `patience_ms` of trying in vain; the time in which a connection stands is not counted, and 0 never tries again.
    `idle_ms` of silence on a stream counts as broken (heartbeats come every 15 s).
    `longest_backoff_ms` belongs well below the 10 s after which a server that came back cancels what nobody reads.
    Req: ORCH-4310, ORCH-4312
    """

    patience_ms: int = 120_000
    idle_ms: int = 45_000
    first_backoff_ms: int = 250
    longest_backoff_ms: int = 2_000

    def wait_ms(self, failures: int, hint_ms: int | None, chance: random.Random) -> int:
        """Choose the wait before the next try; the first one after news is almost immediate."""
        if hint_ms is not None:
            return hint_ms + round(hint_ms * 0.25 * chance.random())
        if failures <= 1:
            return round(0.2 * self.first_backoff_ms * chance.random())
        base_ms = min(self.longest_backoff_ms, backoff_ms(failures - 2, self.first_backoff_ms))
        return round(base_ms * (0.5 + chance.random()))


class Patience:
    """What one call or stream has left of its patience.

    Order: `begin` before each try, `heard` when something came back, `wait_ms` when the try failed, `renew` on news.
    """

    def __init__(self, policy: ReconnectPolicy, chance: random.Random) -> None:
        self._policy = policy
        self._chance = chance
        self._begun_s: float | None = None
        self._tried_ms = 0.0
        self.failures = 0

    @property
    def tried_ms(self) -> int:
        """Tell how long was tried in vain since the last news."""
        return round(self._tried_ms)

    def begin(self) -> None:
        """Start the clock of a try."""
        self._begun_s = monotonic()

    def heard(self) -> None:
        """Count the try up to here: from now on the connection stands."""
        if self._begun_s is not None:
            self._tried_ms += (monotonic() - self._begun_s) * 1000
            self._begun_s = None

    def renew(self) -> None:
        """Have all of it again."""
        self._begun_s = None
        self._tried_ms = 0.0
        self.failures = 0

    def wait_ms(self, hint_ms: int | None) -> int | None:
        """Count a failure and choose the wait before the next try; None when it would use the patience up."""
        self.heard()
        self.failures += 1
        wait_ms = self._policy.wait_ms(self.failures, hint_ms, self._chance)
        if self._tried_ms + wait_ms >= self._policy.patience_ms:
            return None
        self._tried_ms += wait_ms
        return wait_ms


def backoff_ms(attempt: int, first_ms: int) -> int:
    """Double from `first_ms` up to 15 s.

    >>> [backoff_ms(n, 250) for n in (0, 1, 2, 9)]
    [250, 500, 1000, 15000]
    """
    return int(min(_LONGEST_MS, first_ms * 2 ** min(attempt, 16)))
