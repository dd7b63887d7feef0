"""What outputs are expected to be: hints, habits of tenants and classes, limits."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.habits import Expectation, Habit, Habits
from orchqueue.core.ids import AttemptId
from tests.unit.core.driving import Driver


@pytest.mark.req("ORCH-4361")
def test_a_tenant_s_own_habit_comes_before_its_class_s() -> None:
    """First the hint, then what the tenant's tasks of the class and model took, then anybody's, then the limit."""
    habits = Habits()
    assert habits.expect("acme", "batch", "m", None, 64) == Expectation(64, 0)
    assert habits.expect("acme", "batch", "m", 90, 64) == Expectation(64, 0)
    assert habits.expect("acme", "batch", "m", 9, 64) == Expectation(9, 0)
    habits.learn("acme", "batch", "m", 10, 10)
    habits.learn("other", "batch", "m", 30, 30)
    assert habits.expect("acme", "batch", "m", None, 64) == Expectation(10, 0)
    assert habits.expect("other", "batch", "m", None, 64) == Expectation(30, 0)
    assert habits.expect("third", "batch", "m", None, 64) == Expectation(20, 0)
    assert habits.expect("acme", "batch", "m", 7, 64) == Expectation(7, 0)
    assert habits.expect("acme", "interactive", "m", None, 64) == Expectation(64, 0)
    assert habits.expect("acme", "batch", "other model", None, 64) == Expectation(64, 0)


@pytest.mark.req("ORCH-4361")
def test_the_spread_is_how_far_predictions_missed() -> None:
    """It is told in tokens and never reaches above the limit; a task that decodes nothing is still expected to say something."""
    habits = Habits()
    habits.learn("acme", "batch", "m", 20, 32)
    habits.learn("acme", "batch", "m", 40, 32)
    assert habits.expect("acme", "batch", "m", None, 64) == Expectation(30, 10)
    assert habits.expect("acme", "batch", "m", None, 33) == Expectation(30, 3)
    assert habits.expect("acme", "batch", "m", None, 20) == Expectation(20, 0)
    empty = Habits()
    empty.learn("acme", "batch", "m", 0, 0)
    assert empty.expect("acme", "batch", "m", None, 64).tokens == 1


@pytest.mark.req("ORCH-4361")
def test_the_first_outputs_count_alike_and_later_ones_are_forgotten_slowly() -> None:
    """The average of the first 64 is plain; after that each new one moves it by a 64th."""
    habit = Habit()
    for tokens in range(1, 65):
        habit.learn(tokens, tokens)
    assert abs(habit.mean_milli - 32_500) <= 64
    before = habit.mean_milli
    habit.learn(192, 0)
    assert habit.mean_milli == before + -(-(192_000 - before) // 64)
    assert habit.missed_milli == 3_000
    assert habit.seen == 64


@pytest.mark.req("ORCH-4361")
@given(start=st.integers(0, 10**6), tokens=st.integers(0, 10**3))
def test_what_stays_the_same_is_reached_exactly(start: int, tokens: int) -> None:
    """Rounding never keeps a habit from the figure that it is told again and again, from above or from below."""
    habit = Habit(start, 0, 64)
    for _ in range(1_600):
        habit.learn(tokens, tokens)
    assert habit.mean_milli == 1_000 * tokens


@pytest.mark.req("ORCH-4361")
def test_the_longest_silent_is_forgotten_when_there_are_too_many() -> None:
    """A flood of tenant names cannot grow the memory; the class's own habit is used all the time and stays."""
    habits = Habits(at_most=3)
    for number in range(9):
        habits.learn(f"t{number}", "batch", "m", 10 * number, 0)
    assert len(habits) == 3
    assert habits.expect("t8", "batch", "m", None, 999).tokens == 80
    assert habits.expect("t7", "batch", "m", None, 999).tokens == 70
    assert habits.expect("t0", "batch", "m", None, 999).tokens == 40


@pytest.mark.req("ORCH-4361", "ORCH-3029")
def test_the_core_learns_from_what_ends() -> None:
    """A tenant whose tasks take 3 of 200 tokens is expected to go on like that, which shortens its predictions."""
    core = Driver()
    core.submit("first", max_tokens=200)
    assert core.task("first").cost_tokens == 200
    core.complete(1, tokens_out=3)
    core.submit("second", max_tokens=200)
    assert (core.task("second").cost_tokens, core.task("second").spread_tokens) == (3, 197)


@pytest.mark.req("ORCH-4361")
def test_a_bound_from_bytes_is_brought_down_to_what_prompts_really_have() -> None:
    """Time over what was counted, forgetting slowly; an exact count is left alone and teaches nothing."""
    habits = Habits()
    assert habits.expect_prompt(90, "bytes_bound") == 90
    habits.learn_prompt(100, "tokenizer", 5)
    habits.learn_prompt(100, "bytes_bound", 0)
    habits.learn_prompt(0, "bytes_bound", 5)
    assert habits.expect_prompt(90, "estimate") == 90
    habits.learn_prompt(40, "bytes_bound", 10)
    assert [habits.expect_prompt(90, basis) for basis in ("bytes_bound", "estimate", "tokenizer")] == [22, 22, 90]
    assert habits.expect_prompt(2, "bytes_bound") == 1
    for _ in range(400):
        habits.learn_prompt(30, "bytes_bound", 15)
    assert habits.expect_prompt(90, "bytes_bound") in (44, 45)


@pytest.mark.req("ORCH-4149")
@pytest.mark.parametrize("seen_tokens", [None, 20, 79])
def test_a_deadline_is_not_judged_by_what_a_prompt_probably_has(seen_tokens: int | None) -> None:
    """A task that only its bound makes too slow is taken, whatever share of their bounds other prompts had."""
    core = Driver()
    if seen_tokens is not None:
        core.submit("first", prompt="x" * 79, max_tokens=1)
        core.handle(ev.AttemptCompleted(AttemptId(1), "stop", seen_tokens, 1, 2, 1))
        core.close(1)
    core.submit("second", prompt="x" * 199, max_tokens=1, deadline_ms=15)
    assert core.wanted(fx.Accept, core.last)


@pytest.mark.req("ORCH-4361", "ORCH-4011")
def test_an_exact_count_stays_exact_over_a_restart() -> None:
    """What the tokenizer counted is neither scaled down nor taken for a bound in the next life."""
    core = Driver()
    core.submit("first")
    record = msgspec.structs.replace(core.task("first").accepted_record(), prompt_tokens=100, prompt_basis="tokenizer")
    again = Driver()
    again.submit("teacher", prompt="x" * 39)
    again.handle(ev.AttemptCompleted(AttemptId(1), "stop", 10, 1, 2, 1))
    again.close(1)
    again.handle(ev.TaskRecovered(record))
    assert (again.task("first").prefill_tokens, again.task("first").prompt_basis) == (100, "tokenizer")
