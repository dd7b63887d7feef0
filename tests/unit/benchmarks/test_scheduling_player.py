"""The player plays honestly: every task once, never more than the slots, clients and timers as they are."""

from __future__ import annotations

import pytest

from benchmarks.scheduling.engines import EnginePool
from benchmarks.scheduling.player import POLICIES, Played, Policy, Run, play
from benchmarks.scheduling.trace import ADVERSARIES, Adversary, Arrival, Trace, bursty_day, with_adversary

POOL = EnginePool(replicas=1, slots_each=1, prefill_us=1_000, decode_us=10_000, slow_percent=0)


def arrival(at_ms: int, tokens_out: int = 100, **fields: object) -> Arrival:
    """Build an arrival whose prompt takes 100 ms to read."""
    known: dict[str, object] = {"tenant": "a", "priority": "interactive", "prompt_tokens": 100, "max_tokens": 1_000}
    return Arrival(at_ms=at_ms, tokens_out=tokens_out, **{**known, **fields})  # type: ignore[arg-type]  # see above


def trace_of(*arrivals: Arrival) -> Trace:
    """Build a trace of a minute."""
    return Trace("tiny", 1, 60_000, dict.fromkeys(sorted({a.tenant for a in arrivals}), 1), list(arrivals))


def most_at_once(runs: list[Run]) -> int:
    """Count the most attempts that held a slot at one instant."""
    steps = sorted((at, by) for run in runs for at, by in ((run.started_at_ms, 1), (run.ended_at_ms, -1)))
    most = now = 0
    for _, by in steps:
        now += by
        most = max(most, now)
    return most


def outline(played: Played) -> list[tuple[object, ...]]:
    """Reduce what was played to what can be compared."""
    return [(r.key, r.told_ms, r.started_at_ms, r.ended_at_ms, r.tokens) for r in played.runs]


@pytest.mark.parametrize("policy", POLICIES)
def test_plays_every_task_under_every_policy(policy: Policy) -> None:
    """Twenty minutes of traffic end with every task completed in full, the slots never overdrawn, nothing refused."""
    trace = bursty_day(1, 1_200)
    played = play(trace, policy)
    assert len(played.runs) == len(trace.arrivals)
    assert all(run.completed and run.tokens == run.arrival.tokens_out for run in played.runs)
    assert all(run.submitted_at_ms <= run.started_at_ms < run.ended_at_ms for run in played.runs)
    assert 16 < most_at_once(played.runs) <= played.pool.slots
    assert played.refused == 0
    assert played.makespan_ms == max(run.ended_at_ms for run in played.runs)


def test_same_trace_same_play() -> None:
    """A trace that is played twice goes the same way twice."""
    trace = bursty_day(4, 600)
    assert outline(play(trace, "fair")) == outline(play(trace, "fair"))


def test_times_are_the_engine_s() -> None:
    """A prompt and its tokens take the modelled time, and the next task waits for exactly that long."""
    first, second = play(trace_of(arrival(1_000), arrival(1_500)), "fifo").runs
    assert first.started_at_ms == 1_000
    assert first.first_token_at_ms - 1_000 == pytest.approx(60, rel=0.2)
    alone, behind = play(trace_of(arrival(1_000), arrival(1_500)), "fifo", POOL).runs
    assert alone.ended_at_ms - alone.started_at_ms == pytest.approx(1_100, rel=0.2)
    assert (behind.started_at_ms, behind.wait_ms) == (alone.ended_at_ms, alone.ended_at_ms - 1_500)
    assert second.wait_ms == 0


def test_tasks_beside_each_other_slow_each_other() -> None:
    """Two at once on one engine take twice as long as alone, and a third that comes after them does not."""
    pool = EnginePool(replicas=1, slots_each=2, prefill_us=1_000, decode_us=10_000, slow_percent=100)
    one, two, later = play(trace_of(arrival(0), arrival(0), arrival(50_000)), "fifo", pool).runs
    assert two.ended_at_ms == pytest.approx(2_200, rel=0.2)
    assert max(one.ended_at_ms, two.ended_at_ms) > 1_900
    assert later.ended_at_ms - later.started_at_ms == pytest.approx(1_100, rel=0.2)


def test_service_is_all_that_was_decoded() -> None:
    """The bins hold every token, and each prompt by its worth."""
    played = play(trace_of(arrival(0, 500), arrival(0, 70, tenant="b", priority="batch")), "fair", POOL)
    assert sum(played.service["a", "interactive"].values()) == pytest.approx(510)
    assert sum(played.service["b", "batch"].values()) == pytest.approx(80)


def test_impatient_client_cancels_and_sends_again() -> None:
    """It sends the same work anew after its patience, as often as it wants, whether the task waits or runs."""
    played = play(trace_of(arrival(0, 900), arrival(0, 400, tenant="b", patience_ms=2_000, rounds=7)), "fifo", POOL)
    rounds = [run for run in played.runs if run.arrival.tenant == "b"]
    assert [run.submitted_at_ms for run in rounds] == [2_000 * n for n in range(8)]
    assert [run.completed for run in rounds] == [False] * 7 + [True]
    assert {run.first_at_ms for run in rounds} == {0}
    assert sum(0 < run.tokens < 400 for run in rounds) >= 1, "no running attempt was stopped"
    assert len({run.key for run in rounds}) == 8


@pytest.mark.parametrize("kind", ADVERSARIES)
def test_adversaries_are_played_to_the_end(kind: Adversary) -> None:
    """Whatever an adversary does, every task of the others completes."""
    played = play(with_adversary(bursty_day(1, 300), kind), "fair")
    assert all(run.completed for run in played.runs if run.arrival.tenant != kind)
    assert all(run.ended_at_ms >= 0 for run in played.runs)
