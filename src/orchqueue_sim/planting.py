"""Where planted bugs are listed, each with the number of seeds within which the simulation catches it.

Req: ORCH-4238
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

Planted: TypeAlias = AbstractContextManager[object]
Plant: TypeAlias = Callable[[], Planted]


class Bed:
    """Planted bugs by name. `seeds`: within how many each is caught; `focus`: the faults of the runs that look for it."""

    def __init__(self) -> None:
        self.mutants: dict[str, Plant] = {}
        self.seeds: dict[str, int] = {}
        self.focus: dict[str, frozenset[str]] = {}

    def within(self, seeds: int, *focus: str) -> Callable[[Plant], Plant]:
        """List a bug that is caught within so many seeds, where faults are named by runs with just these."""

        def register(plant: Plant) -> Plant:
            name = plant.__name__
            self.mutants[name], self.seeds[name] = plant, seeds
            if focus:
                self.focus[name] = frozenset(focus)
            return plant

        return register

    def join(self, other: Bed) -> None:
        """Take in another bed's bugs."""
        self.mutants |= other.mutants
        self.seeds |= other.seeds
        self.focus |= other.focus
