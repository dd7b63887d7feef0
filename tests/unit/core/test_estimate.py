"""Predictions against brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core.estimate import (
    Passers,
    Rates,
    SlotFrees,
    passed_on_the_way,
    remaining_tokens,
    service_ms,
    smooth,
    start_after_ms,
)
from orchqueue.core.events import ReplicaFacts
from orchqueue.core.replica_flow import backoff_ms
from orchqueue.core.settings import Supervision

SLOTS = st.lists(st.integers(0, 60), min_size=1, max_size=6)


def certain(levels: list[int]) -> list[SlotFrees]:
    """Make slots of which it is known when they free."""
    return [SlotFrees(level, 0) for level in levels]


def by_chance(levels: list[int]) -> list[SlotFrees]:
    """Make slots that free at any time, on average after so long."""
    return [SlotFrees(level, level) for level in levels]


@pytest.mark.req("ORCH-3029")
@given(levels=SLOTS, ahead=st.integers(0, 30), each_ms=st.integers(0, 40))
def test_a_queue_run_forward_gives_the_start(levels: list[int], ahead: int, each_ms: int) -> None:
    """Where lengths are certain, task by task on the slot that is free first gives the same start."""
    slots = sorted(levels)
    for _ in range(ahead):
        slots[slots.index(min(slots))] += each_ms
    assert start_after_ms(certain(levels), ahead, each_ms) == min(slots)


@pytest.mark.req("ORCH-3029")
@given(levels=SLOTS, ahead=st.integers(0, 400), each_ms=st.integers(0, 40))
def test_a_long_queue_is_not_walked_and_still_predicted_within_one_task(
    levels: list[int], ahead: int, each_ms: int
) -> None:
    """Beyond the first tasks the work is poured over the slots."""
    slots = sorted(levels)
    for _ in range(ahead):
        slots[slots.index(min(slots))] += each_ms
    assert abs(start_after_ms(certain(levels), ahead, each_ms) - min(slots)) <= each_ms


@pytest.mark.req("ORCH-3029")
@given(levels=SLOTS, ahead=st.integers(0, 400), each_ms=st.integers(0, 400))
def test_more_work_never_means_an_earlier_start(levels: list[int], ahead: int, each_ms: int) -> None:
    """The prediction rises with what is ahead and falls with another free slot."""
    slots = certain(levels)
    assert start_after_ms(slots, ahead, each_ms) <= start_after_ms(slots, ahead + 1, each_ms)
    assert start_after_ms(slots, ahead, each_ms) <= start_after_ms(slots, ahead, each_ms + 1)
    assert start_after_ms([*slots, SlotFrees(0, 0)], ahead, each_ms) <= start_after_ms(slots, ahead, each_ms)


@pytest.mark.req("ORCH-3029")
@given(slots=st.integers(1, 40), ahead=st.integers(0, 200), each_ms=st.integers(100, 5_000))
def test_rates_of_slots_that_free_by_chance_add_up(slots: int, ahead: int, each_ms: int) -> None:
    """With lengths of pure chance n slots free n times as often as one; told is the median, a third of a time below the mean."""
    exact_ms = (ahead + 2 / 3) * each_ms / slots
    assert abs(start_after_ms(by_chance([each_ms] * slots), ahead, each_ms) - exact_ms) <= 3


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize(
    ("slots", "ahead", "each_ms", "start_ms"),
    [
        ([SlotFrees(300, 0), SlotFrees(600, 0)], 0, 500, 300),
        ([SlotFrees(300, 300), SlotFrees(600, 600)], 0, 500, 133),
        ([SlotFrees(300, 150), SlotFrees(600, 181)], 0, 500, 221),
        ([SlotFrees(300, 300), SlotFrees(600, 600)], 1, 500, 393),
        ([SlotFrees(300, 300), SlotFrees(600, 600)], 3, 500, 891),
        ([SlotFrees(0, 0), SlotFrees(600, 600)], 0, 500, 0),
        ([SlotFrees(0, 0), SlotFrees(0, 0)], 2, 10, 10),
    ],
)
def test_the_more_lengths_are_chance_the_sooner_some_slot_frees(
    slots: list[SlotFrees], ahead: int, each_ms: int, start_ms: int
) -> None:
    """With no spread it is the plan, with as much as pure chance has the rates; between them a mixture."""
    assert start_after_ms(slots, ahead, each_ms) == start_ms


@pytest.mark.req("ORCH-4365")
@given(
    start_ms=st.integers(0, 10**6),
    passers=st.lists(st.builds(Passers, st.integers(0, 1_500), st.integers(0, 10**6)), max_size=3),
)
def test_who_passes_on_the_way_is_a_fixed_point(start_ms: int, passers: list[Passers]) -> None:
    """The wait is the work ahead and what comes at its rates in just that time, each kind up to its bound."""
    found = passed_on_the_way(start_ms, passers)
    again = start_ms + sum(min(one.at_most_ms, one.permille * found // 1_000) for one in passers)
    assert start_ms <= found <= start_ms + sum(one.at_most_ms for one in passers)
    steep = 1_000 / max(
        1, 1_000 - sum(one.permille for one in passers if one.permille * found < 1_000 * one.at_most_ms)
    )
    assert abs(found - again) <= 2 + len(passers) + steep


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
    assert (rates.basis, rates.decode_us) == ("measured", 9_000)
    rates.start_from(facts)
    assert (rates.basis, rates.decode_us) == ("measured", 9_000)
    rates.learn(0, 0, 0, 0, 2)
    assert rates.decode_us == 9_000


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
        3: 34_062,
        4: 34_062,
        9: 34_062,
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


@pytest.mark.req("ORCH-4166")
def test_reading_is_measured_at_each_number_of_tasks_too() -> None:
    """Prompts are read more slowly beside others; where only decoding was measured, reading is told as it is overall."""
    rates = Rates()
    rates.learn(10, 20, 10, 100, 1)
    rates.learn(10, 60, 10, 300, 2)
    rates.learn(0, 0, 10, 500, 4)
    assert {busy: rates.at(busy).prefill_us for busy in (1, 2)} == {1: 2_000, 2: 6_000}
    assert rates.at(4).prefill_us == rates.prefill_us == rates.prefill.us_per_token


@pytest.mark.req("ORCH-4166")
def test_what_a_slot_is_held_beside_the_engine_s_work_is_counted_with_each_task() -> None:
    """It is learned from whole attempts, smoothed like starts, and never below nothing."""
    rates = Rates(100, 1_000)
    assert service_ms(10, 10, rates, 3) == 11
    rates.learn_overhead(150, 100)
    assert rates.overhead_us == 50_000
    rates.learn_overhead(100, 140)
    assert rates.overhead_us == 43_750
    assert service_ms(10, 10, rates, 2) == 11 + 87
    rates.learn(0, 0, 10, 10, 1)
    assert rates.at(1).overhead_us == 43_750
