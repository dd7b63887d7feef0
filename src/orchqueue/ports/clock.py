"""Time as a port."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """One clock for everything: unix milliseconds at start, monotonic from there on."""

    def now_ms(self) -> int:
        """Read the clock.

        Units: unix milliseconds that never go back while the process lives.
        """
        ...
