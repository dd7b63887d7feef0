"""Classes share starts by weight, tenants share tokens by weight: nobody starves and no slot idles.

Req: ORCH-4153, ORCH-4156
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchqueue.core import fairness
from orchqueue.core.fairness import ShareState
from orchqueue.core.ranks import Ranks

# Divisible by every weight up to 16, so that the usual weights divide without a remainder.
TOKEN = 720_720

STARVES = False


def new_state() -> ShareState:
    """Begin with no class ahead."""
    return ShareState()


def pick(state: ShareState, weights: dict[str, int], heads: Mapping[str, int]) -> Sequence[str]:
    """Rank the classes by their shares of starts."""
    return fairness.order(state, weights, heads)


def serve(state: ShareState, weights: dict[str, int], name: str) -> None:
    """Book a start of a class."""
    fairness.serve(state, weights, name)


def charge(count: int, units: int, weight: int) -> int:
    """Price tokens inversely to the tenant's weight; even a task of no tokens costs one.

    >>> charge(1, 10, 2) == charge(1, 5, 1), charge(2, 0, 1) // TOKEN
    (True, 2)
    """
    return max(units, count) * TOKEN // weight


def passing(weight: int, other_weight: int, position: int, other: Ranks, number: int) -> int:
    """Let as many pass as the weights allow: a lighter class needs a whole round of this one for each of its starts."""
    return min(len(other), _turns(weight, other_weight, position))


def to_come(weight: int, other_weight: int, position: int, passing: int) -> int:
    """Let as many come and pass as the weights leave."""
    return max(0, _turns(weight, other_weight, position) - passing)


def _turns(weight: int, other_weight: int, position: int) -> int:
    return (position if other_weight < weight else position + 1) * other_weight // weight
