"""Planted bugs in quotas, usage and the log of decisions; see `mutants` for those in the queue and in what is told.

Req: ORCH-4238
"""

from __future__ import annotations

from unittest import mock

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import log_entries, quotas, recovery_flow, submit_flow
from orchqueue.core.accounts import Hold
from orchqueue.core.decisions import Bound
from orchqueue.core.ids import TaskKey, Tenant
from orchqueue.core.ledger import Demand, Excess, Ledger
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import CANCELED, Outcome, Refusal
from orchqueue.core.records import Booking
from orchqueue.core.state import State
from orchqueue.core.task import Task
from orchqueue.core.usage import Usage
from orchqueue_sim.planting import Bed, Planted

BOOKS = Bed()


@BOOKS.within(200)
def start_not_logged() -> Planted:
    """Keep second attempts out of the decision log."""
    real = Orchestrator._taken  # noqa: SLF001 - a mutant works from the inside

    def taken(self: Orchestrator) -> list[fx.AnyEffect]:
        return [
            e
            for e in real(self)
            if not (isinstance(e, fx.LogDecision) and isinstance(e.decision, Bound) and e.decision.attempt > 1)
        ]

    return mock.patch.object(Orchestrator, "_taken", taken)


@BOOKS.within(200)
def refusal_logged_as_another() -> Planted:
    """Log that a full queue was an invalid request."""
    real = log_entries.log_refused

    def log_refused(state: State, key: TaskKey, refusal: Refusal, now_ms: int, *facts: object) -> None:
        if refusal.outcome is Outcome.REJECTED_FULL:
            refusal = msgspec.structs.replace(refusal, outcome=Outcome.INVALID)
        real(state, key, refusal, now_ms, *facts)  # type: ignore[arg-type]

    return mock.patch.object(submit_flow, "log_refused", log_refused)


@BOOKS.within(200)
def no_refund_on_cancel() -> Planted:
    """Keep all tokens that were taken for a task that is canceled."""
    real = quotas._used_tokens  # noqa: SLF001 - a mutant works from the inside

    def used(task: Task) -> int:
        canceled = task.ended is not None and task.ended.outcome in CANCELED
        return task.hold.tokens if canceled and task.hold is not None else real(task)

    return mock.patch.object(quotas, "_used_tokens", used)


@BOOKS.within(200)
def settle_twice() -> Planted:
    """Give back what a task did not use, and then once more."""
    real = Ledger.settle

    def settle(self: Ledger, hold: Hold, used_tokens: int, now_ms: int) -> None:
        real(self, hold, 2 * used_tokens - hold.tokens, now_ms)

    return mock.patch.object(Ledger, "settle", settle)


@BOOKS.within(200)
def reservation_lost_in_recovery() -> Planted:
    """Let tasks of an earlier life run without an account."""
    without = mock.Mock(wraps=quotas)
    without.reserve_again = lambda _state, _task, _pool: None
    return mock.patch.object(recovery_flow, "quotas", without)


@BOOKS.within(200)
def fresh_minute_after_a_crash() -> Planted:
    """Forget what ended tasks of an earlier life used."""
    return mock.patch.object(Ledger, "restore", return_value=None)


@BOOKS.within(200)
def quota_of_keys_ignored() -> Planted:
    """Ask for the tenant's limits alone."""
    real = Ledger.excess

    def excess(self: Ledger, tenant: Tenant, key_id: str, demand: Demand, now_ms: int) -> Excess | None:
        found = real(self, tenant, key_id, demand, now_ms)
        return None if found is not None and found.scope == "key" else found

    return mock.patch.object(Ledger, "excess", excess)


@BOOKS.within(200)
def refusals_cost_a_request() -> Planted:
    """Take a request from both accounts for a task that is refused."""
    real = Ledger.excess

    def excess(self: Ledger, tenant: Tenant, key_id: str, demand: Demand, now_ms: int) -> Excess | None:
        found = real(self, tenant, key_id, demand, now_ms)
        if found is not None:
            self.restore(tenant, key_id, 0, 0, now_ms, now_ms)
        return found

    return mock.patch.object(Ledger, "excess", excess)


@BOOKS.within(200)
def usage_booked_twice() -> Planted:
    """Count what was booked of forgotten tasks once more when the daemon starts."""
    real = Usage.book

    def book(self: Usage, tenant: Tenant, booking: Booking) -> None:
        real(self, tenant, booking)
        real(self, tenant, booking)

    return mock.patch.object(Usage, "book", book)
