"""A line's order and positions to the last unit: floors, bounds, exact counts."""

import pytest

from orchqueue.core import ranks, shares
from orchqueue.core.ids import Tenant
from orchqueue.core.lines import LOOKED_AT_MOST
from orchqueue.core.policies import fair, round_robin
from orchqueue.core.policies.policy import Policy
from orchqueue.core.ranks import Ranks, Work
from orchqueue.core.shares import Shares
from tests.unit.core.test_lines import UNIT, filled, run_out, task

A, B = Tenant("a"), Tenant("b")


@pytest.mark.req("ORCH-4156")
def test_who_was_passed_over_claims_no_more_than_a_newcomer() -> None:
    """Two starts out of turn move the clock on; a newcomer begins there, and so does who could not run meanwhile."""
    line = filled(task(1, "a"), task(2, "a"), task(8, "b"))
    line.start(line.by_seq[1])
    line.start(line.by_seq[2])
    line.push(task(4, "c"))
    line.push(task(5, "b"))
    assert run_out(line) == ["c4", "b5", "b8"]


@pytest.mark.req("ORCH-4364")
def test_when_the_last_one_is_taken_out_all_begin_anew() -> None:
    """A cancelled task that leaves the line empty ends the claims of those who were served less."""
    line = filled(task(1, "a"), task(2, "b"))
    line.start(line.by_seq[1])
    line.remove(line.by_seq[2])
    line.push(task(3, "a"))
    line.push(task(4, "b"))
    assert run_out(line) == ["a3", "b4"]


@pytest.mark.req("ORCH-4156", "ORCH-4363")
@pytest.mark.parametrize(("tokens", "charged"), [(0, 1), (1, 1), (2, 2)])
def test_a_task_costs_its_tokens_and_at_least_one(tokens: int, charged: int) -> None:
    """What was settled stands in its tenant's account; prompts are free until it is known what they take."""
    line = filled(task(1, "a", 10, prompt=1_000_000))
    first = line.by_seq[1]
    line.start(first)
    assert first.charged == 10 * UNIT
    line.settle(first, tokens)
    assert line.shares.tag(A, 0) == charged * UNIT


@pytest.mark.req("ORCH-4156")
def test_of_too_many_accounts_those_stay_whose_tenants_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who still waits is remembered however little it owes; of those who have gone half as many as there may be, the most owed."""
    monkeypatch.setattr(shares, "REMEMBERED_AT_MOST", 2)
    line = filled(task(1, "c", 50), task(2, "d", 40), task(3, "b", 10), task(4, "b", 10))
    for seq in (1, 2, 3):
        line.start(line.by_seq[seq])
    assert (len(line.shares), line.shares.tag(B, 0), line.shares.tag(Tenant("c"), 0)) == (2, 10 * UNIT, 50 * UNIT)


@pytest.mark.req("ORCH-4156")
def test_accounts_that_the_clock_has_reached_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that ends where the clock stands decides nothing; where nothing is charged the clock stays at its beginning."""
    monkeypatch.setattr(shares, "REMEMBERED_AT_MOST", 4)
    accounts = Shares()
    for name in ("t0", "t1", "t2", "t3"):
        accounts.start(Tenant(name), 0, 10)
    accounts.start(A, 10, 5)
    accounts.forget([])
    assert len(accounts) == 1
    free = Shares()
    free.start(A, 0, 0)
    free.rest()
    assert (free.clock, len(free)) == (0, 0)


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize("policy", [fair, round_robin])
def test_with_equal_costs_every_position_is_exact_after_some_starts_too(policy: Policy) -> None:
    """What each tenant was charged before counts, under every policy that charges."""
    line = filled(*(task(4 * one + seq, "abc"[one]) for one in range(3) for seq in range(4)), policy=policy)
    for _ in range(5):
        line.start(next(iter(line)))
    order = list(line)
    assert [one.task_id for one in order] == ["c9", "a2", "b6", "c10", "a3", "b7", "c11"]
    assert [line.position(one) for one in order] == list(range(7))


@pytest.mark.req("ORCH-4365")
def test_tenants_with_a_task_behind_are_told() -> None:
    """Of b something starts later, of c and d everything starts before."""
    last = task(9, "a")
    line = filled(*(task(seq, "b", 10) for seq in range(1, 5)), task(5, "c"), task(6, "d"), task(8, "a", 25), last)
    own, others, later = line.ahead_in_parts(last)
    assert (own, others, later) == (Work(1, 25), Work(5, 50), [B])


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize("others", [LOOKED_AT_MOST, LOOKED_AT_MOST + 1, LOOKED_AT_MOST + 2])
def test_the_first_task_of_a_tenant_counts_every_tenant_before_it(others: int) -> None:
    """One or two tenants beyond those that are looked at are no fewer for that."""
    last = task(others, "late")
    line = filled(*(task(one, f"t{one}") for one in range(others)), last)
    assert line.ahead(last) == Work(others, 10 * others)


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize(
    ("looked_at", "beyond", "ahead"),
    [
        ([3] * LOOKED_AT_MOST, [1, 1], 3 * LOOKED_AT_MOST + 2),
        ([2] + [1] * (LOOKED_AT_MOST - 1), [2], LOOKED_AT_MOST + 2),
    ],
)
def test_the_tenants_beyond_are_like_those_looked_at_but_no_more_than_wait(
    looked_at: list[int], beyond: list[int], ahead: int
) -> None:
    """Three tasks each is the average, and only two are left; one more task than tenants makes one of one tenant, rounded down."""
    line = filled(task(0, "own", 1_000), task(999, "own"))
    seq = 0
    for number, count in enumerate([*looked_at, *beyond]):
        for _ in range(count):
            seq += 1
            line.push(task(seq, f"t{number:02}"))
    assert line.ahead(line.by_seq[999]) == Work(1 + ahead, 1_000 + 10 * ahead)


@pytest.mark.req("ORCH-3005")
def test_blocks_are_halved_where_they_grow_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order each block is filled to its size; one that more are put into than twice that is cut in two, wherever it is."""
    monkeypatch.setattr(ranks, "BLOCK", 2)
    line = Ranks()
    for number in range(0, 80, 10):
        line.add(number, number, 1)
    assert line._numbers == [[0, 10], [20, 30], [40, 50], [60, 70]]
    for number in (25, 22):
        line.add(number, number, 1)
    assert line._numbers == [[0, 10], [20, 22, 25, 30], [40, 50], [60, 70]], "twice its size is not too much"
    line.add(21, 21, 1)
    assert line._numbers == [[0, 10], [20, 21], [22, 25, 30], [40, 50], [60, 70]]
    for number in (1, 2, 3, 61, 62, 63):
        line.add(number, number, 1)
    assert line._numbers == [[0, 1], [2, 3, 10], [20, 21], [22, 25, 30], [40, 50], [60, 61], [62, 63, 70]]
    assert line._lasts == [1, 10, 21, 30, 50, 61, 70]
    held = list(line)
    assert [line.ahead(number) for number in held] == [Work(n, sum(held[:n]), n) for n in range(len(held))]
    assert [line.at(index) for index in range(len(held))] == held


def test_taking_work_away_takes_each_part_away() -> None:
    """Tasks, tokens and prompts, each from its own."""
    assert Work(5, 7, 9).minus(Work(4, 5, 6)) == Work(1, 2, 3)
