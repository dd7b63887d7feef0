"""Draws the plots of docs/scheduling.md from the JSON of the benchmarks. Runs in .venv-bench, which has matplotlib.

Equal figures give equal files: no dates, no random ids.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BYTES_AT_MOST = 150_000
COLOURS = {"fair": "#0072b2", "fifo": "#d55e00", "strict-priority": "#009e73", "round-robin": "#cc79a7"}
CLASSES = ("interactive", "batch")
DECILES = ("told", "p10", "p50", "p90")
# A log scale has no zero: what started at once stands at its left edge.
AT_ONCE_S = 0.01
Summary = dict[str, Any]
Pairs = list[tuple[float, float]]


def waits(days: list[Summary]) -> Figure:
    """Draw which part of the tasks had started after which wait."""
    figure, panels = _panels(2, "wait (s)")
    for panel, name in zip(panels, CLASSES, strict=True):
        for day in days:
            curve = [max(AT_ONCE_S, wait / 1000) for wait in day["wait_curves"][name]]
            shares = [n / len(curve) for n in range(1, len(curve) + 1)]
            panel.plot(curve, shares, color=COLOURS[day["policy"]], label=day["policy"])
        panel.set(title=name, xscale="log", ylabel="part of the tasks started", ylim=(0, 1.02))
    panels[0].legend(frameon=False)
    return figure


def tenants(days: list[Summary]) -> Figure:
    """Draw each tenant's p50, p95 and p99 wait; tenants stand in the order of the work that they send."""
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    panels = figure.subplots(len(CLASSES), len(days), sharex=True, sharey="row", squeeze=False)
    for row, name in zip(panels, CLASSES, strict=True):
        for panel, day in zip(row, days, strict=True):
            found = sorted((_rank(t["tenant"]), t["waits"]) for t in day["tenants"] if t["priority"] == name)
            ranks, colour = [rank for rank, _ in found], COLOURS[day["policy"]]
            p50, p95, p99 = ([max(AT_ONCE_S, w[q] / 1000) for _, w in found] for q in ("p50", "p95", "p99"))
            # One line with gaps: lines of their own would make the file three times as large.
            across = [x for rank in ranks for x in (rank, rank, math.nan)]
            along = [y for ends in zip(p50, p99, strict=True) for y in (*ends, math.nan)]
            panel.plot(across, along, "-", color=colour, linewidth=1, alpha=0.5)
            panel.plot(ranks, p95, ".", color=colour, markersize=4)
            panel.set(title=f"{day['policy']}, {name}", yscale="log")
            panel.minorticks_off()
        row[0].set_ylabel("wait (s): p95, and p50 to p99")
    for panel in panels[-1]:
        panel.set_xlabel("tenant, the heaviest first")
    return figure


def _rank(tenant: str) -> int:
    return int(tenant.rpartition("-")[2])


def fairness(days: list[Summary]) -> Figure:
    """Draw Jain's index over the day, the mean of each quarter of an hour."""
    figure, (panel,) = _panels(1, "hour of the day")
    for day in days:
        hours, indexes = ([point[axis] for point in day["fairness_curve"]] for axis in (0, 1))
        panel.plot(hours, indexes, ".-", color=COLOURS[day["policy"]], label=day["policy"], linewidth=0.8)
    panel.axhline(0.95, color="#555555", linestyle=":", linewidth=1)
    panel.set(ylabel="Jain's index of backlogged tenants", ylim=(0, 1.02))
    panel.legend(frameon=False)
    return figure


def adversaries(duels: list[Summary]) -> Figure:
    """Draw what everybody else's p95 wait becomes."""
    figure, panels = _panels(2, "")
    names = list(dict.fromkeys(duel["trace"] for duel in duels))
    policies = list(dict.fromkeys(duel["policy"] for duel in duels))
    width = 0.8 / len(policies)
    for panel, name in zip(panels, CLASSES, strict=True):
        for number, policy in enumerate(policies):
            of_trace = {
                d["trace"]: max(AT_ONCE_S, d["waits"][name]["p95"] / 1000) for d in duels if d["policy"] == policy
            }
            places = [place + (number - (len(policies) - 1) / 2) * width for place in range(len(names))]
            panel.bar(places, [of_trace[n] for n in names], width, color=COLOURS[policy], label=policy)
        panel.set(title=f"{name}, everybody else", yscale="log", ylabel="p95 wait (s)")
        panel.set_xticks(range(len(names)), ["nobody" if n == "bursty" else n for n in names])
        panel.grid(visible=False, axis="x")
    panels[0].legend(frameon=False)
    return figure


def calibration(points: Pairs, deciles: list[list[float]], title: str, colour: str) -> Figure:
    """Draw told against real: on the line they are equal."""
    figure, (panel,) = _panels(1, "predicted wait (s)", width=4.8)
    told = [max(AT_ONCE_S, t / 1000) for t, _ in points]
    real = [max(AT_ONCE_S, r / 1000) for _, r in points]
    panel.plot(told, real, ".", markersize=2, color=colour, alpha=0.35)
    middles = [max(AT_ONCE_S, d[2] / 1000) for d in deciles]
    lows = [middle - max(AT_ONCE_S, d[1] / 1000) for middle, d in zip(middles, deciles, strict=True)]
    highs = [d[3] / 1000 - middle for middle, d in zip(middles, deciles, strict=True)]
    places = [max(AT_ONCE_S, d[0] / 1000) for d in deciles]
    panel.errorbar(places, middles, [lows, highs], fmt="o", color="black", capsize=3, label="deciles: p10, median, p90")
    ends = [min([*told, *real], default=AT_ONCE_S), max([*told, *real], default=1.0)]
    panel.plot(ends, ends, color="#555555", linestyle=":", linewidth=1)
    panel.set(title=title, xscale="log", yscale="log", ylabel="real wait (s)")
    panel.legend(frameon=False)
    return figure


def _panels(count: int, x_label: str, width: float = 9.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    panels = [figure.add_subplot(1, count, number + 1) for number in range(count)]
    for panel in panels:
        panel.set_xlabel(x_label)
    return figure, panels


def draw_all(whole: dict[str, Any], real: dict[str, Any] | None) -> dict[str, Figure]:
    """Draw every plot that there are figures for."""
    days: list[Summary] = whole["day"]
    figures: dict[str, Figure] = {}
    if days:
        first = days[0]["policy"]
        figures |= {"waits": waits(days), "tenants": tenants(days), "fairness": fairness(days)}
        figures["calibration"] = calibration(
            days[0]["points"], days[0]["calibration"], f"{first}, virtual time", COLOURS[first]
        )
    if whole["adversaries"]:
        figures["adversaries"] = adversaries(whole["adversaries"])
    if real is not None:
        detail = real["detail"]
        deciles = [list(point) for point in zip(*(detail[f"deciles: {name}"] for name in DECILES), strict=True)]
        points = list(zip(detail["told"], detail["real"], strict=True))
        figures["calibration-real"] = calibration(points, deciles, "real engine, one burst", "#0072b2")
    return figures


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling.plots", description=__doc__)
    parser.add_argument("results", type=Path, help="folder with scheduling.json, and prediction.json if there is one")
    parser.add_argument("into", type=Path, help="folder for the plots")
    wish = parser.parse_args(argv)
    real = wish.results / "prediction.json"
    figures = draw_all(
        json.loads((wish.results / "scheduling.json").read_text()),
        json.loads(real.read_text()) if real.exists() else None,
    )
    wish.into.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        path = wish.into / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        # Some lines of it end with a space, which this repository does not want.
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
        assert path.stat().st_size <= BYTES_AT_MOST, (
            f"{path.name} has more than {BYTES_AT_MOST} bytes: draw fewer points"
        )
    return 0


mpl.rc("svg", hashsalt="orchqueue", fonttype="none")
mpl.rc("font", size=9)
mpl.rc("axes", grid=True)
mpl.rc("axes.spines", top=False, right=False)
mpl.rc("grid", alpha=0.3)

if __name__ == "__main__":
    sys.exit(main())
