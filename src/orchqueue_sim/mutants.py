"""Planted bugs: each breaks one promise while its `with` block runs, so that tests see the auditor bite.

The core itself stays clean; a mutant replaces a function or a method from the outside and puts it back.

Req: ORCH-4236, ORCH-4238
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from unittest import mock

import msgspec

from orchqueue.core import (
    attempt_flow,
    ending,
    fairness,
    log_entries,
    placement,
    quotas,
    recovery_flow,
    submit_flow,
    task_flow,
)
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.accounts import Hold
from orchqueue.core.decisions import Bound
from orchqueue.core.ids import TaskKey, Tenant
from orchqueue.core.ledger import Demand, Excess, Ledger
from orchqueue.core.lines import Line
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import CANCELED, Outcome, Refusal
from orchqueue.core.queue import PoolQueue, Room
from orchqueue.core.records import Accepted, Booking, Ended
from orchqueue.core.sessions import Session, Sessions
from orchqueue.core.state import Pool, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState
from orchqueue.core.usage import Usage
from orchqueue_sim.life import Life

VICTIMS = (Outcome.DROPPED_VICTIM, Outcome.SHED_VICTIM)


def release_on_cancel() -> AbstractContextManager[object]:
    """Give the slot back when a task is canceled, though the engine has not stopped yet."""
    real = ending.end

    def end(
        state: State, task: Task, outcome: Outcome, now_ms: int, message: str = "", retry_after_ms: int | None = None
    ) -> None:
        attempt_id = task.attempt_id
        real(state, task, outcome, now_ms, message, retry_after_ms=retry_after_ms)
        if attempt_id is not None and outcome in CANCELED:
            del state.attempts[attempt_id]
            state.slots.release(attempt_id)

    return mock.patch.object(task_flow, "end", end)


def finish_twice() -> AbstractContextManager[object]:
    """End a task again when it is canceled after its end."""
    real = task_flow.on_cancel

    def on_cancel(state: State, event: ev.CancelRequested, now_ms: int) -> None:
        task = state.tasks.get(event.key)
        if task is not None and task.ended is not None:
            state.emit(fx.Record(task.ended), fx.Finish(task.key, task.ended))
        real(state, event, now_ms)

    return mock.patch.object(task_flow, "on_cancel", on_cancel)


def no_fencing() -> AbstractContextManager[object]:
    """Pass text on from attempts that no longer own their task."""
    real = attempt_flow.on_chunks

    def on_chunks(state: State, event: ev.ChunksArrived, now_ms: int) -> None:
        attempt = state.attempts.get(event.attempt_id)
        task = state.tasks.get(attempt.key) if attempt is not None else None
        if task is not None and task.attempt_id != event.attempt_id:
            state.emit(fx.EmitTokens(task.key, event.texts))
        real(state, event, now_ms)

    return mock.patch.object(attempt_flow, "on_chunks", on_chunks)


def reply_before_commit() -> AbstractContextManager[object]:
    """Tell clients of acceptances before the journal has them."""
    real = Life._passes_stall  # noqa: SLF001 - a mutant works from the inside

    def passes(self: Life, effect: fx.AnyEffect) -> bool:
        return isinstance(effect, fx.Accept) or real(self, effect)

    return mock.patch.object(Life, "_passes_stall", passes)


def forget_victim() -> AbstractContextManager[object]:
    """Drop the victim of a full queue without a word."""
    real = ending.end

    def end(
        state: State, task: Task, outcome: Outcome, now_ms: int, message: str = "", retry_after_ms: int | None = None
    ) -> None:
        if outcome not in VICTIMS:
            real(state, task, outcome, now_ms, message, retry_after_ms=retry_after_ms)
            return
        state.pools[task.pool_id].queue.remove(task)
        del state.tasks[task.key], state.active[task.key]

    return mock.patch.object(submit_flow, "end", end)


def starve_batch() -> AbstractContextManager[object]:
    """Let interactive tasks always go first."""

    def order(_state: fairness.ShareState, _weights: dict[str, int], waiting: Sequence[str]) -> Sequence[str]:
        return sorted(waiting, reverse=True)

    return mock.patch.object(fairness, "order", order)


def lifo() -> AbstractContextManager[object]:
    """Start the youngest task first."""

    def youngest_first(self: Line) -> Iterator[Task]:
        return (self.by_seq[seq] for seq in reversed(list(self.arrivals)))

    return mock.patch.object(Line, "__iter__", youngest_first)


def cancel_ignored_while_bound() -> AbstractContextManager[object]:
    """Answer a cancel with 204 but let the engine go on when no token has come yet."""
    real = task_flow.on_cancel

    def on_cancel(state: State, event: ev.CancelRequested, now_ms: int) -> None:
        task = state.tasks.get(event.key)
        if task is not None and task.state is TaskState.BOUND:
            state.emit(fx.Done(event.reply))
        else:
            real(state, event, now_ms)

    return mock.patch.object(task_flow, "on_cancel", on_cancel)


def count_turn_twice() -> AbstractContextManager[object]:
    """Take two turns from a session for one task."""
    real = Sessions.count_turn

    def count(self: Sessions, key: tuple[str, str], now_ms: int) -> Session:
        session = real(self, key, now_ms)  # type: ignore[arg-type]
        session.turns = min(self.limits.max_turns, session.turns + 1)
        return session

    return mock.patch.object(Sessions, "count_turn", count)


def drop_recovered_order() -> AbstractContextManager[object]:
    """Give recovered tasks places in reverse order."""
    real = recovery_flow._from_record  # noqa: SLF001 - a mutant works from the inside

    def from_record(state: State, accepted: Accepted) -> Task:
        task = real(state, accepted)
        task.seq = -task.seq
        return task

    return mock.patch.object(recovery_flow, "_from_record", from_record)


def cancel_not_recorded() -> AbstractContextManager[object]:
    """Keep the end of a canceled task out of the journal."""
    real = Orchestrator._taken  # noqa: SLF001 - a mutant works from the inside

    def taken(self: Orchestrator) -> list[fx.AnyEffect]:
        return [
            e
            for e in real(self)
            if not (isinstance(e, fx.Record) and isinstance(e.record, Ended) and e.record.outcome in CANCELED)
        ]

    return mock.patch.object(Orchestrator, "_taken", taken)


def start_not_logged() -> AbstractContextManager[object]:
    """Keep second attempts out of the decision log."""
    real = Orchestrator._taken  # noqa: SLF001 - a mutant works from the inside

    def taken(self: Orchestrator) -> list[fx.AnyEffect]:
        return [
            e
            for e in real(self)
            if not (isinstance(e, fx.LogDecision) and isinstance(e.decision, Bound) and e.decision.attempt > 1)
        ]

    return mock.patch.object(Orchestrator, "_taken", taken)


def refusal_logged_as_another() -> AbstractContextManager[object]:
    """Log that a full queue was an invalid request."""
    real = log_entries.log_refused

    def log_refused(state: State, key: TaskKey, refusal: Refusal, now_ms: int, *facts: object) -> None:
        if refusal.outcome is Outcome.REJECTED_FULL:
            refusal = msgspec.structs.replace(refusal, outcome=Outcome.INVALID)
        real(state, key, refusal, now_ms, *facts)  # type: ignore[arg-type]

    return mock.patch.object(submit_flow, "log_refused", log_refused)


def token_gap() -> AbstractContextManager[object]:
    """Pass on only the first piece of what one wake-up brought."""
    real = attempt_flow.on_chunks

    def on_chunks(state: State, event: ev.ChunksArrived, now_ms: int) -> None:
        real(state, msgspec.structs.replace(event, texts=event.texts[:1]), now_ms)

    return mock.patch.object(attempt_flow, "on_chunks", on_chunks)


def refusal_counted_twice() -> AbstractContextManager[object]:
    """Count every refusal twice."""
    real = submit_flow._count_refusal  # noqa: SLF001 - a mutant works from the inside

    def count(state: State, refusal: Refusal, pool: Pool | None) -> None:
        real(state, refusal, pool)
        real(state, refusal, pool)

    return mock.patch.object(submit_flow, "_count_refusal", count)


def room_without_bounds() -> AbstractContextManager[object]:
    """Find room in every queue."""

    def make_room(_self: PoolQueue, _priority: str) -> Room:
        return Room()

    return mock.patch.object(PoolQueue, "make_room", make_room)


def started_twice() -> AbstractContextManager[object]:
    """Tell `started` again when a task is tried again."""
    real = attempt_flow.fail_attempt

    def fail(state: State, task: Task, replica_id: str, failure: ev.AttemptFailure, detail: str, now_ms: int) -> None:
        task.started_told = False
        real(state, task, replica_id, failure, detail, now_ms)  # type: ignore[arg-type]

    return mock.patch.object(attempt_flow, "fail_attempt", fail)


def withdrawal_ignored() -> AbstractContextManager[object]:
    """Run tasks whose clients were told that they were not accepted."""

    def nothing(_state: State, _event: ev.AcceptsWithdrawn, _now_ms: int) -> None:
        pass

    return mock.patch.object(task_flow, "on_accepts_withdrawn", nothing)


def pin_ignored() -> AbstractContextManager[object]:
    """Let any replica of the set take any task."""

    def may_run(*_: object) -> bool:
        return True

    return mock.patch.object(placement, "_may_run", may_run)


def no_refund_on_cancel() -> AbstractContextManager[object]:
    """Keep all tokens that were taken for a task that is canceled."""
    real = quotas._used_tokens  # noqa: SLF001 - a mutant works from the inside

    def used(task: Task) -> int:
        canceled = task.ended is not None and task.ended.outcome in CANCELED
        return task.hold.tokens if canceled and task.hold is not None else real(task)

    return mock.patch.object(quotas, "_used_tokens", used)


def settle_twice() -> AbstractContextManager[object]:
    """Give back what a task did not use, and then once more."""
    real = Ledger.settle

    def settle(self: Ledger, hold: Hold, used_tokens: int, now_ms: int) -> None:
        real(self, hold, 2 * used_tokens - hold.tokens, now_ms)

    return mock.patch.object(Ledger, "settle", settle)


def reservation_lost_in_recovery() -> AbstractContextManager[object]:
    """Let tasks of an earlier life run without an account."""
    without = mock.Mock(wraps=quotas)
    without.reserve_again = lambda _state, _task, _pool: None
    return mock.patch.object(recovery_flow, "quotas", without)


def fresh_minute_after_a_crash() -> AbstractContextManager[object]:
    """Forget what ended tasks of an earlier life used."""
    return mock.patch.object(Ledger, "restore", return_value=None)


def quota_of_keys_ignored() -> AbstractContextManager[object]:
    """Ask for the tenant's limits alone."""
    real = Ledger.excess

    def excess(self: Ledger, tenant: Tenant, key_id: str, demand: Demand, now_ms: int) -> Excess | None:
        found = real(self, tenant, key_id, demand, now_ms)
        return None if found is not None and found.scope == "key" else found

    return mock.patch.object(Ledger, "excess", excess)


def refusals_cost_a_request() -> AbstractContextManager[object]:
    """Take a request from both accounts for a task that is refused."""
    real = Ledger.excess

    def excess(self: Ledger, tenant: Tenant, key_id: str, demand: Demand, now_ms: int) -> Excess | None:
        found = real(self, tenant, key_id, demand, now_ms)
        if found is not None:
            self.restore(tenant, key_id, now_ms, 0, now_ms)
        return found

    return mock.patch.object(Ledger, "excess", excess)


def usage_booked_twice() -> AbstractContextManager[object]:
    """Count what was booked of forgotten tasks once more when the daemon starts."""
    real = Usage.book

    def book(self: Usage, tenant: Tenant, booking: Booking) -> None:
        real(self, tenant, booking)
        real(self, tenant, booking)

    return mock.patch.object(Usage, "book", book)


MUTANTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    mutant.__name__: mutant
    for mutant in (
        release_on_cancel,
        finish_twice,
        no_fencing,
        reply_before_commit,
        forget_victim,
        starve_batch,
        lifo,
        cancel_ignored_while_bound,
        count_turn_twice,
        drop_recovered_order,
        cancel_not_recorded,
        start_not_logged,
        refusal_logged_as_another,
        token_gap,
        refusal_counted_twice,
        room_without_bounds,
        started_twice,
        withdrawal_ignored,
        pin_ignored,
        no_refund_on_cancel,
        settle_twice,
        reservation_lost_in_recovery,
        fresh_minute_after_a_crash,
        quota_of_keys_ignored,
        refusals_cost_a_request,
        usage_booked_twice,
    )
}
