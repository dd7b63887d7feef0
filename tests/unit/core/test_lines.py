"""One class's line: each tenant in order of acceptance, the tenants in turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core import lines
from orchqueue.core.ids import TaskId, Tenant
from orchqueue.core.lines import Line
from orchqueue.core.policies import fair, fifo, round_robin
from orchqueue.core.policies.policy import Policy
from orchqueue.core.ranks import Work
from orchqueue.core.request import TaskSpec
from orchqueue.core.task import Task

UNIT = fair.TOKEN


def task(seq: int, tenant: str = "a", cost: int = 10, prompt: int = 0, weight: int = 1) -> Task:
    """Make a waiting task named by tenant and number."""
    return Task(
        TaskId(f"{tenant}{seq}"),
        Tenant(tenant),
        TaskSpec(prompt="hi"),
        "",
        seq,
        prefill_tokens=prompt,
        cost_tokens=cost,
        weight=weight,
    )


def filled(*tasks: Task, policy: Policy = fair) -> Line:
    """Push tasks into a new line."""
    line = Line(policy)
    for one in tasks:
        line.push(one)
    return line


def run_out(line: Line) -> list[str]:
    """Start everything in turn; name what started."""
    started = []
    while len(line):
        following = next(iter(line))
        line.start(following)
        started.append(str(following.task_id))
        assert line.violations() == []
    return started


@pytest.mark.req("ORCH-4156")
def test_tenants_share_by_tokens() -> None:
    """A tenant of long tasks starts one while another starts as many short ones as cost the same."""
    long = [task(seq, "a", 30) for seq in (1, 2, 3)]
    short = [task(seq, "b", 10) for seq in range(4, 10)]
    assert run_out(filled(*long, *short)) == ["a1", "b4", "b5", "b6", "a2", "b7", "b8", "b9", "a3"]


@pytest.mark.req("ORCH-4156")
def test_a_heavier_tenant_gets_more() -> None:
    """With weight 2 twice the tokens of a tenant of weight 1 are served."""
    heavy = [task(seq, "a", weight=2) for seq in range(1, 7)]
    light = [task(seq, "b") for seq in range(10, 14)]
    started = run_out(filled(*heavy, *light))
    assert [sum(name[0] == "a" for name in started[:count]) for count in (3, 6, 9)] == [2, 4, 6]


@pytest.mark.req("ORCH-3005", "ORCH-4156")
def test_one_tenant_alone_is_first_in_first_out() -> None:
    """Whatever its tasks cost."""
    assert run_out(filled(*(task(seq, cost=cost) for seq, cost in ((1, 90), (2, 1), (3, 40))))) == ["a1", "a2", "a3"]


@pytest.mark.req("ORCH-4156")
def test_a_lie_is_corrected_before_the_next_turn() -> None:
    """Who says one token and takes a hundred is behind everybody who says the truth, as soon as the first task has ended."""
    line = filled(*(task(seq, "a", 1) for seq in (1, 2, 3)), *(task(seq, "b", 50) for seq in (10, 11, 12)))
    first = next(iter(line))
    line.start(first)
    assert (first.task_id, first.charged) == ("a1", UNIT)
    line.settle(first, 100)
    assert first.charged == 0
    assert line.violations() == []
    assert run_out(line) == ["b10", "b11", "a2", "b12", "a3"]


@pytest.mark.req("ORCH-4156")
def test_what_was_not_used_is_given_back() -> None:
    """Who was charged for a hundred tokens and took ten goes on as if it had been charged for ten."""
    line = filled(*(task(seq, "a", 100) for seq in (1, 2)), *(task(seq, "b", 30) for seq in (10, 11, 12)))
    first = next(iter(line))
    line.start(first)
    line.settle(first, 10)
    assert [one.task_id for one in line] == ["b10", "a2", "b11", "b12"]


@pytest.mark.req("ORCH-4156")
def test_a_start_that_came_to_nothing_is_free() -> None:
    """A task that goes back into the line takes its old place, and its charge is gone."""
    line = filled(task(1, "a"), task(2, "a"), task(5, "b"))
    first = next(iter(line))
    line.start(first)
    line.refund(first)
    line.push(first)
    assert line.violations() == []
    assert first.charged == 0
    assert run_out(line) == ["a1", "b5", "a2"]


@pytest.mark.req("ORCH-4156")
def test_leaving_the_line_changes_nobody_s_turn() -> None:
    """Who cancels and comes again stands behind its own tasks and has gained nothing."""
    line = filled(task(1, "a"), task(2, "b"), task(3, "a"), task(4, "b"))
    line.start(next(iter(line)))
    line.remove(line.by_seq[3])
    line.push(task(7, "a"))
    assert run_out(line) == ["b2", "b4", "a7"]
    again = filled(task(1, "a"), task(2, "a"), task(3, "b"))
    again.remove(again.by_seq[1])
    assert [one.task_id for one in again] == ["a2", "b3"]


@pytest.mark.req("ORCH-4363")
def test_prompts_are_paid_for() -> None:
    """A prompt token costs what it takes here: with a tenth of a decoded one, 100 of them cost ten."""
    long, short = [task(seq, "a", 10, prompt=100) for seq in (1, 2)], [task(seq, "b", 10) for seq in (5, 6, 7)]
    line = Line(fair)
    line.prompt_ppm = 100_000
    for one in (*long, *short):
        line.push(one)
    assert run_out(line) == ["a1", "b5", "b6", "a2", "b7"]
    assert long[0].charged == 20 * UNIT


@pytest.mark.req("ORCH-4364")
def test_a_newcomer_goes_next_and_saves_nothing_up() -> None:
    """Whoever comes late is served soon, then in turn: the time before does not count."""
    line = filled(*(task(seq, "a") for seq in range(1, 9)))
    for _ in range(4):
        line.start(next(iter(line)))
    for seq in (10, 11, 12):
        line.push(task(seq, "b"))
    assert run_out(line) == ["b10", "a5", "b11", "a6", "b12", "a7", "a8"]


@pytest.mark.req("ORCH-4360")
def test_without_charges_a_line_goes_by_arrival_and_with_equal_ones_task_by_task() -> None:
    """First come, first served knows no tenants; round robin takes one task of each, however long."""
    tasks = [task(1, "a", 90), task(2, "a", 90), task(3, "b", 1), task(4, "a", 1), task(5, "b", 1)]
    line = filled(*tasks, policy=fifo)
    assert line.ahead(tasks[4]) == Work(4, 182, 0)
    assert run_out(line) == ["a1", "a2", "b3", "a4", "b5"]
    assert run_out(filled(*tasks, policy=round_robin)) == ["a1", "b3", "a2", "b5", "a4"]


@pytest.mark.req("ORCH-3029", "ORCH-4156")
@given(
    costs=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30), st.integers(1, 3)), min_size=1, max_size=40),
    equal=st.booleans(),
)
def test_positions_are_those_of_the_order_that_is_run(costs: list[tuple[int, int, int]], equal: bool) -> None:
    """With equal costs a position is exact; else each other tenant's part is its share at its average cost."""
    weights = {tenant: weight for tenant, _, weight in costs}
    tasks = [
        task(seq, f"t{tenant}", 12 if equal else cost, weight=weights[tenant])
        for seq, (tenant, cost, _) in enumerate(costs)
    ]
    line = filled(*tasks)
    order = list(line)
    assert run_out(filled(*tasks)) == [one.task_id for one in order]
    for place, one in enumerate(order):
        own = [other for other in order[:place] if other.tenant == one.tenant]
        ahead = line.ahead(one)
        assert line.position(one) == ahead.tasks
        assert len(own) <= ahead.tasks <= len(tasks) - 1
        if equal:
            assert ahead == Work(place, 12 * place, 0)


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize("tenants", [lines.LOOKED_AT_MOST, lines.LOOKED_AT_MOST + 1, 200])
def test_of_many_tenants_some_are_looked_at_and_the_rest_is_like_them(tenants: int) -> None:
    """The position stays right where tenants are alike, and never exceeds what waits."""
    tasks = [task(turn * tenants + one, f"t{one}", prompt=3) for turn in range(3) for one in range(tenants)]
    line = filled(*tasks)
    last = tasks[-1]
    assert line.ahead(last) == Work(3 * tenants - 1, 10 * (3 * tenants - 1), 3 * (3 * tenants - 1))
    assert line.ahead(tasks[tenants]).tasks == tenants
    assert line.ahead(tasks[0]).tasks == 0


@pytest.mark.req("ORCH-3005")
def test_oldest_and_youngest_are_those_of_all_tenants() -> None:
    """Who gives way in a full queue goes by acceptance, not by turn."""
    line = filled(task(4, "a", 1), task(2, "b", 99), task(9, "c", 5))
    assert (line.oldest.task_id, line.youngest.task_id, line.cost_tokens, len(line)) == ("b2", "c9", 105, 3)


@pytest.mark.req("ORCH-3005")
def test_what_does_not_wait_cannot_leave() -> None:
    """Taking a task out twice is a bug of the caller."""
    line = filled(task(1), task(2))
    one = line.by_seq[1]
    line.remove(one)
    with pytest.raises(KeyError):
        line.remove(one)
    with pytest.raises(KeyError):
        line.start(one)


@pytest.mark.req("ORCH-4156")
def test_what_was_charged_too_much_is_still_claimed() -> None:
    """Two of a tenant run and are charged far too much; when they have ended it is as far behind as if nothing had been."""
    line = filled(*(task(seq, "a", 100) for seq in range(3)), *(task(seq, "b", 1) for seq in range(10, 400)))
    running = list[Task]()
    while len(running) < 2:
        following = next(iter(line))
        line.start(following)
        if following.tenant == "a":
            running.append(following)
        else:
            line.settle(following, 1)
    for one in running:
        line.settle(one, 1)
    left = [str(one.task_id) for one in line]
    assert left[0] == "a2", "it got 2, the other 100"


@pytest.mark.req("ORCH-4364")
def test_who_is_passed_over_saves_no_start_up() -> None:
    """A tenant of which nothing can run here keeps its turn; then it shares as if it had not waited."""
    stuck = [task(seq, "a") for seq in range(1, 6)]
    line = filled(*stuck, *(task(seq, "b") for seq in range(10, 20)))
    for _ in range(5):
        line.start(next(one for one in line if one.tenant == "b"))
        assert line.violations() == []
    assert run_out(line)[:7] == ["a1", "a2", "a3", "b15", "a4", "b16", "a5"]
