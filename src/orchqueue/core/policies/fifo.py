"""First come, first served, over all classes and tenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchqueue.core.fairness import ShareState
from orchqueue.core.ranks import Ranks

STARVES = False


def new_state() -> ShareState:
    """Remember nothing."""
    return ShareState()


def pick(state: ShareState, weights: dict[str, int], heads: Mapping[str, int]) -> Sequence[str]:
    """Rank the classes by who came first.

    >>> pick(new_state(), {}, {"interactive": 9, "batch": 4})
    ['batch', 'interactive']
    """
    return sorted(heads, key=lambda name: heads[name])


def serve(state: ShareState, weights: dict[str, int], name: str) -> None:
    """Book nothing."""


def charge(count: int, units: int, weight: int) -> int:
    """Price nothing, so that tenants go by arrival."""
    return 0


def passing(weight: int, other_weight: int, position: int, other: Ranks, number: int) -> int:
    """Count those that came earlier."""
    return other.ahead(number).tasks


def to_come(weight: int, other_weight: int, position: int, passing: int) -> int:
    """Let nobody pass who comes later."""
    return 0
