"""The tables of docs/scheduling.md, in Markdown, written between markers so that nobody copies figures by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Report
from benchmarks.scheduling.summary import Summary


def policies_table(summaries: Sequence[Summary]) -> str:
    """Compare the policies on the day."""
    head = ["policy", "interactive p50 / p95 / p99 wait", "batch p50 / p95 / p99 wait", "Jain 60 s", "Jain 5 min"]
    head += ["batch tokens/s", "busy", "done after", "latest beyond its share"]
    rows = [
        (
            s.policy,
            _three(s, "interactive"),
            _three(s, "batch"),
            f"{s.fairness['all'].mean:.3f}",
            f"{s.fairness['all'].long_mean:.3f}",
            f"{s.tokens_per_s['batch']:.0f}",
            f"{s.busy_ratio:.1%}",
            _span(s.makespan_ms),
            _span(s.beyond_share_ms),
        )
        for s in summaries
    ]
    return _table(head, rows)


def fairness_table(summaries: Sequence[Summary]) -> str:
    """Tell Jain's index of each policy by class."""
    head = ("policy", "over", "60 s: windows", "mean", "5th percentile", "5 min: windows", "mean", "5th percentile")
    rows = [
        (s.policy, name, *_index(f.windows, f.mean, f.low), *_index(f.long_windows, f.long_mean, f.long_low))
        for s in summaries
        for name, f in s.fairness.items()
    ]
    return _table(head, rows)


def _index(windows: int, mean: float, low: float) -> tuple[str, str, str]:
    """Write an index, or that there was no window to take one from.

    >>> _index(2, 0.98, 0.96), _index(0, 1.0, 1.0)
    (('2', '0.980', '0.960'), ('0', '–', '–'))
    """
    return (str(windows), f"{mean:.3f}", f"{low:.3f}") if windows else ("0", "–", "–")


def adversaries_table(summaries: Sequence[Summary]) -> str:
    """Tell what is left to everybody else."""
    head = ["on top", "policy", "interactive p50 / p95 / p99 wait", "batch p50 / p95 / p99 wait", "Jain 60 s"]
    head += ["longest wait", "latest beyond its share"]
    rows = [
        (
            s.trace if s.trace != "bursty" else "nobody",
            s.policy,
            _three(s, "interactive"),
            _three(s, "batch"),
            f"{s.fairness['all'].mean:.3f}",
            _span(s.waits["all"].most),
            _span(s.beyond_share_ms),
        )
        for s in summaries
    ]
    return _table(head, rows)


def prediction_table(summaries: Sequence[Summary]) -> str:
    """Tell how far predictions were off."""
    head = ("policy", "tasks", "count", "median error", "90th percentile", "bias")
    rows = [
        (s.policy, name, str(e.count), f"{e.median:.1%}", f"{e.p90:.1%}", f"{e.bias:+.1%}")
        for s in summaries
        for name, e in s.errors.items()
        if e.count
    ]
    return _table(head, rows)


def burst_table(report: Report) -> str:
    """Tell how far predictions were off with the real engine, from the report of benchmarks/prediction.py."""
    head = ["tasks", "count", "median error", "90th percentile", "bias"]
    rows = [
        [
            name,
            f"{report.value(f'{name}: tasks'):.0f}",
            f"{report.value(f'{name}: median error'):.1f}%",
            f"{report.value(f'{name}: p90 error'):.1f}%",
            f"{report.value(f'{name}: bias'):+.1f}%",
        ]
        for name in ("all", "waited", "interactive", "batch")
    ]
    return _table(head, rows)


def scale_table(report: Report) -> str:
    """Tell what deciding costs by waiting tasks and tenants, from the report of benchmarks/core_scale.py."""
    steps = {name: cells for name, cells in report.detail.items() if isinstance(cells, dict)}
    sizes = list(next(iter(steps.values())))
    rows = [
        [name, *(f"{cells[size]:.1f}" for size in sizes), f"{max(cells.values()) / min(cells.values()):.2f} ×"]
        for name, cells in steps.items()
    ]
    weights = [f for f in report.figures if f.name.startswith("memory")]
    rows += [[f.name, *[""] * len(sizes), f"{f.value:.0f} {f.unit}"] for f in weights]
    return _table(["µs, by waiting / tenants", *sizes, "largest over smallest"], rows)


def put_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between a document's two markers of a name.

    Errors: ValueError when a marker is missing.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path.name} has no markers {begin} … {end}; put them where the table belongs")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def _three(summary: Summary, priority: str) -> str:
    waits = summary.waits[priority]
    return " / ".join(_span(value) for value in (waits.p50, waits.p95, waits.p99))


def _span(value_ms: float) -> str:
    """Write a time so that its size is seen at once.

    >>> _span(0), _span(86), _span(4_100), _span(754_000), _span(-7_200_000)
    ('0 ms', '86 ms', '4.1 s', '12.6 min', '−2.0 h')
    """
    size_ms, sign = abs(value_ms), "−" if value_ms < 0 else ""
    for limit, unit, divisor in ((1_000, "ms", 1), (60_000, "s", 1_000), (3_600_000, "min", 60_000)):
        if size_ms < limit:
            return f"{sign}{size_ms / divisor:.{0 if divisor == 1 else 1}f} {unit}"
    return f"{sign}{size_ms / 3_600_000:.1f} h"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
