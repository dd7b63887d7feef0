"""The transition tables and the outcome table: complete, reachable, and nothing beside them."""

from enum import Enum
from itertools import product

import pytest

from orchqueue.core.outcome import CANCELED, MEANINGS, Outcome, Refusal
from orchqueue.core.replica_states import REPLICA_TABLE, ReplicaState, ReplicaTrigger, next_replica_state
from orchqueue.core.task_states import TASK_TABLE, IllegalTransition, TaskState, TaskTrigger, next_task_state

CODES = {
    "INVALID_PARAMS": {400, 404, 409},
    "ADMISSION_REJECT": {429},
    "QUEUE_FULL_DROP_LRU": {429},
    "POOL_UNREADY": {503},
    "POOL_UNAVAILABLE": {503},
    "REPLICA_EXHAUSTED": {503},
    "DECODE_TIMEOUT": {500},
    "WORKER_RESET": {500},
    "INTERNAL": {500},
}
CANCEL_REASONS = {"client", "disconnect", "wall_timeout", "idle_timeout", "deadline", "drain"}


@pytest.mark.req("ORCH-4152")
@pytest.mark.parametrize(("state", "trigger"), list(product(TaskState, TaskTrigger)))
def test_a_task_moves_by_its_table_or_not_at_all(state: TaskState, trigger: TaskTrigger) -> None:
    """Every pair of state and trigger is in the table or names itself in an IllegalTransition."""
    if (state, trigger) in TASK_TABLE:
        assert next_task_state(state, trigger, "t") is TASK_TABLE[state, trigger]
        return
    with pytest.raises(IllegalTransition, match=f"t: {trigger.value} .* {state.value}"):
        next_task_state(state, trigger, "t")


@pytest.mark.req("ORCH-3002")
@pytest.mark.parametrize(("state", "trigger"), list(product(ReplicaState, ReplicaTrigger)))
def test_a_replica_moves_by_its_table_or_not_at_all(state: ReplicaState, trigger: ReplicaTrigger) -> None:
    """Every pair of state and trigger is in the table or names itself in an IllegalTransition."""
    if (state, trigger) in REPLICA_TABLE:
        assert next_replica_state(state, trigger, "r") is REPLICA_TABLE[state, trigger]
        return
    with pytest.raises(IllegalTransition, match=f"r: {trigger.value} .* {state.value}"):
        next_replica_state(state, trigger, "r")


@pytest.mark.parametrize(
    ("table", "first", "states"),
    [(TASK_TABLE, TaskState.COUNTING, TaskState), (REPLICA_TABLE, ReplicaState.DOWN, ReplicaState)],
)
@pytest.mark.req("ORCH-4152")
def test_every_state_can_be_reached(table: dict[tuple[Enum, Enum], Enum], first: Enum, states: type[Enum]) -> None:
    """No state stands in the table for show."""
    reached = {first}
    for _ in states:
        reached |= {after for (before, _trigger), after in table.items() if before in reached}
    assert reached == set(states)


@pytest.mark.req("ORCH-4152")
def test_an_ended_task_stays_ended() -> None:
    """Nothing leads out of the end, so there is one terminal outcome."""
    assert [t for s, t in TASK_TABLE if s is TaskState.ENDED] == []


@pytest.mark.req("ORCH-2006", "ORCH-4114", "ORCH-4115")
def test_every_outcome_has_one_meaning_within_the_closed_set_of_codes() -> None:
    """The table is total, uses exactly the nine codes, and each with the statuses that the contract declares."""
    assert set(MEANINGS) == set(Outcome)
    assert {m.code for m in MEANINGS.values() if m.code} == set(CODES)
    for outcome, meaning in MEANINGS.items():
        if meaning.code is None:
            assert meaning.status == 200, outcome
        else:
            assert meaning.status in CODES[meaning.code], outcome
        assert Refusal(outcome, "").meaning is meaning


@pytest.mark.req("ORCH-4116")
def test_what_may_be_tried_again_says_so() -> None:
    """429 and 503 are retriable, the caller's own fault never is; a policy label stands on every 429."""
    for outcome, meaning in MEANINGS.items():
        if meaning.status in (429, 503):
            assert meaning.retriable, outcome
        if meaning.status < 429:
            assert not meaning.retriable, outcome
        assert (meaning.policy_label is not None) == (meaning.status == 429), outcome
    assert {m.cancel_reason for m in MEANINGS.values() if m.cancel_reason} == CANCEL_REASONS
    assert all(MEANINGS[outcome].code is None for outcome in CANCELED)
