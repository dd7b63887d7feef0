"""Which class goes next: shares by weight, nothing idle while something waits, nothing starved.

Self-clocked fair queueing over starts, in whole numbers. A class's next finish tag is one `stride` (inversely
proportional to its weight) past the later of its own last tag and the tag served last; the smallest next tag goes
first, the heavier class on a tie. Between two starts of a class of weight 1 at most 8 starts of a class of weight 8
can fall, so at most 8 times the largest cost of that class is served.

Req: ORCH-3005
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import lcm

import msgspec


class ShareState(msgspec.Struct):
    """Finish tags by class, and the tag served last."""

    tags: dict[str, int]
    clock: int = 0


def new_state(names: Iterable[str]) -> ShareState:
    """Begin with nobody ahead."""
    return ShareState(dict.fromkeys(names, 0))


def order(state: ShareState, weights: dict[str, int], waiting: Collection[str]) -> Sequence[str]:
    """Rank the classes that have something waiting, the next one first.

    >>> s = new_state(["interactive", "batch"])
    >>> order(s, {"interactive": 8, "batch": 1}, {"batch", "interactive"})
    ['interactive', 'batch']
    """
    scale = lcm(*weights.values())
    return sorted(waiting, key=lambda name: (_next_tag(state, scale, weights, name), -weights[name], name))


def serve(state: ShareState, weights: dict[str, int], name: str) -> None:
    """Book one start of a class."""
    tag = _next_tag(state, lcm(*weights.values()), weights, name)
    state.tags[name] = tag
    state.clock = tag


def _next_tag(state: ShareState, scale: int, weights: dict[str, int], name: str) -> int:
    return max(state.clock, state.tags.get(name, 0)) + scale // weights[name]
