"""What a played trace says about waiting, fairness, throughput and predictions. Every definition stands here.

Units: milliseconds, and tokens of decode; a prompt counts as the tokens that could have been decoded in its time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.figures import quantile
from benchmarks.scheduling.player import BIN_MS, CLASS_WEIGHTS, Played, Run
from benchmarks.scheduling.trace import Priority

WINDOW_MS = 60_000
FLOOR_MS = 50
ALLOWED_RATIO = 0.15
CLASSES: tuple[Priority, ...] = ("interactive", "batch")


class Spread(msgspec.Struct, frozen=True):
    """Some values in short."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    most: float


class Window(msgspec.Struct, frozen=True):
    """How even one window's service was over the tenants that were backlogged in all of it."""

    at_ms: int
    tenants: int
    index: float


class Error(msgspec.Struct, frozen=True):
    """How far predictions were off, as parts of the real wait; see `relative_error`.

    `bias` is the median of (told − real) in the same measure: above 0, tasks started sooner than told.
    """

    count: int
    median: float
    p90: float
    bias: float


def spread(values: Sequence[float]) -> Spread:
    """Put values in short; all 0 without values."""
    if not values:
        return Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    ordered = sorted(values)
    p50, p95, p99 = (float(quantile(ordered, share)) for share in (0.5, 0.95, 0.99))
    return Spread(len(ordered), sum(ordered) / len(ordered), p50, p95, p99, float(ordered[-1]))


def waits_ms(runs: Iterable[Run], priority: Priority | None = None, tenant: str | None = None) -> list[float]:
    """List how long tasks waited, from the first time they were sent to the start of the submission that completed.

    What a client canceled and sent again therefore goes on waiting; what was never completed has no wait.
    """
    return [
        float(run.started_at_ms - run.first_at_ms)
        for run in runs
        if run.completed
        and (priority is None or run.arrival.priority == priority)
        and (tenant is None or run.arrival.tenant == tenant)
    ]


def jain(values: Sequence[float]) -> float:
    """Compute Jain's index, (Σx)² / (n·Σx²): 1 when all are equal, 1/n when one has everything, 1 when all have nothing.

    >>> jain([3, 3, 3]), jain([1, 0, 0, 0]), jain([1, 3])
    (1.0, 0.25, 0.8)
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def backlogs(runs: Iterable[Run], priority: Priority | None = None) -> dict[str, list[tuple[int, int]]]:
    """List for every tenant the spans of time in which at least one task of it waited, joined where they touch.

    With `priority` only tasks of that class count. A task that ended without a start waited until its end.
    """
    spans: dict[str, list[tuple[int, int]]] = {}
    for run in runs:
        end_ms = run.started_at_ms if run.started_at_ms >= 0 else run.ended_at_ms
        if end_ms > run.submitted_at_ms and (priority is None or run.arrival.priority == priority):
            spans.setdefault(run.arrival.tenant, []).append((run.submitted_at_ms, end_ms))
    joined: dict[str, list[tuple[int, int]]] = {}
    for tenant, found in spans.items():
        kept = joined.setdefault(tenant, [])
        for begin_ms, end_ms in sorted(found):
            if kept and begin_ms <= kept[-1][1]:
                kept[-1] = (kept[-1][0], max(kept[-1][1], end_ms))
            else:
                kept.append((begin_ms, end_ms))
    return joined


def jain_windows(played: Played, priority: Priority | None = None, window_ms: int = WINDOW_MS) -> list[Window]:
    """Measure fairness over time.

    1. Time is cut into windows that follow one another.
    2. In a window count the tenants of which at least one task waited at every instant of it; fewer than two: no index.
    3. Their service is what the engines did for them in the window, running tasks included, divided by their weight.
    4. Jain's index of that.

    With `priority` both the backlog and the service are those of one class.
    """
    members: dict[int, list[str]] = {}
    for tenant, spans in backlogs(played.runs, priority).items():
        for begin_ms, end_ms in spans:
            for number in range(-(-begin_ms // window_ms), end_ms // window_ms):
                members.setdefault(number, []).append(tenant)
    per_window = _service_by_window(played, priority, window_ms)
    windows = []
    for number, tenants in sorted(members.items()):
        if len(tenants) > 1:
            shares = [per_window.get((t, number), 0.0) / played.trace.weights[t] for t in tenants]
            windows.append(Window(number * window_ms, len(tenants), jain(shares)))
    return windows


def _service_by_window(played: Played, priority: Priority | None, window_ms: int) -> dict[tuple[str, int], float]:
    assert window_ms % BIN_MS == 0, f"a window must be made of bins of {BIN_MS} ms"
    found: dict[tuple[str, int], float] = {}
    for (tenant, of_class), bins in played.service.items():
        if priority is not None and of_class != priority:
            continue
        for number, tokens in bins.items():
            key = (tenant, number * BIN_MS // window_ms)
            found[key] = found.get(key, 0.0) + tokens
    return found


def mean_index(windows: Sequence[Window]) -> float:
    """Average over windows, each with the weight 1; 1 without any."""
    return sum(window.index for window in windows) / len(windows) if windows else 1.0


def low_index(windows: Sequence[Window]) -> float:
    """Give the 5th percentile over windows; 1 without any."""
    return quantile([window.index for window in windows], 0.05) if windows else 1.0


def throughput(played: Played, priority: Priority | None = None) -> float:
    """Count what was decoded while the trace was still sending, per second."""
    until = played.trace.length_ms // BIN_MS
    tokens = sum(
        worth
        for (_, of_class), bins in played.service.items()
        if priority is None or of_class == priority
        for number, worth in bins.items()
        if number < until
    )
    return tokens * 1000 / played.trace.length_ms


def beyond_share_ms(played: Played, adversary: str = "") -> float:
    """Tell how much later than its tenant's share promises the most neglected task started; below 0: sooner.

    The promise: a tenant alone on its share of every slot, that is its weight over the weights of all tenants of the trace,
    times the weight of the class over those of all classes, each class first in first out. A task's promised start is when
    that line has worked off what the tenant sent before. Tasks of `adversary` are not looked at, but its weight counts.
    """
    whole = sum(played.trace.weights.values()), sum(CLASS_WEIGHTS.values())
    pool = played.pool
    free_at_ms: dict[tuple[str, Priority], float] = {}
    worst = float("-inf")
    for run in sorted(played.runs, key=lambda r: r.index):
        arrival = run.arrival
        if run.round or arrival.tenant == adversary or not run.completed:
            continue
        line = (arrival.tenant, arrival.priority)
        share = played.trace.weights[arrival.tenant] * CLASS_WEIGHTS[arrival.priority] / (whole[0] * whole[1])
        promised_ms = max(float(run.submitted_at_ms), free_at_ms.get(line, 0.0))
        work_ms = pool.work_us(arrival.prompt_tokens, arrival.tokens_out) / 1000
        free_at_ms[line] = promised_ms + work_ms / (pool.slots * share)
        worst = max(worst, run.started_at_ms - promised_ms)
    return worst


def relative_error(told_ms: float, real_ms: float) -> float:
    """Compare a prediction to what came: (told − real) / real, where a real wait counts as long enough for the floor.

    An absolute value of at most 15 % therefore means: off by at most 15 % of the wait or 50 ms, whichever is larger.

    >>> relative_error(115, 100) < 0.15, relative_error(0, 50) == -0.15, relative_error(2000, 1000)
    (True, True, 1.0)
    """
    return (told_ms - real_ms) / max(real_ms, FLOOR_MS / ALLOWED_RATIO)


def error_of(pairs: Sequence[tuple[float, float]]) -> Error:
    """Put the errors of (told, real) in short."""
    if not pairs:
        return Error(0, 0.0, 0.0, 0.0)
    signed = [relative_error(told, real) for told, real in pairs]
    sizes = [abs(value) for value in signed]
    return Error(len(pairs), quantile(sizes, 0.5), quantile(sizes, 0.9), quantile(signed, 0.5))


def told_and_real(runs: Iterable[Run], priority: Priority | None = None) -> list[tuple[float, float]]:
    """Pair what each task was told at admission with how long it then waited, for all that started."""
    return [
        (float(run.told_ms), float(run.wait_ms))
        for run in runs
        if run.started_at_ms >= 0 and (priority is None or run.arrival.priority == priority)
    ]


def later_told_and_real(played: Played) -> list[tuple[float, float]]:
    """Pair what followers were told while they waited with how long they then still waited."""
    return [
        (float(told.start_in_ms), float(told.run.started_at_ms - told.at_ms))
        for told in played.told_later
        if told.run.started_at_ms >= 0
    ]


def by_size(pairs: Sequence[tuple[float, float]]) -> dict[str, list[tuple[float, float]]]:
    """Sort (told, real) by how long a wait was told."""
    bounds = (1, 1_000, 10_000, 60_000, 600_000)
    names = ("at once", "under 1 s", "1 to 10 s", "10 to 60 s", "1 to 10 min", "10 min and more")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for pair in pairs:
        found[names[bisect_right(bounds, pair[0])]].append(pair)
    return found


def calibration(pairs: Sequence[tuple[float, float]], parts: int = 10) -> list[tuple[float, float, float, float]]:
    """Cut (told, real) with a wait told into equal parts by what was told.

    Shape: for each part the median told, and of the real waits the 10th percentile, the median and the 90th.
    """
    ordered = sorted(pair for pair in pairs if pair[0] > 0)
    cut = [ordered[len(ordered) * n // parts : len(ordered) * (n + 1) // parts] for n in range(parts)]
    points = []
    for part in cut:
        if part:
            p10, p50, p90 = (quantile([real for _, real in part], share) for share in (0.1, 0.5, 0.9))
            points.append((quantile([told for told, _ in part], 0.5), p10, p50, p90))
    return points
