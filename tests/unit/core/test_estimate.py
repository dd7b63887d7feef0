"""Predictions against brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core.estimate import Rates, remaining_tokens, service_ms, smooth, start_after_ms
from orchqueue.core.events import ReplicaFacts
from orchqueue.core.replica_flow import backoff_ms
from orchqueue.core.settings import Supervision


@pytest.mark.req("ORCH-3029")
@given(levels=st.lists(st.integers(0, 60), min_size=1, max_size=6), work_ms=st.integers(0, 400))
def test_work_ahead_is_poured_onto_the_slots_that_free_first(levels: list[int], work_ms: int) -> None:
    """A millisecond of work at a time on the slot that is free first gives the same start."""
    slots = sorted(levels)
    for _ in range(work_ms):
        slots[slots.index(min(slots))] += 1
    assert abs(start_after_ms(levels, work_ms) - min(slots)) <= 1


@pytest.mark.req("ORCH-3029")
@given(levels=st.lists(st.integers(0, 60), min_size=1, max_size=6), work_ms=st.integers(0, 400))
def test_more_work_never_means_an_earlier_start(levels: list[int], work_ms: int) -> None:
    """The prediction rises with the work ahead and falls with another free slot."""
    assert start_after_ms(levels, work_ms) <= start_after_ms(levels, work_ms + 1)
    assert start_after_ms([*levels, 0], work_ms) <= start_after_ms(levels, work_ms)


@pytest.mark.req("ORCH-3029")
@given(expected=st.integers(1, 100), done=st.integers(0, 300), limit=st.integers(1, 300))
def test_a_running_task_always_has_something_left(expected: int, done: int, limit: int) -> None:
    """The expectation counts down; a task that outlived it is expected to take half of what its limit leaves."""
    left = remaining_tokens(expected, done, limit)
    assert left >= 1
    if done < expected:
        assert left == expected - done
    elif limit > done + 1:
        assert left == (limit - done) // 2


@pytest.mark.req("ORCH-4166")
def test_rates_begin_with_the_self_test_and_follow_what_is_measured() -> None:
    """The basis says what a prediction rests on; a restart does not throw measurements away."""
    rates = Rates()
    assert (rates.basis, service_ms(10, 10, rates)) == ("none", 0)
    facts = ReplicaFacts("v", "d", 1, 256, True, 100, 1_000)
    rates.start_from(facts)
    assert (rates.basis, service_ms(10, 10, rates)) == ("selftest", 11)
    rates.learn(10, 1, 10, 90)
    assert (rates.basis, rates.decode_us) == ("measured", 2_000)
    rates.start_from(facts)
    assert (rates.basis, rates.decode_us) == ("measured", 2_000)
    rates.learn(0, 0, 0, 0)
    assert rates.decode_us == 2_000


@given(old=st.integers(1, 10**6), new=st.integers(0, 10**6))
def test_smoothing_stays_between_old_and_new(old: int, new: int) -> None:
    """A new figure moves the old one towards it and never past it."""
    assert min(old, new) - 1 <= smooth(old, new) <= max(old, new)


@pytest.mark.req("ORCH-3039")
@given(failures=st.integers(1, 60), name=st.text(max_size=8))
def test_backoff_doubles_within_its_spread_and_is_bounded(failures: int, name: str) -> None:
    """1 s, 2 s, 4 s … 60 s, each within ten percent; the same name and count always wait the same."""
    policy = Supervision()
    base = min(60_000, 1_000 * 2 ** min(failures - 1, 20))
    wait_ms = backoff_ms(policy, failures, name)
    assert 0.9 * base <= wait_ms <= 1.1 * base
    assert wait_ms == backoff_ms(policy, failures, name)
