"""What is learned and predicted, to the last unit: smallest amounts, whole numbers, nothing learned from nothing."""

import pytest

from orchqueue.core.estimate import Passers, SlotFrees, passed_on_the_way, start_after_ms
from orchqueue.core.habits import Expectation, Habits
from orchqueue.core.ids import Tenant
from orchqueue.core.inflow import Inflow, faded
from orchqueue.core.records import CountBasis


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize(
    ("levels", "ahead", "each_ms", "start_ms"),
    [
        ([1], 0, 50, 0),
        ([0, 5], 1, 1, 0),
        ([46, 2_069], 0, 50, 29),
    ],
)
def test_what_frees_by_chance_is_told_in_whole_milliseconds(
    levels: list[int], ahead: int, each_ms: int, start_ms: int
) -> None:
    """A slot may free within one, a task may take no more than one, and a mean of 44.9995 counts as 44."""
    assert start_after_ms([SlotFrees(level, level) for level in levels], ahead, each_ms) == start_ms


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize(
    ("slot", "ahead", "start_ms"),
    [(SlotFrees(2_718, 1_000), 0, 2_219), (SlotFrees(1, 1), 1, 84), (SlotFrees(1, 0), 0, 1)],
)
def test_how_much_is_chance_goes_by_whole_eighths(slot: SlotFrees, ahead: int, start_ms: int) -> None:
    """A spread of half that of chance is exactly four; one millisecond off by one is all chance; without spread it is the plan."""
    assert start_after_ms([slot], ahead, 100) == start_ms


@pytest.mark.req("ORCH-4365")
@pytest.mark.parametrize(
    ("permille", "at_most_ms", "start_ms"), [(999, 5_000, 1_000), (1_000, 300, 301), (1_001, 300, 301), (0, 300, 1)]
)
def test_work_that_takes_almost_every_slot_is_passed_by_and_what_takes_all_only_up_to_its_bound(
    permille: int, at_most_ms: int, start_ms: int
) -> None:
    """A thousandth of the slots is enough to get there in a thousand times the time."""
    assert passed_on_the_way(1, [Passers(permille, at_most_ms)]) == start_ms


@pytest.mark.req("ORCH-4361")
@pytest.mark.parametrize(
    ("counted", "basis", "real", "expected"),
    [(1, "estimate", 3, 30_000), (4, "bytes_bound", 1, 2_500), (1, "bytes_bound", 1, 10_000)],
)
def test_one_token_is_enough_to_learn_what_prompts_have(
    counted: int, basis: CountBasis, real: int, expected: int
) -> None:
    """The first prompt alone gives the exact ratio, up or down."""
    habits = Habits()
    habits.learn_prompt(counted, basis, real)
    assert habits.expect_prompt(10_000, basis) == expected


@pytest.mark.req("ORCH-4361")
def test_what_is_expected_is_told_in_whole_tokens() -> None:
    """An average of ten and a half and a miss of two and a half are told as ten and two."""
    habits = Habits()
    habits.learn("acme", "batch", "m", 10, 8)
    habits.learn("acme", "batch", "m", 11, 8)
    assert habits.expect("acme", "batch", "m", None, 64) == Expectation(10, 2)


@pytest.mark.req("ORCH-4365")
def test_what_fades_is_within_a_thousandth_of_the_power_of_a_half() -> None:
    """Eighths of a half-life to the last unit; nothing is left of anything after very long."""
    left = [faded(1_000_000, eighths, 8) for eighths in range(9)]
    assert left == [1_000_000, 917_005, 840_899, 771_115, 707_147, 648_539, 594_895, 545_875, 500_000]
    assert all(abs(one - 1_000_000 * 2 ** (-eighths / 8)) < 1_000 for eighths, one in enumerate(left))
    assert faded(10**12, 10**30, 1) == 0


@pytest.mark.req("ORCH-4365")
def test_what_comes_is_told_in_whole_thousandths_of_all_slots() -> None:
    """Half a slot's work for more than an hour is an eighth of four slots, near and far, rounded down."""
    flows = Inflow()
    for second in range(4_000):
        flows.add(Tenant("a"), 500, 1_000_000 + 1_000 * second)
    told = [flows.permille(5_000_000, slots, ahead_ms) for slots in (1, 4) for ahead_ms in (0, 10**7)]
    assert str(told) == "[497, 499, 124, 124]"
