"""What a scheduling policy decides: which class goes next, and what a start costs its tenant.

A policy keeps no state of its own; what it needs is made by `new_state` and handed in at every call. How tenants take
turns inside a class follows from `charge` alone (`core.shares`): the tenant that was charged least goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchqueue.core.fairness import ShareState
from orchqueue.core.ranks import Ranks


class Policy(Protocol):
    """One module that implements these functions is one policy. `STARVES`: a task can wait for ever while others keep coming.

    Req: ORCH-4360
    """

    STARVES: bool

    def new_state(self) -> ShareState:
        """Begin with no class ahead."""

    def pick(self, state: ShareState, weights: dict[str, int], heads: Mapping[str, int]) -> Sequence[str]:
        """Rank the classes that wait, the next one first; `heads` gives the number of each one's first arrival."""

    def serve(self, state: ShareState, weights: dict[str, int], name: str) -> None:
        """Book a start of a class."""

    def charge(self, count: int, units: int, weight: int) -> int:
        """Price some starts of a tenant: `count` tasks that take `units` tokens together."""

    def passing(self, weight: int, other_weight: int, position: int, other: Ranks, number: int) -> int:
        """Count the waiting tasks of another class that start before one that has `position` of its own class ahead."""

    def to_come(self, weight: int, other_weight: int, position: int, passing: int) -> int:
        """Count how many more of another class may start before it, of those that are still to come."""
