"""Planted bugs: each breaks one promise while its `with` block runs, so that tests see the auditor bite.

The core itself stays clean; a mutant replaces a function or a method from the outside and puts it back.

Req: ORCH-4236, ORCH-4238
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from unittest import mock

import msgspec

from orchqueue.core import (
    attempt_flow,
    ending,
    failover_flow,
    fairness,
    placement,
    recovery_flow,
    submit_flow,
    task_flow,
)
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.lines import Line
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import CANCELED, Outcome, Refusal
from orchqueue.core.queue import PoolQueue, Room
from orchqueue.core.records import Accepted, Ended
from orchqueue.core.sessions import Session, Sessions
from orchqueue.core.state import Pool, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState
from orchqueue_sim.life import Life
from orchqueue_sim.mutants_of_books import BOOKS
from orchqueue_sim.mutants_of_failover import FAILOVER
from orchqueue_sim.mutants_of_limits import LIMITS
from orchqueue_sim.plan import draw
from orchqueue_sim.planting import Bed, Planted
from orchqueue_sim.world import Report, run

BED = Bed()
VICTIMS = (Outcome.DROPPED_VICTIM, Outcome.SHED_VICTIM)


@BED.within(60)
def release_on_cancel() -> Planted:
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


@BED.within(60)
def finish_twice() -> Planted:
    """End a task again when it is canceled after its end."""
    real = task_flow.on_cancel

    def on_cancel(state: State, event: ev.CancelRequested, now_ms: int) -> None:
        task = state.tasks.get(event.key)
        if task is not None and task.ended is not None:
            state.emit(fx.Record(task.ended), fx.Finish(task.key, task.ended))
        real(state, event, now_ms)

    return mock.patch.object(task_flow, "on_cancel", on_cancel)


@BED.within(60)
def no_fencing() -> Planted:
    """Pass text on from attempts that no longer own their task."""
    real = attempt_flow.on_chunks

    def on_chunks(state: State, event: ev.ChunksArrived, now_ms: int) -> None:
        attempt = state.attempts.get(event.attempt_id)
        task = state.tasks.get(attempt.key) if attempt is not None else None
        if task is not None and task.attempt_id != event.attempt_id:
            state.emit(fx.EmitTokens(task.key, event.texts))
        real(state, event, now_ms)

    return mock.patch.object(attempt_flow, "on_chunks", on_chunks)


@BED.within(60)
def reply_before_commit() -> Planted:
    """Tell clients of acceptances before the journal has them."""
    real = Life._passes_stall  # noqa: SLF001 - a mutant works from the inside

    def passes(self: Life, effect: fx.AnyEffect) -> bool:
        return isinstance(effect, fx.Accept) or real(self, effect)

    return mock.patch.object(Life, "_passes_stall", passes)


@BED.within(60)
def forget_victim() -> Planted:
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


@BED.within(60)
def starve_batch() -> Planted:
    """Let interactive tasks always go first."""

    def order(_state: fairness.ShareState, _weights: dict[str, int], waiting: Sequence[str]) -> Sequence[str]:
        return sorted(waiting, reverse=True)

    return mock.patch.object(fairness, "order", order)


@BED.within(60)
def lifo() -> Planted:
    """Start the youngest task first."""

    def youngest_first(self: Line) -> Iterator[Task]:
        return (self.by_seq[seq] for seq in reversed(list(self.arrivals)))

    return mock.patch.object(Line, "__iter__", youngest_first)


@BED.within(60)
def cancel_ignored_while_bound() -> Planted:
    """Answer a cancel with 204 but let the engine go on when no token has come yet."""
    real = task_flow.on_cancel

    def on_cancel(state: State, event: ev.CancelRequested, now_ms: int) -> None:
        task = state.tasks.get(event.key)
        if task is not None and task.state is TaskState.BOUND:
            state.emit(fx.Done(event.reply))
        else:
            real(state, event, now_ms)

    return mock.patch.object(task_flow, "on_cancel", on_cancel)


@BED.within(60)
def count_turn_twice() -> Planted:
    """Take two turns from a session for one task."""
    real = Sessions.count_turn

    def count(self: Sessions, key: tuple[str, str], now_ms: int) -> Session:
        session = real(self, key, now_ms)  # type: ignore[arg-type]
        session.turns = min(self.limits.max_turns, session.turns + 1)
        return session

    return mock.patch.object(Sessions, "count_turn", count)


@BED.within(200)
def drop_recovered_order() -> Planted:
    """Give recovered tasks places in reverse order."""
    real = recovery_flow._from_record  # noqa: SLF001 - a mutant works from the inside

    def from_record(state: State, accepted: Accepted) -> Task:
        task = real(state, accepted)
        task.seq = -task.seq
        return task

    return mock.patch.object(recovery_flow, "_from_record", from_record)


@BED.within(60)
def cancel_not_recorded() -> Planted:
    """Keep the end of a canceled task out of the journal."""
    real = Orchestrator._taken  # noqa: SLF001 - a mutant works from the inside

    def taken(self: Orchestrator) -> list[fx.AnyEffect]:
        return [
            e
            for e in real(self)
            if not (isinstance(e, fx.Record) and isinstance(e.record, Ended) and e.record.outcome in CANCELED)
        ]

    return mock.patch.object(Orchestrator, "_taken", taken)


@BED.within(60)
def token_gap() -> Planted:
    """Pass on only the first piece of what one wake-up brought."""
    real = attempt_flow.on_chunks

    def on_chunks(state: State, event: ev.ChunksArrived, now_ms: int) -> None:
        real(state, msgspec.structs.replace(event, texts=event.texts[:1]), now_ms)

    return mock.patch.object(attempt_flow, "on_chunks", on_chunks)


@BED.within(60)
def refusal_counted_twice() -> Planted:
    """Count every refusal twice."""
    real = submit_flow._count_refusal  # noqa: SLF001 - a mutant works from the inside

    def count(state: State, refusal: Refusal, pool: Pool | None) -> None:
        real(state, refusal, pool)
        real(state, refusal, pool)

    return mock.patch.object(submit_flow, "_count_refusal", count)


@BED.within(60)
def room_without_bounds() -> Planted:
    """Find room in every queue."""

    def make_room(_self: PoolQueue, _priority: str) -> Room:
        return Room()

    return mock.patch.object(PoolQueue, "make_room", make_room)


@BED.within(60)
def started_twice() -> Planted:
    """Tell `started` again when a task is tried again."""
    real = failover_flow.fail_attempt

    def fail(state: State, task: Task, replica_id: str, failure: ev.AttemptFailure, detail: str, now_ms: int) -> None:
        task.started_told = False
        real(state, task, replica_id, failure, detail, now_ms)  # type: ignore[arg-type]

    return mock.patch.object(attempt_flow, "fail_attempt", fail)


@BED.within(60)
def withdrawal_ignored() -> Planted:
    """Run tasks whose clients were told that they were not accepted."""

    def nothing(_state: State, _event: ev.AcceptsWithdrawn, _now_ms: int) -> None:
        pass

    return mock.patch.object(task_flow, "on_accepts_withdrawn", nothing)


@BED.within(60)
def pin_ignored() -> Planted:
    """Let any replica of the set take any task."""

    def may_run(*_: object) -> bool:
        return True

    return mock.patch.object(placement, "_may_run", may_run)


BED.join(LIMITS)
BED.join(BOOKS)
BED.join(FAILOVER)
MUTANTS = BED.mutants


def hunt(name: str) -> Report | None:
    """Plant a bug and run its seeds until one breaks a promise."""
    with MUTANTS[name]():
        plans = (draw(seed, BED.focus.get(name)) for seed in range(BED.seeds[name]))
        return next((report for report in (run(plan.seed, None, plan) for plan in plans) if report.problem), None)
