"""Holds the daemon's counters against what happened, for one life.

Req: ORCH-4091
"""

from __future__ import annotations

from collections import Counter

from orchqueue.core import effects as fx

COUNTED = {"tasks_enqueued_total", "tasks_started_total", "tokens_out_total"}
BY_REASON = {"tasks_rejected_total", "tasks_canceled_total"}


class Tallies:
    """What was counted, and what happened."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._history: Counter[tuple[str, str]] = Counter()

    def counted(self, effect: fx.Count) -> None:
        """See the daemon count."""
        if effect.name in COUNTED:
            self._counts[effect.name, ""] += effect.amount
        elif effect.name in BY_REASON:
            self._counts[effect.name, effect.labels[-1]] += effect.amount

    def happened(self, name: str, reason: str = "", amount: int = 1) -> None:
        """See what is to be counted."""
        self._history[name, reason] += amount

    def life_over(self) -> str:
        """Compare and begin anew; tell what is wrong, empty when nothing is."""
        wrong = [key for key in self._counts.keys() | self._history.keys() if self._counts[key] != self._history[key]]
        told = [f"{' '.join(k)} counts {self._counts[k]}, {self._history[k]} happened" for k in sorted(wrong)]
        self._counts.clear()
        self._history.clear()
        return "; ".join(told)
