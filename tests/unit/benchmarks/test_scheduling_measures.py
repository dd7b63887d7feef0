"""Measures agree with small cases worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.scheduling import measures as m
from benchmarks.scheduling.engines import EnginePool
from benchmarks.scheduling.player import Played, Run
from benchmarks.scheduling.trace import Arrival, Priority, Trace
from orchqueue.core.ids import TaskKey

POOL = EnginePool(replicas=1, slots_each=1, prefill_us=0, decode_us=10_000, slow_percent=0)


def run(
    tenant: str,
    submitted_ms: int,
    started_ms: int,
    priority: Priority = "interactive",
    *,
    told_ms: int = 0,
    tokens: int = 100,
) -> Run:
    """Build a task that decodes for a second from its start on."""
    arrival = Arrival(submitted_ms, tenant, priority, 1, tokens, 1_000)
    return Run(
        index=submitted_ms,
        arrival=arrival,
        round=0,
        first_at_ms=submitted_ms,
        submitted_at_ms=submitted_ms,
        key=TaskKey(f"{tenant}/{submitted_ms}"),
        told_ms=told_ms,
        started_at_ms=started_ms,
        ended_at_ms=started_ms + 1_000,
        completed=True,
        tokens=tokens,
    )


def played(*runs: Run, weights: dict[str, int], service: dict[tuple[str, Priority], dict[int, float]]) -> Played:
    """Put runs into a trace of two minutes."""
    trace = Trace("bursty", 1, 120_000, weights, [r.arrival for r in runs])
    return Played("fair", trace, POOL, list(runs), service, [])


def test_spread_is_made_of_values_that_occurred() -> None:
    """Quantiles are taken by rank; nothing gives zeros."""
    assert m.spread([float(n) for n in range(1, 201)]) == m.Spread(200, 100.5, 100.0, 190.0, 198.0, 200.0)
    assert m.spread([]).most == 0.0


def test_wait_counts_from_the_first_time_it_was_sent() -> None:
    """What was canceled and sent again waits on; what never completed has no wait."""
    again, never = run("a", 5_000, 6_000), run("a", 0, -1)
    again.first_at_ms, never.completed = 1_000, False
    assert m.waits_ms([again, never, run("b", 0, 10, "batch")]) == [5_000.0, 10.0]
    assert m.waits_ms([again, never, run("b", 0, 10, "batch")], "batch") == [10.0]
    assert m.waits_ms([again, run("b", 0, 10)], tenant="b") == [10.0]


def test_backlog_joins_waits_that_touch() -> None:
    """A tenant is backlogged while any task of it waits; a wait of nothing is none."""
    runs = [run("a", 0, 10), run("a", 5, 20), run("a", 20, 30), run("a", 40, 50, "batch"), run("b", 7, 7)]
    assert m.backlogs(runs) == {"a": [(0, 30), (40, 50)]}
    assert m.backlogs(runs, "batch") == {"a": [(40, 50)]}


def test_jain_counts_only_who_waits_all_the_window() -> None:
    """Two of three tenants wait through the first minute, nobody else through the second; weights divide the service."""
    runs = [run("a", 0, 60_000), run("b", 0, 119_999), run("c", 1, 120_000)]
    service: dict[tuple[str, Priority], dict[int, float]] = {
        ("a", "interactive"): {0: 100.0, 5: 100.0, 6: 7.0},
        ("b", "interactive"): {1: 300.0},
        ("c", "interactive"): {1: 900.0},
    }
    found = m.jain_windows(played(*runs, weights={"a": 1, "b": 3, "c": 1}, service=service))
    assert found == [m.Window(0, 2, (200 + 100) ** 2 / (2 * (200**2 + 100**2)))]
    assert m.jain_windows(played(*runs, weights={"a": 1, "b": 3, "c": 1}, service=service), "batch") == []


def test_jain_by_class_ignores_the_other_class() -> None:
    """With a class named, only its backlog and its service count."""
    runs = [run("a", 0, 60_000, "batch"), run("b", 0, 60_000, "batch")]
    service: dict[tuple[str, Priority], dict[int, float]] = {
        ("a", "batch"): {0: 50.0},
        ("b", "batch"): {0: 50.0},
        ("b", "interactive"): {0: 950.0},
    }
    whole = played(*runs, weights={"a": 1, "b": 1}, service=service)
    assert m.mean_index(m.jain_windows(whole, "batch")) == 1.0
    assert m.mean_index(m.jain_windows(whole)) == pytest.approx(1050**2 / (2 * (50**2 + 1000**2)))
    assert (m.mean_index([]), m.low_index([])) == (1.0, 1.0)


def test_throughput_ends_with_the_trace() -> None:
    """What is decoded after the last minute of the trace does not count."""
    service: dict[tuple[str, Priority], dict[int, float]] = {
        ("a", "batch"): {0: 600.0, 11: 600.0, 12: 5_000.0},
        ("a", "interactive"): {3: 240.0},
    }
    whole = played(weights={"a": 1}, service=service)
    assert (m.throughput(whole, "batch"), m.throughput(whole)) == (10.0, 12.0)


def test_beyond_share_is_measured_against_the_own_line() -> None:
    """Alone on 8/9 of one slot a second of decode takes 1.125 s; what starts before its line allows is ahead."""
    first, second = run("a", 0, 500), run("a", 100, 1_000)
    whole = played(first, second, weights={"a": 1}, service={})
    assert m.beyond_share_ms(whole) == pytest.approx(500)
    first.started_at_ms = 0
    assert m.beyond_share_ms(whole) == pytest.approx(0)
    second.started_at_ms = 3_125
    assert m.beyond_share_ms(whole) == pytest.approx(2_000)
    halved = played(first, second, weights={"a": 1, "b": 1}, service={})
    assert m.beyond_share_ms(halved) == pytest.approx(3_125 - 2_250)
    assert m.beyond_share_ms(halved, "a") == float("-inf")


def test_errors_have_a_floor() -> None:
    """Up to 50 ms off counts as up to 15 %; above the floor it is the plain ratio, and the bias has a sign."""
    assert m.relative_error(50, 0) == pytest.approx(0.15)
    assert m.relative_error(500, 1_000) == -0.5
    error = m.error_of([(1_100.0, 1_000.0), (1_200.0, 1_000.0), (700.0, 1_000.0)])
    assert (error.count, error.median, error.p90, error.bias) == pytest.approx((3, 0.2, 0.3, 0.1))
    assert m.error_of([]).count == 0


def test_predictions_are_sorted_by_what_was_told() -> None:
    """Every size has its own group, the first for a start at once."""
    sizes = m.by_size([(0, 9), (1, 9), (999, 9), (1_000, 9), (600_000, 9)])
    assert [len(found) for found in sizes.values()] == [1, 2, 1, 0, 0, 1]


def test_calibration_cuts_by_what_was_told() -> None:
    """Each part has as many predictions as the next; those of a start at once are left out."""
    pairs = [(0.0, 5.0), *((float(n), float(10 * n)) for n in range(1, 11))]
    assert m.calibration(pairs, 2) == [(3.0, 10.0, 30.0, 50.0), (8.0, 60.0, 80.0, 100.0)]
    assert m.calibration([(4.0, 2.0)]) == [(4.0, 2.0, 2.0, 2.0)]
