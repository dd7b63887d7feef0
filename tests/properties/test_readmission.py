"""When refused clients may come back: one after another, as places free."""

import heapq
import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.client import RetryPolicy
from orchqueue.core.effects import Refuse, StartAttempt
from orchqueue.core.estimate import Readmission
from orchqueue.core.events import AttemptCompleted
from orchqueue.core.ids import AttemptId
from orchqueue.core.outcome import Outcome
from tests.unit.core.driving import Driver, both_classes, pool_settings


@pytest.mark.req("ORCH-4119")
@given(
    free_ms=st.integers(0, 10_000),
    interval_ms=st.integers(0, 5_000),
    gaps_ms=st.lists(st.integers(0, 3_000), min_size=2, max_size=20),
)
def test_promises_never_meet(free_ms: int, interval_ms: int, gaps_ms: list[int]) -> None:
    """Promised instants rise by at least the interval at which places free, and none lies before the first free place."""
    readmission = Readmission()
    now_ms, last_at_ms = 0, None
    for gap_ms in gaps_ms:
        now_ms += gap_ms
        wait_ms = readmission.promise(now_ms, free_ms, interval_ms, 64)
        assert wait_ms >= max(1, free_ms)
        if last_at_ms is not None:
            assert now_ms + wait_ms >= last_at_ms + max(1, interval_ms)
        last_at_ms = now_ms + wait_ms


@pytest.mark.req("ORCH-4119")
@given(refused=st.integers(2, 40), slots=st.sampled_from([1, 2, 4]), tokens=st.integers(1, 64))
def test_a_burst_is_sent_away_in_rising_steps(refused: int, slots: int, tokens: int) -> None:
    """Of n clients refused at the same instant each is told a later time than the one before."""
    core = Driver(pool_settings(capacity=2, slots=slots, strict=False))
    for number in range(slots + 2):
        core.submit(f"in{number}", max_tokens=tokens)
    times = []
    for number in range(refused):
        core.submit(f"out{number}", max_tokens=tokens)
        refusal = core.refusal().refusal
        assert refusal.outcome is Outcome.REJECTED_FULL
        assert refusal.retry_after_ms is not None
        times.append(refusal.retry_after_ms)
    assert all(early < late for early, late in itertools.pairwise(times))


@pytest.mark.req("ORCH-4119")
def test_the_promise_follows_the_rate_at_which_places_free() -> None:
    """Four times the slots, a quarter of the wait between two promises."""
    steps = []
    for slots in (1, 4):
        core = Driver(pool_settings(capacity=2, slots=slots, strict=False))
        for number in range(slots + 2):
            core.submit(f"in{number}", max_tokens=64)
        waits = []
        for name in ("a", "b"):
            core.submit(name, max_tokens=64)
            waits.append(core.refusal().refusal.retry_after_ms or 0)
        steps.append(waits[1] - waits[0])
    assert steps[0] == pytest.approx(4 * steps[1], rel=0.1)


@pytest.mark.req("ORCH-2007", "ORCH-4119")
@pytest.mark.parametrize("token_ms", [5, 100])
@pytest.mark.parametrize("slots", [1, 4])
def test_who_comes_back_when_told_is_mostly_taken(slots: int, token_ms: int) -> None:
    """500 tasks at once against capacity 64: of those who return as our client does, four of five are admitted."""
    pool = pool_settings(replicas=2, capacity=64, slots=slots, strict=False, classes=both_classes(64))
    core = Driver(pool, up=False)
    for replica in pool.replicas:
        core.ready(
            replica.replica_id, slots_total=slots, prefill_us_per_token=1_000, decode_us_per_token=1_000 * token_ms
        )
    policy, chance = RetryPolicy(max_wait_ms=1_000_000_000), Random(1)
    # What happens when: a client asks, with how often it has asked before, or an engine ends an attempt (client None).
    due: list[tuple[int, int, int | None, int]] = [(core.now_ms, number, number, 0) for number in range(500)]
    order, retries = itertools.count(500), {"admitted": 0, "refused": 0}
    while due:
        core.now_ms, _, client, number = heapq.heappop(due)
        if client is None:
            core.handle(AttemptCompleted(AttemptId(number), "stop", 2, 3, 2, 3 * token_ms))
            happened = core.last + core.close(number)
        else:
            priority = "batch" if client % 4 == 0 else "interactive"
            happened = core.submit(f"t{client}.{number}", max_tokens=3, priority=priority)
            refusals = core.wanted(Refuse, happened)
            if number:
                retries["refused" if refusals else "admitted"] += 1
            for refused in refusals:
                wait_ms = policy.wait_ms(0, refused.refusal.retry_after_ms, 0, chance)
                assert wait_ms is not None
                heapq.heappush(due, (core.now_ms + wait_ms, next(order), client, number + 1))
        for start in core.wanted(StartAttempt, happened):
            heapq.heappush(due, (core.now_ms + 2 + 3 * token_ms, next(order), None, start.attempt_id))
    assert len(core.starts) == 500
    assert retries["admitted"] >= 0.8 * (retries["admitted"] + retries["refused"]), retries
