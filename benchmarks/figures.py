"""What a benchmark reports: named figures with units, printed as a table and written as JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

RESULTS = Path(__file__).resolve().parent / "results"
Detail: TypeAlias = str | int | float | list[float] | dict[str, float]


class Figure(msgspec.Struct, frozen=True):
    """One number and what it is."""

    name: str
    value: float
    unit: str
    note: str = ""


class Report(msgspec.Struct):
    """One benchmark's figures."""

    benchmark: str
    quick: bool
    figures: list[Figure] = []
    detail: dict[str, Detail] = {}

    def add(self, name: str, value: float, unit: str, note: str = "") -> None:
        """Take a figure in; four significant digits are kept."""
        self.figures.append(Figure(name, float(f"{value:.4g}"), unit, note))

    def value(self, name: str) -> float:
        """Look a figure up."""
        return next(figure.value for figure in self.figures if figure.name == name)


def machine() -> dict[str, str | int | float]:
    """Describe where the figures were taken."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count() or 0,
        "memory_gib": round(pages * page_bytes / 2**30),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def median(values: Sequence[float]) -> float:
    """Give the middle value."""
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share of the values does not exceed.

    >>> quantile([3, 1, 2], 0.5), quantile([1, 2], 0.99)
    (2, 2)
    >>> quantile(range(1, 201), 0.99)
    198
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def print_table(report: Report) -> None:
    """Print the figures."""
    print(f"\n{report.benchmark}{' (quick: not for quoting)' if report.quick else ''}")
    width = max((len(figure.name) for figure in report.figures), default=0)
    for figure in report.figures:
        note = f"   {figure.note}" if figure.note else ""
        print(f"  {figure.name:<{width}}  {figure.value:>12,.6g} {figure.unit}{note}")


def write(report: Report, folder: Path) -> Path:
    """Write a report as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.benchmark}.json"
    whole = {"machine": machine(), **msgspec.to_builtins(report)}
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return path


def command(name: str, story: str, measure: Callable[[bool], Report]) -> None:
    """Run one benchmark from its command line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=story)
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it works; the figures mean little"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON (default: benchmarks/results)")
    wish = parser.parse_args()
    report = measure(wish.quick)
    print_table(report)
    print(f"  written to {write(report, wish.out)}")
