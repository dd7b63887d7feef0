"""Who may enter a full queue, who gives way, and what stands before whom."""

import pytest

from orchqueue.core.ids import TaskId
from orchqueue.core.lines import Line
from orchqueue.core.outcome import Outcome
from orchqueue.core.policies import fair
from orchqueue.core.queue import Full, PoolQueue, Room
from orchqueue.core.ranks import Work
from orchqueue.core.request import Priority, TaskSpec
from orchqueue.core.settings import ClassSettings
from orchqueue.core.task import Task
from tests.unit.core.driving import TENANT, both_classes


def waiting(seq: int, priority: Priority = "interactive", cost_tokens: int = 1) -> Task:
    return Task(TaskId(f"t{seq}"), TENANT, TaskSpec(prompt="hi", priority=priority), "", seq, cost_tokens=cost_tokens)


def filled(queue: PoolQueue, *priorities: Priority) -> PoolQueue:
    for seq, priority in enumerate(priorities, start=1):
        queue.push(waiting(seq, priority))
    return queue


def victim(queue: PoolQueue, priority: str) -> str:
    room = queue.make_room(priority)
    assert isinstance(room, Room)
    assert room.victim is not None
    return f"{room.victim.task_id} {room.victim_outcome.value}"


@pytest.mark.req("ORCH-3004", "ORCH-3006")
def test_a_queue_takes_exactly_as_many_as_it_holds() -> None:
    """One below the bound there is room and no victim; at the bound there is none, whether of the class or of the pool."""
    queue = filled(PoolQueue(3, both_classes(2)), "interactive")
    assert queue.make_room("interactive") == Room()
    queue.push(waiting(2))
    assert queue.make_room("interactive") == Full(Outcome.REJECTED_FULL), "the class is full"
    assert queue.make_room("batch") == Room()
    queue.push(waiting(3, "batch"))
    assert queue.make_room("batch") == Full(Outcome.REJECTED_FULL), "the pool is full"
    assert len(queue) == 3


@pytest.mark.req("ORCH-4157", "ORCH-4158")
def test_drop_lru_takes_the_oldest_of_the_lowest_class_not_above_the_newcomer() -> None:
    """Batch gives way first, then the newcomer's own class; a batch newcomer never drops an interactive task."""
    classes = both_classes(9, "drop-lru")
    both = filled(PoolQueue(4, classes), "interactive", "batch", "batch", "interactive")
    assert victim(both, "interactive") == "t2 dropped_victim"
    assert victim(both, "batch") == "t2 dropped_victim"
    alone = filled(PoolQueue(2, classes), "interactive", "interactive")
    assert victim(alone, "interactive") == "t1 dropped_victim"
    assert alone.make_room("batch") == Full(Outcome.DROPPED_NO_VICTIM)


@pytest.mark.req("ORCH-4157")
def test_the_lowest_class_is_the_one_of_the_smallest_weight() -> None:
    """Which class is lower follows from the weights that the operator gave, not from its name."""
    classes = (ClassSettings("interactive", 1, 9, "drop-lru"), ClassSettings("batch", 8, 9, "drop-lru"))
    queue = filled(PoolQueue(2, classes), "batch", "interactive")
    assert victim(queue, "batch") == "t2 dropped_victim"


@pytest.mark.req("ORCH-4160")
def test_a_full_class_gives_way_in_itself_only() -> None:
    """A full interactive line drops its own oldest, though batch tasks wait in the pool, and sheds none of them."""
    dropping = filled(PoolQueue(9, both_classes(2, "drop-lru")), "batch", "interactive", "interactive")
    assert victim(dropping, "interactive") == "t2 dropped_victim"
    shedding = filled(PoolQueue(9, both_classes(2, "shed-low-priority")), "batch", "interactive", "interactive")
    assert shedding.make_room("interactive") == Full(Outcome.REJECTED_SHED)


@pytest.mark.req("ORCH-4159")
def test_shedding_takes_the_youngest_batch_task_for_an_interactive_one() -> None:
    """A batch newcomer is refused, an interactive one displaces the batch task that waited least, else it is refused too."""
    queue = filled(PoolQueue(3, both_classes(9, "shed-low-priority")), "batch", "batch", "interactive")
    assert victim(queue, "interactive") == "t2 shed_victim"
    assert queue.make_room("batch") == Full(Outcome.REJECTED_SHED)
    alone = filled(PoolQueue(1, both_classes(9, "shed-low-priority")), "interactive")
    assert alone.make_room("interactive") == Full(Outcome.REJECTED_SHED)


@pytest.mark.req("ORCH-4161")
def test_the_victim_is_named_and_stays_until_its_end() -> None:
    """Asking for room changes nothing: the caller ends the victim, which takes it out."""
    queue = filled(PoolQueue(1, both_classes(9, "drop-lru")), "batch")
    assert victim(queue, "interactive") == victim(queue, "interactive") == "t1 dropped_victim"
    assert queue.turns() == ["batch"]


@pytest.mark.req("ORCH-3005")
def test_a_line_keeps_the_order_of_acceptance_whatever_the_order_of_coming() -> None:
    """A task that comes back takes its old place, one that goes leaves the others where they are."""
    line = Line(fair)
    tasks = {seq: waiting(seq, cost_tokens=10 * seq) for seq in (1, 3, 4, 2)}
    for task in tasks.values():
        line.push(task)
    assert [task.seq for task in line] == [1, 2, 3, 4]
    assert (line.oldest, line.youngest, line.cost_tokens) == (tasks[1], tasks[4], 100)
    line.remove(tasks[2])
    assert [task.seq for task in line] == [1, 3, 4]
    assert [line.position(task) for task in line] == [0, 1, 2]
    assert (len(line), line.cost_tokens) == (3, 80)


@pytest.mark.req("ORCH-3029", "ORCH-4153")
@pytest.mark.parametrize(
    ("priority", "position", "others", "ahead"),
    [
        ("interactive", 0, 5, {"interactive": 0, "batch": 0}),
        ("interactive", 7, 5, {"interactive": 7, "batch": 0}),
        ("interactive", 8, 5, {"interactive": 8, "batch": 1}),
        ("interactive", 20, 1, {"interactive": 20, "batch": 1}),
        ("batch", 0, 20, {"batch": 0, "interactive": 8}),
        ("batch", 1, 20, {"batch": 1, "interactive": 16}),
        ("batch", 1, 3, {"batch": 1, "interactive": 3}),
        ("batch", 1, 0, {"batch": 1}),
    ],
)
def test_who_starts_before_a_task_follows_from_the_weights(
    priority: Priority, position: int, others: int, ahead: dict[str, int]
) -> None:
    """Eight interactive tasks go before each batch task, one batch task after each eight interactive ones."""
    other: Priority = "batch" if priority == "interactive" else "interactive"
    queue = PoolQueue(99, both_classes(99))
    for seq in range(1, others + 1):
        queue.push(waiting(seq, other, cost_tokens=3))
    mine = [waiting(100 + seq, priority, cost_tokens=5) for seq in range(position + 2)]
    for task in mine:
        queue.push(task)
    assert queue.ahead_by_class(mine[position]) == ahead
    tokens = 5 * ahead[priority] + 3 * ahead.get(other, 0)
    assert queue.ahead(mine[position]) == Work(sum(ahead.values()), tokens, 0)


@pytest.mark.req("ORCH-3029", "ORCH-4153")
def test_a_class_of_equal_weight_lets_one_pass_more() -> None:
    """Of two classes with equal shares the other one may be served first, so one more of it counts as ahead."""
    queue = PoolQueue(99, both_classes(99, interactive=1))
    for seq in range(1, 9):
        queue.push(waiting(seq, "batch"))
    first, second = waiting(10), waiting(11)
    queue.push(first)
    queue.push(second)
    assert queue.ahead_by_class(first) == {"interactive": 0, "batch": 1}
    assert queue.ahead_by_class(second) == {"interactive": 1, "batch": 2}


@pytest.mark.req("ORCH-3029")
def test_the_tokens_ahead_are_exact_in_the_own_line_and_an_average_of_another_class() -> None:
    """Who stands ahead in its own line is known; of another class a part costs its share of the whole, rounded down."""
    queue = PoolQueue(99, both_classes(99))
    for seq, cost in enumerate((10, 1, 2), start=1):
        queue.push(waiting(seq, cost_tokens=cost))
    last = queue.lines["interactive"].youngest
    assert queue.ahead(last) == Work(2, 11, 0)
    batch = waiting(9, "batch")
    queue.push(batch)
    assert queue.ahead(batch) == Work(3, 13, 0)
    for seq in range(20, 29):
        queue.push(waiting(seq, cost_tokens=4))
    assert queue.ahead(batch) == Work(8, 49 * 8 // 12, 0)


@pytest.mark.req("ORCH-4205")
def test_a_lowered_bound_evicts_nobody() -> None:
    """Who waits stays, and newcomers see the new bound and the new policy at once."""
    queue = filled(PoolQueue(9, both_classes(9)), "batch", "batch", "interactive")
    queue.configure(2, (ClassSettings("interactive", 5, 9, "drop-lru"), ClassSettings("batch", 2, 9)))
    assert len(queue) == 3
    assert queue.make_room("batch") == Full(Outcome.REJECTED_FULL)
    assert victim(queue, "interactive") == "t1 dropped_victim"
    assert queue.weights == {"interactive": 5, "batch": 2}
    assert queue.turns() == ["interactive", "batch"]


@pytest.mark.req("ORCH-4119")
def test_places_of_a_full_class_come_with_its_own_turns() -> None:
    """A full pool gives one with every start; a full class waits until the others have had their turns."""
    queue = PoolQueue(99, both_classes(2))
    assert queue.between_places("batch") == Work(1, 1, 0)
    for seq, priority, cost in ((1, "batch", 10), (2, "batch", 20), (3, "interactive", 4), (4, "interactive", 6)):
        queue.push(waiting(seq, priority, cost_tokens=cost))  # type: ignore[arg-type]
    assert queue.between_places("batch") == Work(3, 15 + 10, 0)
    assert queue.between_places("interactive") == Work(1, 5, 0)
    queue.configure(4, both_classes(2))
    assert queue.between_places("batch") == queue.between_places("interactive") == Work(1, 10, 0)


@pytest.mark.req("ORCH-4119")
def test_a_class_with_nothing_waiting_gets_the_pools_next_place() -> None:
    """Where its line is empty there is no turn of its own to wait for."""
    queue = PoolQueue(99, both_classes(9))
    queue.push(waiting(1, cost_tokens=7))
    assert queue.between_places("batch") == Work(1, 7, 0)


@pytest.mark.req("ORCH-4205", "ORCH-4360")
def test_another_policy_keeps_the_bound_and_who_waits() -> None:
    """With first come, first served the pool is as full as before, and only what came earlier stands ahead."""
    queue = filled(PoolQueue(9, both_classes(9)), "batch", "interactive", "batch", "interactive")
    queue.configure(4, both_classes(9), "fifo")
    assert queue.make_room("interactive") == Full(Outcome.REJECTED_FULL)
    assert queue.turns() == ["batch", "interactive"]
    assert queue.ahead_by_class(queue.lines["interactive"].youngest) == {"interactive": 1, "batch": 2}
    assert queue.ahead_by_class(queue.lines["interactive"].oldest) == {"interactive": 0, "batch": 1}


@pytest.mark.req("ORCH-4363")
def test_a_prompt_token_is_priced_in_millionths_of_a_decoded_one() -> None:
    """As fast as decoding it costs one, three times as fast a third, rounded down."""
    queue = PoolQueue(9, both_classes(9))
    for prefill_us, decode_us, prompt_ppm in ((7, 7, 1_000_000), (1, 3, 333_333)):
        queue.price_prompts(prefill_us, decode_us)
        assert {line.prompt_ppm for line in queue.lines.values()} == {prompt_ppm}


@pytest.mark.req("ORCH-4365")
def test_who_may_still_come_and_pass_is_what_the_weights_leave() -> None:
    """Eight interactive tasks may pass the first batch task: those that wait, and as many to come as are missing."""
    queue = PoolQueue(9, both_classes(9))
    first = waiting(1, "batch")
    queue.push(first)
    assert (queue.look_ahead(first).classes, queue.look_ahead(first).to_come) == ({"batch": Work()}, {"interactive": 8})
    queue.push(waiting(2))
    seen = queue.look_ahead(first)
    assert (seen.classes["interactive"], seen.to_come) == (Work(1, 1), {"interactive": 7})
    assert (seen.own, seen.others, seen.later) == (Work(), Work(), [])
