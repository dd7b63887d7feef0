"""The heavier class always first, inside a class first come, first served. The lighter class may starve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchqueue.core.fairness import ShareState
from orchqueue.core.policies import fifo
from orchqueue.core.ranks import Ranks

STARVES = True
NO_END = 1 << 40

new_state, serve, charge = fifo.new_state, fifo.serve, fifo.charge


def pick(state: ShareState, weights: dict[str, int], heads: Mapping[str, int]) -> Sequence[str]:
    """Rank the classes by weight alone.

    >>> pick(new_state(), {"interactive": 8, "batch": 1}, {"interactive": 9, "batch": 4})
    ['interactive', 'batch']
    """
    return sorted(heads, key=lambda name: (-weights[name], name))


def passing(weight: int, other_weight: int, position: int, other: Ranks, number: int) -> int:
    """Let everything of a heavier class pass, and nothing of a lighter one."""
    return len(other) if other_weight > weight else 0


def to_come(weight: int, other_weight: int, position: int, passing: int) -> int:
    """Let everything of a heavier class pass."""
    return NO_END if other_weight > weight else 0
