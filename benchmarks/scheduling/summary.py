"""Everything that tables and plots need of a played trace, small enough to be kept as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.figures import quantile
from benchmarks.scheduling import measures as m
from benchmarks.scheduling.player import Played, Policy, Run
from benchmarks.scheduling.trace import Priority

CURVE_POINTS = 120
SAMPLED_POINTS = 400
LONG_WINDOW_MS = 300_000
CURVE_STEP_MS = 900_000


class Fairness(msgspec.Struct, frozen=True):
    """Jain's index of one class, or of all work: over windows of 60 s and of 5 min."""

    windows: int
    mean: float
    low: float
    long_windows: int
    long_mean: float
    long_low: float


class TenantWaits(msgspec.Struct, frozen=True):
    """One tenant's waits in one class."""

    tenant: str
    priority: Priority
    waits: m.Spread


class Summary(msgspec.Struct, frozen=True):
    """One trace under one policy.

    Shape: `wait_curves` evenly spaced quantiles; `fairness_curve` (hours, mean index) every quarter of an hour;
    `calibration` as `measures.calibration` gives it; `points` a sample of (told, real) with a wait told.
    Units: milliseconds; tokens of decode per second.
    """

    policy: Policy
    trace: str
    tasks: int
    refused: int
    busy_ratio: float
    makespan_ms: int
    tokens_per_s: dict[str, float]
    waits: dict[str, m.Spread]
    tenants: list[TenantWaits]
    wait_curves: dict[str, list[float]]
    fairness: dict[str, Fairness]
    fairness_curve: list[tuple[float, float]]
    beyond_share_ms: float
    errors: dict[str, m.Error]
    calibration: list[tuple[float, float, float, float]]
    points: list[tuple[float, float]]


def summarize(played: Played) -> Summary:
    """Measure a played trace. Where there is an adversary, waits and promises are those of all others."""
    adversary = played.trace.name if played.trace.name in played.trace.weights else ""
    honest = [run for run in played.runs if run.arrival.tenant != adversary]
    classes: dict[str, Priority | None] = {"all": None, "interactive": "interactive", "batch": "batch"}
    waits = {name: m.waits_ms(honest, priority) for name, priority in classes.items()}
    windows = m.jain_windows(played)
    pairs = m.told_and_real(honest)
    return Summary(
        policy=played.policy,
        trace=played.trace.name,
        tasks=len(played.runs),
        refused=played.refused,
        busy_ratio=played.busy_slot_ms / (played.pool.slots * played.makespan_ms),
        makespan_ms=played.makespan_ms,
        tokens_per_s={name: m.throughput(played, priority) for name, priority in classes.items()},
        waits={name: m.spread(values) for name, values in waits.items()},
        tenants=_tenants(played, adversary),
        wait_curves={name: _curve(values) for name, values in waits.items()},
        fairness={name: _fairness(played, priority) for name, priority in classes.items()},
        fairness_curve=_fairness_curve(windows),
        beyond_share_ms=m.beyond_share_ms(played, adversary),
        errors=_errors(played, honest),
        calibration=m.calibration(pairs),
        points=_sample([pair for pair in pairs if pair[0] > 0]),
    )


def _tenants(played: Played, adversary: str) -> list[TenantWaits]:
    sorted_waits: dict[tuple[str, Priority], list[float]] = {}
    for run in played.runs:
        if run.completed and run.arrival.tenant != adversary:
            line = (run.arrival.tenant, run.arrival.priority)
            sorted_waits.setdefault(line, []).append(float(run.started_at_ms - run.first_at_ms))
    return [TenantWaits(*line, m.spread(values)) for line, values in sorted(sorted_waits.items())]


def _curve(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [quantile(ordered, n / CURVE_POINTS) for n in range(1, CURVE_POINTS + 1)] if ordered else []


def _fairness(played: Played, priority: Priority | None) -> Fairness:
    short = m.jain_windows(played, priority)
    long = m.jain_windows(played, priority, LONG_WINDOW_MS)
    return Fairness(
        len(short), m.mean_index(short), m.low_index(short), len(long), m.mean_index(long), m.low_index(long)
    )


def _fairness_curve(windows: Sequence[m.Window]) -> list[tuple[float, float]]:
    steps: dict[int, list[m.Window]] = {}
    for window in windows:
        steps.setdefault(window.at_ms // CURVE_STEP_MS, []).append(window)
    return [(step * CURVE_STEP_MS / 3_600_000, m.mean_index(found)) for step, found in sorted(steps.items())]


def _errors(played: Played, honest: Sequence[Run]) -> dict[str, m.Error]:
    """Group prediction errors: all tasks, those that waited, each class, by what was told, and what followers heard."""
    pairs = m.told_and_real(honest)
    groups: dict[str, list[tuple[float, float]]] = {
        "all": pairs,
        "waited": _waited(pairs),
        **{f"{name}, waited": _waited(m.told_and_real(honest, name)) for name in m.CLASSES},
        **{f"told {size}": found for size, found in m.by_size(pairs).items()},
        "told while waiting": m.later_told_and_real(played),
    }
    return {name: m.error_of(found) for name, found in groups.items()}


def _waited(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [pair for pair in pairs if pair[1] > 0]


def _sample(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, len(pairs) // SAMPLED_POINTS)
    return list(pairs[::step][:SAMPLED_POINTS])
