"""Predictions against brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core.estimate import Rates, remaining_tokens, service_ms, smooth, start_after_ms
from orchqueue.core.events import ReplicaFacts
from orchqueue.core.replica_flow import backoff_ms
from orchqueue.core.settings import Supervision

SLOTS = st.lists(st.integers(0, 60), min_size=1, max_size=6)


@pytest.mark.req("ORCH-3029")
@given(levels=SLOTS, ahead=st.integers(0, 30), each_ms=st.integers(0, 40))
def test_a_queue_run_forward_gives_the_start(levels: list[int], ahead: int, each_ms: int) -> None:
    """Task by task on the slot that is free first gives the same start."""
    slots = sorted(levels)
    for _ in range(ahead):
        slots[slots.index(min(slots))] += each_ms
    assert start_after_ms(levels, ahead, each_ms) == min(slots)


@pytest.mark.req("ORCH-3029")
@given(levels=SLOTS, ahead=st.integers(0, 400), each_ms=st.integers(0, 40))
def test_a_long_queue_is_not_walked_and_still_predicted_within_one_task(
    levels: list[int], ahead: int, each_ms: int
) -> None:
    """Beyond the first tasks the slots free one after the other at an even pace."""
    slots = sorted(levels)
    for _ in range(ahead):
        slots[slots.index(min(slots))] += each_ms
    assert abs(start_after_ms(levels, ahead, each_ms) - min(slots)) <= each_ms


@pytest.mark.req("ORCH-3029")
@given(levels=SLOTS, ahead=st.integers(0, 400), each_ms=st.integers(0, 400))
def test_more_work_never_means_an_earlier_start(levels: list[int], ahead: int, each_ms: int) -> None:
    """The prediction rises with what is ahead and falls with another free slot."""
    assert start_after_ms(levels, ahead, each_ms) <= start_after_ms(levels, ahead + 1, each_ms)
    assert start_after_ms(levels, ahead, each_ms) <= start_after_ms(levels, ahead, each_ms + 1)
    assert start_after_ms([*levels, 0], ahead, each_ms) <= start_after_ms(levels, ahead, each_ms)


@pytest.mark.req("ORCH-3029")
@given(expected=st.integers(1, 100), spread=st.integers(0, 50), done=st.integers(0, 300), limit=st.integers(1, 300))
def test_a_running_task_always_has_something_left(expected: int, spread: int, done: int, limit: int) -> None:
    """The expectation counts down to the usual miss; nothing goes beyond the limit."""
    left = remaining_tokens(expected, spread, done, limit)
    assert left >= 1
    if done < limit:
        assert left == max(1, min(limit - done, max(spread, expected - done)))


@pytest.mark.req("ORCH-4166")
def test_rates_begin_with_the_self_test_and_follow_what_is_measured() -> None:
    """The basis says what a prediction rests on; a restart does not throw measurements away."""
    rates = Rates()
    assert (rates.basis, service_ms(10, 10, rates)) == ("none", 0)
    facts = ReplicaFacts("v", "d", 1, 256, True, 100, 1_000)
    rates.start_from(facts)
    assert (rates.basis, service_ms(10, 10, rates)) == ("selftest", 11)
    rates.learn(10, 1, 10, 90, 2)
    assert (rates.basis, rates.decode_us) == ("measured", 2_000)
    rates.start_from(facts)
    assert (rates.basis, rates.decode_us) == ("measured", 2_000)
    rates.learn(0, 0, 0, 0, 2)
    assert rates.decode_us == 2_000


@pytest.mark.req("ORCH-4166")
def test_rates_are_known_for_each_number_of_tasks_at_once() -> None:
    """A lone task decodes faster than one of many; what was never measured is told by the nearest that was."""
    rates = Rates()
    assert rates.at(3) is rates, "nothing was measured"
    rates.learn(0, 0, 10, 100, 1)
    rates.learn(0, 0, 10, 300, 4)
    rates.learn(0, 0, 10, 380, 4)
    assert {busy: rates.at(busy).decode_us for busy in (1, 2, 3, 4, 9)} == {
        1: 10_000,
        2: 10_000,
        3: 31_000,
        4: 31_000,
        9: 31_000,
    }
    assert (rates.at(1).prefill_us, rates.at(1).basis) == (rates.prefill_us, "measured")


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
