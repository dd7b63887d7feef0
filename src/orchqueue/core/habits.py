"""How long outputs and prompts get: learned for each tenant, class and model from what finished, with how far that is off.

Whole numbers only, in thousandths of a token, so that small steps are not lost to rounding.

Req: ORCH-4361
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from orchqueue.core.records import CountBasis

TENANTS_AT_MOST = 4_096
MEMORY = 64


class Habit(msgspec.Struct):
    """The average of the latest outputs, and how far predictions missed them on average.

    Units: thousandths of a token.
    """

    mean_milli: int = 0
    missed_milli: int = 0
    seen: int = 0

    def learn(self, tokens: int, predicted: int) -> None:
        """Take an output in: a plain average of the first ones, then one that forgets."""
        self.seen = min(self.seen + 1, MEMORY)
        self.mean_milli += _towards(1_000 * tokens - self.mean_milli, self.seen)
        self.missed_milli += _towards(1_000 * abs(tokens - predicted) - self.missed_milli, self.seen)


def _towards(distance: int, parts: int) -> int:
    """Go a part of a distance, rounded towards its end so that nothing drifts.

    >>> _towards(15, 2), _towards(-15, 2)
    (8, -8)
    """
    return -(-distance // parts) if distance > 0 else distance // parts


class Expectation(msgspec.Struct, frozen=True):
    """What a task will probably decode, give or take `spread_tokens`."""

    tokens: int
    spread_tokens: int


class Habits:
    """What was learned in one pool, bounded: the tenant that finished nothing for longest is forgotten first.

    >>> habits = Habits(); habits.expect("acme", "batch", "m", None, 64)
    Expectation(tokens=64, spread_tokens=0)
    >>> habits.learn("acme", "batch", "m", 20, 64); habits.expect("acme", "batch", "m", None, 64)
    Expectation(tokens=20, spread_tokens=44)
    >>> habits.expect("other", "batch", "m", None, 16), habits.expect("acme", "batch", "m", 7, 64).tokens
    (Expectation(tokens=16, spread_tokens=0), 7)
    """

    def __init__(self, at_most: int = TENANTS_AT_MOST) -> None:
        self._at_most = at_most
        self._counted = self._real = 0
        self._habits: OrderedDict[tuple[str, ...], Habit] = OrderedDict()

    def __len__(self) -> int:
        return len(self._habits)

    def learn_prompt(self, counted: int, basis: CountBasis, real: int) -> None:
        """Take in how many tokens a prompt had that was counted as so many before."""
        if basis != "tokenizer" and counted > 0 and real > 0:
            self._counted += 1_000 * counted - self._counted // MEMORY
            self._real += 1_000 * real - self._real // MEMORY

    def expect_prompt(self, counted: int, basis: CountBasis) -> int:
        """Predict how many tokens a prompt really has: a bound from its bytes is mostly far above them.

        >>> habits = Habits(); habits.learn_prompt(40, "bytes_bound", 10); habits.expect_prompt(100, "bytes_bound")
        25
        >>> habits.expect_prompt(100, "tokenizer"), Habits().expect_prompt(100, "bytes_bound")
        (100, 100)
        """
        if basis == "tokenizer" or not self._counted:
            return counted
        return max(1, counted * self._real // self._counted)

    def learn(self, tenant: str, priority: str, model_ref: str, tokens: int, predicted: int) -> None:
        """Take in what a task decoded and what was predicted of it, for its tenant and for its whole class."""
        for key in ((priority, model_ref), (priority, model_ref, tenant)):
            habit = self._habits.get(key)
            if habit is None:
                habit = self._habits[key] = Habit()
            habit.learn(tokens, predicted)
            self._habits.move_to_end(key)
        while len(self._habits) > self._at_most:
            self._habits.popitem(last=False)

    def expect(self, tenant: str, priority: str, model_ref: str, hint: int | None, limit: int) -> Expectation:
        """Predict a task: its own hint, else its tenant's habit, else its class's, else its limit.

        Shape: at least 1 and at most `limit` tokens; the spread never reaches above the limit.
        """
        habit = self._habits.get((priority, model_ref, tenant)) or self._habits.get((priority, model_ref))
        if habit is None:
            return Expectation(min(limit, hint or limit), 0)
        tokens = min(limit, max(1, hint or habit.mean_milli // 1_000))
        return Expectation(tokens, min(limit - tokens, habit.missed_milli // 1_000))
