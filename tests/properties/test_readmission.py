"""When refused clients may come back: one after another, as places free."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core.estimate import Readmission
from orchqueue.core.outcome import Outcome
from tests.unit.core.driving import Driver, pool_settings


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
