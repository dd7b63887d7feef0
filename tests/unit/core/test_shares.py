"""The accounts of tenants inside a class."""

import pytest

from orchqueue.core import shares
from orchqueue.core.ids import Tenant
from orchqueue.core.shares import Shares

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")


@pytest.mark.req("ORCH-4156")
def test_who_was_charged_less_goes_first() -> None:
    """A start moves its tenant behind those who were charged less, and the clock to its tag."""
    accounts = Shares()
    assert (accounts.tag(A, 0), accounts.tag(B, 0), accounts.clock) == (0, 0, 0)
    accounts.start(A, 0, 10)
    assert (accounts.tag(A, 0), accounts.tag(B, accounts.clock)) == (10, 0)
    accounts.start(B, 0, 4)
    accounts.start(B, 4, 4)
    assert (accounts.tag(B, 4), accounts.clock) == (8, 4)


@pytest.mark.req("ORCH-4364")
def test_a_newcomer_begins_at_the_clock() -> None:
    """Whoever was away does not come back with a claim, and its floor stays while others are served."""
    accounts = Shares()
    accounts.start(A, 0, 10)
    accounts.start(A, 10, 10)
    assert accounts.tag(B, accounts.clock) == 10
    accounts.start(A, 20, 10)
    assert accounts.tag(B, 10) == 10


@pytest.mark.req("ORCH-4156")
def test_a_charge_is_corrected_to_what_was_used() -> None:
    """More than expected is owed, less is given back; for somebody unknown the clock is where it counts from."""
    accounts = Shares()
    accounts.start(A, 0, 10)
    accounts.correct(A, 5)
    assert accounts.tag(A, 0) == 15
    accounts.correct(A, -12)
    assert accounts.tag(A, 0) == 3
    accounts.start(B, 7, 1)
    accounts.correct(C, 2)
    assert accounts.tag(C, accounts.clock) == 9


@pytest.mark.req("ORCH-4364")
def test_at_rest_only_what_is_owed_is_remembered() -> None:
    """When nobody waits all begin anew with equal claims, but for what was charged above every start."""
    accounts = Shares()
    accounts.start(A, 0, 10)
    accounts.start(B, 0, 6)
    accounts.correct(B, 7)
    accounts.rest()
    assert (accounts.clock, len(accounts)) == (10, 1)
    assert (accounts.tag(A, 10), accounts.tag(B, 10)) == (10, 13)


@pytest.mark.req("ORCH-4156")
def test_the_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound those go that decide nothing any more, then those who owe least; whoever waits stays."""
    monkeypatch.setattr(shares, "REMEMBERED_AT_MOST", 4)
    accounts = Shares()
    for number in range(4):
        accounts.start(Tenant(f"t{number}"), number, 10)
    accounts.forget([])
    assert len(accounts) == 4, "at the bound nothing is forgotten"
    accounts.start(A, 3, 1)
    accounts.start(B, 12, 5)
    accounts.start(C, 12, 6)
    accounts.forget([Tenant("t0")])
    assert len(accounts) == 3
    assert accounts.tag(Tenant("t0"), 0) == 10, "it waits"
    assert (accounts.tag(B, 0), accounts.tag(C, 0)) == (17, 18), "they owe most"
    assert accounts.tag(A, 0) == 0, "the clock has passed it"
    assert accounts.tag(Tenant("t3"), 0) == 0, "it owes least"


@pytest.mark.req("ORCH-4156")
def test_many_who_wait_are_not_looked_through_at_every_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more waiting than are remembered otherwise, nothing is dropped, and the next look is at twice as many."""
    monkeypatch.setattr(shares, "REMEMBERED_AT_MOST", 4)
    accounts, waiting = Shares(), [Tenant(f"t{number}") for number in range(6)]
    for tenant in waiting:
        accounts.start(tenant, 0, 10)
    accounts.start(A, 0, 1)
    accounts.start(B, 10, 1)
    accounts.forget(waiting)
    assert len(accounts) == 7
    for number in range(7):
        accounts.start(Tenant(f"u{number}"), 10, 0)
    accounts.forget([])
    assert len(accounts) == 14
    accounts.start(C, 10, 0)
    accounts.forget([])
    assert len(accounts) == 1
