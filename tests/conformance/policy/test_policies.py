"""What every scheduling policy keeps, whatever it prefers. A new one is a line in the registry and runs here at once."""

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core.ids import TaskId, Tenant
from orchqueue.core.policies import POLICIES
from orchqueue.core.queue import PoolQueue
from orchqueue.core.request import Priority, TaskSpec
from orchqueue.core.settings import Scheduling
from orchqueue.core.task import Task
from tests.unit.core.driving import both_classes

CLASSES: tuple[Priority, ...] = ("interactive", "batch")
ARRIVALS = st.lists(
    st.tuples(st.sampled_from(CLASSES), st.integers(0, 3), st.integers(1, 40), st.integers(0, 60)), max_size=40
)
every_policy = pytest.mark.parametrize("name", sorted(POLICIES))


def task(seq: int, priority: Priority = "batch", tenant: str = "t0", cost: int = 10, prompt: int = 0) -> Task:
    """Make a task that waits."""
    spec = TaskSpec(prompt="hi", priority=priority)
    return Task(TaskId(f"n{seq}"), Tenant(tenant), spec, "", seq, prefill_tokens=prompt, cost_tokens=cost)


def queue_of(name: str, tasks: Iterable[Task] = ()) -> PoolQueue:
    """Make a queue under a policy."""
    scheduling: Scheduling = msgspec.convert(name, Scheduling)
    queue = PoolQueue(10_000, both_classes(10_000), scheduling)
    for one in tasks:
        queue.push(one)
    return queue


def start_next(queue: PoolQueue) -> Task:
    """Start the task whose turn it is."""
    following = next(iter(queue.lines[queue.turns()[0]]))
    queue.start(following)
    return following


@every_policy
@pytest.mark.req("ORCH-4360", "ORCH-3005", "ORCH-4154")
@given(arrivals=ARRIVALS, between=st.integers(0, 3))
def test_all_that_waits_starts_and_each_tenant_in_order(
    name: str, arrivals: list[tuple[Priority, int, int, int]], between: int
) -> None:
    """A class is always named while something waits; nothing is lost or started twice; a tenant's class is in order."""
    queue, started = queue_of(name), list[Task]()
    for seq, (priority, tenant, cost, prompt) in enumerate(arrivals):
        queue.push(task(seq, priority, f"t{tenant}", cost, prompt))
        for _ in range(between if seq % 3 == 0 else 0):
            if len(queue):
                started.append(start_next(queue))
                queue.settle(started[-1])
    while len(queue):
        started.append(start_next(queue))
        assert all(line.violations() == [] for line in queue.lines.values())
    assert list(queue.turns()) == []
    assert sorted(one.seq for one in started) == list(range(len(arrivals)))
    for line in {(one.tenant, one.spec.priority) for one in started}:
        own = [one.seq for one in started if (one.tenant, one.spec.priority) == line]
        assert own == sorted(own)


@every_policy
@pytest.mark.req("ORCH-4360", "ORCH-3029")
@given(arrivals=ARRIVALS)
def test_the_same_history_gives_the_same_order(name: str, arrivals: list[tuple[Priority, int, int, int]]) -> None:
    """No clock, no chance, no order of a set decides anything."""
    orders = []
    for _ in range(2):
        queue = queue_of(
            name, (task(seq, priority, f"t{tenant}", cost) for seq, (priority, tenant, cost, _) in enumerate(arrivals))
        )
        orders.append([start_next(queue).seq for _ in arrivals])
    assert orders[0] == orders[1]


@every_policy
@pytest.mark.req("ORCH-4360", "ORCH-4155")
def test_what_is_said_of_starving_is_true(name: str) -> None:
    """With a newcomer of the heavier class before every start a batch task waits for ever, or only under a policy that says so."""
    queue = queue_of(name, [task(0)])
    for seq in range(1, 200):
        queue.push(task(seq, "interactive", f"t{seq % 3}"))
        if start_next(queue).seq == 0:
            break
    starves = any(one.seq == 0 for one in queue.lines["batch"])
    assert starves == POLICIES[msgspec.convert(name, Scheduling)].STARVES


@every_policy
@pytest.mark.req("ORCH-4360")
def test_a_tenant_is_not_starved_by_another(name: str) -> None:
    """However many tasks of one tenant come, another one's waiting task starts."""
    queue = queue_of(name, [task(seq, tenant="flood") for seq in range(50)])
    queue.push(task(50, tenant="small"))
    for seq in range(51, 200):
        queue.push(task(seq, tenant="flood"))
        if start_next(queue).tenant == "small":
            return
    pytest.fail("it never started")


@every_policy
@pytest.mark.req("ORCH-4360", "ORCH-3029")
def test_a_position_is_the_number_of_starts_until_its_own(name: str) -> None:
    """With tasks of one size and both classes waiting, nobody starts later than its position says, and none much earlier."""
    tasks = [task(seq, CLASSES[seq % 2], f"t{seq % 4}") for seq in range(24)]
    queue = queue_of(name, tasks)
    told = {one.seq: queue.ahead(one).tasks for one in tasks}
    place = {start_next(queue).seq: place for place in range(len(tasks))}
    assert all(place[seq] - 1 <= told[seq] <= place[seq] + 1 for seq in told), (told, place)


@every_policy
@pytest.mark.req("ORCH-4205", "ORCH-4360")
def test_a_policy_can_be_changed_while_tasks_wait(name: str) -> None:
    """Who waits stays in its tenant's order; the new policy decides from then on."""
    for before in POLICIES:
        queue = queue_of(before, [task(seq, CLASSES[seq % 2], f"t{seq % 3}") for seq in range(12)])
        start_next(queue)
        queue.configure(10_000, both_classes(10_000), msgspec.convert(name, Scheduling))
        assert len(queue) == 11
        assert {start_next(queue).seq for _ in range(11)} | {0, 1} >= set(range(12))
