"""Metrics and logs as a port; one adapter owns all names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

LogValue = str | int | float | bool | None


class Telemetry(Protocol):
    """Where figures and log lines go."""

    def count(self, name: str, labels: tuple[str, ...], amount: int) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Put a value into a histogram."""
        ...

    def log(self, level: Literal["info", "warning", "error"], event: str, fields: Mapping[str, LogValue]) -> None:
        """Write one structured line."""
        ...
