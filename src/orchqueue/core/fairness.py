"""Which class goes next: shares by weight, nothing idle while something waits, nothing starved.

Self-clocked fair queueing over starts, in whole numbers. When a class begins to wait, or goes on waiting after a start,
its next start gets a finish tag: one `stride` (inversely proportional to its weight) past the clock, the largest tag that
was served; its own last tag is never above that. The tag stays until that start, however long others are served; the
smallest tag goes first, the heavier class on a tie. Between two starts of a class of weight 1 at most 8 starts of a class of
weight 8 can fall, so at most 8 times the largest cost of that class is served.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import lcm

import msgspec


class ShareState(msgspec.Struct):
    """The tags of the next starts of the classes that wait, and the largest tag served; it begins with nobody ahead."""

    pending: dict[str, int] = {}
    clock: int = 0


def order(state: ShareState, weights: dict[str, int], waiting: Collection[str]) -> Sequence[str]:
    """Rank the classes that have something waiting, the next one first; a class that begins to wait gets its tag here.

    Req: ORCH-4153

    >>> s = ShareState()
    >>> order(s, {"interactive": 8, "batch": 1}, {"batch", "interactive"})
    ['interactive', 'batch']
    """
    scale = lcm(*weights.values())
    for name in [name for name in state.pending if name not in waiting]:
        del state.pending[name]
    for name in waiting:
        if name not in state.pending:
            state.pending[name] = state.clock + scale // weights[name]
    return sorted(waiting, key=lambda name: (state.pending[name], -weights[name], name))


def serve(state: ShareState, weights: dict[str, int], name: str) -> None:
    """Book one start of a class.

    A heavier class that was passed over, because nothing of it could run, keeps its turn but saves no start up.

    Req: ORCH-4155
    """
    scale = lcm(*weights.values())
    tag = state.pending.pop(name, None)
    if tag is None:
        tag = state.clock + scale // weights[name]
    state.clock = max(state.clock, tag)
    for other, pending in state.pending.items():
        if weights[other] > weights[name] and pending <= state.clock:
            state.pending[other] = state.clock + scale // weights[other]
