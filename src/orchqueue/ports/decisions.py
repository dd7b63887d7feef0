"""Where decisions are kept for longer than memory holds them, as a port."""

from __future__ import annotations

from typing import Protocol


class DecisionKeeper(Protocol):
    """Takes decisions as lines of JSON."""

    def keep(self, line: bytes) -> None:
        """Take one line, without its end; never raises, never waits for a disk."""
        ...
