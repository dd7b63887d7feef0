"""The invariants bite: each kind of damage is told, and a sound core is left alone."""

from collections.abc import Callable

import msgspec
import pytest

from orchqueue.core.ids import AttemptId, ReplicaId, Tenant
from orchqueue.core.invariants import violations
from orchqueue.core.lines import Line
from orchqueue.core.state import Attempt, State
from orchqueue.core.task_states import TaskState
from tests.unit.core.driving import Driver, key

A, R = AttemptId(1), ReplicaId("pr0")


def sound() -> State:
    """Give a core with one task running and read, two waiting, one ended."""
    core = Driver()
    core.submit("running", max_tokens=4)
    core.submit("waiting", max_tokens=4)
    core.submit("later", max_tokens=4)
    core.submit("gone")
    core.cancel("gone")
    assert violations(core.core.state) == []
    return core.core.state


def known_by_another_key(state: State) -> None:
    state.active[key("x")] = state.active.pop(key("running"))


def unknown(state: State) -> None:
    del state.tasks[key("running")]


def not_queued(state: State) -> None:
    state.pools[next(iter(state.pools))].queue.remove(state.tasks[key("waiting")])


def queued_while_running(state: State) -> None:
    state.pools[next(iter(state.pools))].queue.push(state.tasks[key("running")])


def running_without_attempt(state: State) -> None:
    state.tasks[key("running")].attempt_id = None


def waiting_with_attempt(state: State) -> None:
    state.tasks[key("waiting")].attempt_id = A


def owned_by_a_closed_attempt(state: State) -> None:
    del state.attempts[A]
    state.slots.release(A)


def line_of(state: State) -> Line:
    return state.pools[next(iter(state.pools))].queue.lines["interactive"]


def of_another_tenant(state: State) -> None:
    line = line_of(state)
    task = msgspec.structs.replace(line.oldest, tenant=Tenant("other"))
    line.by_seq[task.seq] = task


def out_of_turn(state: State) -> None:
    line_of(state)._turns.clear()


def out_of_order(state: State) -> None:
    line_of(state).arrivals.add(0, 0, 0)


def miscounted(state: State) -> None:
    next(iter(line_of(state).by_seq.values())).cost_tokens += 1


def slot_without_attempt(state: State) -> None:
    state.slots.size(R, 2)
    state.slots.acquire(R, AttemptId(9))


def more_than_there_are(state: State) -> None:
    state.slots.size(R, 0)


def ended_and_not_kept(state: State) -> None:
    del state.retained[key("gone")]


def read_and_not_followed(state: State) -> None:
    state.tasks[key("running")].readers = 1


def neither_active_nor_ended(state: State) -> None:
    del state.active[key("waiting")]


@pytest.mark.req("ORCH-4236")
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (known_by_another_key, "acme/x is active but not known by its key"),
        (unknown, "acme/running is active but not known by its key"),
        (not_queued, "acme/waiting is waiting but does not stand in its queue"),
        (queued_while_running, "acme/running is bound but stands in its queue"),
        (running_without_attempt, "acme/running is bound with attempt None"),
        (waiting_with_attempt, "acme/waiting is waiting with attempt 1"),
        (owned_by_a_closed_attempt, "acme/running is owned by attempt 1, which is closed"),
        (out_of_order, "line interactive of p has lost count of its arrivals"),
        (of_another_tenant, "line interactive of p mixes up its tenants"),
        (of_another_tenant, "line interactive of p gives turns to others than the first of each tenant"),
        (out_of_turn, "line interactive of p is out of turn"),
        (miscounted, "line interactive of p has lost count of its cost"),
        (slot_without_attempt, "slots are held by [1, 9], attempts are [1]"),
        (more_than_there_are, "pr0 has 1 attempts on 0 slots"),
        (ended_and_not_kept, "ended and retained tasks differ"),
        (read_and_not_followed, "followed tasks are not those that are read"),
        (neither_active_nor_ended, "some task is neither active nor ended"),
    ],
)
def test_each_kind_of_damage_is_told(damage: Callable[[State], None], told: str) -> None:
    """A core that was harmed from the outside says what is wrong with it."""
    state = sound()
    damage(state)
    assert told in violations(state)


@pytest.mark.req("ORCH-4236")
def test_an_attempt_may_outlive_its_task() -> None:
    """Slots held by attempts that own nothing any more are sound: the engine has not stopped yet."""
    state = sound()
    state.attempts[AttemptId(9)] = Attempt(AttemptId(9), key("gone"), R, 0, 1)
    state.slots.size(R, 2)
    state.slots.acquire(R, AttemptId(9))
    assert state.tasks[key("gone")].state is TaskState.ENDED
    assert violations(state) == []
