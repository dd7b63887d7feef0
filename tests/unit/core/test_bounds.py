"""Calls that only a bug could make, and figures at the edge of what is kept."""

import pytest

from orchqueue.core import fairness
from orchqueue.core.estimate import start_after_ms
from orchqueue.core.events import TimerFired
from orchqueue.core.ids import TaskId
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Ended
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Settings
from orchqueue.core.task import Task
from orchqueue.core.task_states import IllegalTransition, TaskState, TaskTrigger, next_task_state
from orchqueue.core.usage import DAY_MS, Usage
from tests.unit.core.driving import TENANT, pool_settings


@pytest.mark.req("ORCH-3029")
def test_a_start_on_no_slot_is_a_bug_of_the_caller() -> None:
    """Nothing is predicted where there is nothing to run on."""
    with pytest.raises(AssertionError, match=r"^no slot given$"):
        start_after_ms([], 0, 1)


@pytest.mark.req("ORCH-4153")
def test_a_start_that_nobody_ranked_counts_like_any_other() -> None:
    """A class that is served without having been asked for pays the same share."""
    weights = {"interactive": 8, "batch": 1}
    state = fairness.ShareState()
    fairness.serve(state, weights, "batch")
    starts = []
    for _ in range(9):
        name = fairness.order(state, weights, ["batch", "interactive"])[0]
        fairness.serve(state, weights, name)
        starts.append(name)
    assert starts == ["interactive"] * 8 + ["batch"]


@pytest.mark.req("ORCH-4153")
def test_a_class_that_went_before_its_turn_comes_back_without_a_claim() -> None:
    """Its tasks were canceled while it stood in the ranking; when others come it waits for a share like anybody."""
    weights = {"interactive": 8, "batch": 1}
    state = fairness.ShareState()
    fairness.order(state, weights, ["batch", "interactive"])
    for _ in range(8):
        fairness.order(state, weights, ["interactive"])
        fairness.serve(state, weights, "interactive")
    starts = []
    for _ in range(9):
        name = fairness.order(state, weights, ["batch", "interactive"])[0]
        fairness.serve(state, weights, name)
        starts.append(name)
    assert starts == ["interactive"] * 8 + ["batch"]


@pytest.mark.req("ORCH-4088", "ORCH-4189")
def test_withdrawing_from_a_day_that_is_not_kept_any_more_takes_nothing() -> None:
    """Its figures went with the day, and those of later days stay as they are."""
    usage = Usage(days_at_most=1)
    old = Task(TaskId("old"), TENANT, TaskSpec(prompt="hi"), "", 1, accepted_at_ms=0)
    new = Task(TaskId("new"), TENANT, TaskSpec(prompt="hi"), "", 2, accepted_at_ms=5 * DAY_MS)
    usage.accept(old)
    usage.accept(new)
    old.ended = Ended(TENANT, TaskId("old"), Outcome.JOURNAL_DOWN, 0, 0)
    usage.end(old)
    before = usage.picture(TENANT, 0, 9)
    usage.withdraw(old)
    assert usage.picture(TENANT, 0, 9) == before
    assert usage.rows == 1


@pytest.mark.req("ORCH-4152")
def test_what_cannot_happen_names_where_it_happened() -> None:
    """The error of an impossible step carries state and trigger, beside the words."""
    with pytest.raises(IllegalTransition) as caught:
        next_task_state(TaskState.ENDED, TaskTrigger.BIND, "t")
    assert (caught.value.state, caught.value.trigger) == (TaskState.ENDED, TaskTrigger.BIND)


@pytest.mark.req("ORCH-4013")
def test_handling_within_handling_is_a_bug() -> None:
    """Whatever fires while effects are carried out may only post."""
    core = Orchestrator(Settings((pool_settings(),)))
    core.begin(0)
    core._handling = True
    with pytest.raises(AssertionError, match="re-entered"):
        core.handle(0, TimerFired(("cool", "pr0")))
