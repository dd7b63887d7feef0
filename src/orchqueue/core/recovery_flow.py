"""Tasks of an earlier life of the daemon, told by the journal in the order of their acceptance."""

from __future__ import annotations

from orchqueue.core import admission, quotas
from orchqueue.core.decisions import Recovered
from orchqueue.core.effects import (
    Accept,
    LogDecision,
    OpenStream,
    SetTimer,
)
from orchqueue.core.ending import end, retain
from orchqueue.core.events import (
    TaskRecovered,
    TaskRestored,
    UsageBooked,
)
from orchqueue.core.failover_flow import give_up_interrupted
from orchqueue.core.forecast import expect
from orchqueue.core.ids import ReplyId, task_key
from orchqueue.core.log_entries import log_request
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Accepted
from orchqueue.core.request import canonical_digest
from orchqueue.core.retry import is_continuable
from orchqueue.core.state import State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState, TaskTrigger


def on_recovered(state: State, event: TaskRecovered, now_ms: int) -> None:
    """Take an accepted task over from an earlier life of the daemon, in the order of acceptance.

    1. Waiting ones wait again. strict ones that ran are replayed: their text will be the same.
    2. best_effort ones that ran go on from what was recorded of their text; where that cannot be they end with WORKER_RESET.

    Req: ORCH-4011, ORCH-4179, ORCH-4180, ORCH-4181, ORCH-4247
    """
    task = _from_record(state, event.accepted)
    _take_over(task, event, now_ms)
    task.weight = state.settings.tenant(task.tenant).weight
    # The machine's clock may have been set back since.
    task.accepted_at_ms = min(task.accepted_at_ms, now_ms)
    pool, homeless = state.pools.get(event.accepted.pool_id), False
    if pool is None or admission.model_replaced(pool, task.spec):
        fit = admission.fitting_pools(state, task.spec)
        homeless = isinstance(fit, Refusal)
        pool = next(iter(state.pools.values())) if isinstance(fit, Refusal) else fit.pools[0]
    task.pool_id = pool.pool_id
    expect(pool, task)
    state.tasks[task.key] = state.active[task.key] = task
    state.usage.accept(task)
    quotas.reserve_again(state, task, pool)
    task.move(TaskTrigger.ADMIT)
    pool.queue.push(task)
    if task.session is not None and state.sessions.turns_left(task.session, task.accepted_at_ms) > 0:
        session = state.sessions.count_turn(task.session, task.accepted_at_ms)
        state.emit(SetTimer(("session", "/".join(task.session)), max(now_ms, session.expires_at_ms)))
    if not task.emitted_bytes:
        # The log of one that had said something is there already, with its text: nothing that ends it now may find it empty.
        state.emit(OpenStream(task.key, task.correlation_id, task.spec.workload))
    task.admission = _told_again(event.accepted)
    log_request(state, task.key, task.client_id, task.spec, now_ms)
    state.emit(LogDecision(_recovered(task, event, now_ms)))
    if homeless:
        end(state, task, Outcome.POOL_UNAVAILABLE, now_ms, "its pool is no longer configured; send it again")
    elif task.emitted_bytes and not task.strict and not is_continuable(task):
        end(state, task, Outcome.ENGINE_LOST, now_ms, "the daemon was restarted while it ran; send it again")
    else:
        _go_on_waiting(state, task, now_ms)
    state.dirty = True


def _take_over(task: Task, event: TaskRecovered, now_ms: int) -> None:
    """Give a task what is recorded of its earlier runs. Attempts of earlier lives are told and not held against it."""
    task.reader_seen, task.unread_since_ms = event.followed, now_ms
    bound = event.bound
    if bound is None:
        return
    task.attempts = task.earlier_attempts = bound.attempt
    task.first_bound_at_ms = bound.bound_at_ms or None
    if not event.text:
        return
    task.said += event.text.encode()
    task.emitted_bytes = task.kept_bytes = len(task.said)
    task.tokens_out = event.tokens_out
    task.started_told = True
    task.first_token_at_ms = bound.bound_at_ms
    task.spoke_on = bound.replica_id
    if bound.engine_version:
        task.made_by = (bound.engine_version, bound.model_digest)


def _go_on_waiting(state: State, task: Task, now_ms: int) -> None:
    """Set the timers of a task that waits again.

    Req: ORCH-4113
    """
    if task.spec.deadline_ms is not None:
        state.emit(SetTimer(("deadline", task.key), max(now_ms, task.accepted_at_ms + task.spec.deadline_ms)))
    if task.reader_seen and task.spec.cancels_on_disconnect:
        state.emit(SetTimer(("disconnect", task.key), now_ms + state.settings.disconnect_grace_ms))
    if task.emitted_bytes:
        state.interrupted[task.key] = task
        give_up_interrupted(state, (task,), now_ms)


def on_restored(state: State, event: TaskRestored, now_ms: int) -> None:
    """Keep an ended task of an earlier life readable.

    Req: ORCH-4011, ORCH-4182
    """
    task = _from_record(state, event.accepted)
    task.admission = _told_again(event.accepted)
    task.state, task.ended = TaskState.ENDED, event.ended
    task.tokens_out, task.emitted_bytes = event.ended.tokens_out, len(event.ended.text.encode())
    task.first_bound_at_ms = event.ended.started_at_ms
    state.tasks[task.key] = task
    state.usage.accept(task)
    state.usage.end(task)
    quotas.restore(state, task, now_ms)
    retain(state, task, now_ms)


def on_usage_booked(state: State, event: UsageBooked) -> None:
    """Go on counting from what was booked when tasks were forgotten.

    Req: ORCH-4089, ORCH-4308
    """
    if event.since_ms is not None:
        state.usage.resume(event.since_ms)
    for tenant, booking in event.rows:
        state.usage.book(tenant, booking)


def _from_record(state: State, accepted: Accepted) -> Task:
    return Task(
        task_id=accepted.task_id,
        tenant=accepted.tenant,
        spec=accepted.spec,
        digest=canonical_digest(accepted.spec),
        seq=state.next_seq(),
        client_id=accepted.client_id,
        correlation_id=accepted.correlation_id,
        pool_id=accepted.pool_id,
        strict=accepted.strict,
        profile=accepted.profile,
        prompt_tokens=accepted.prompt_tokens,
        prompt_basis=accepted.prompt_basis,
        accepted_at_ms=accepted.accepted_at_ms,
        model_ref=accepted.model_ref or accepted.spec.model_ref or "unknown",
    )


def _recovered(task: Task, event: TaskRecovered, now_ms: int) -> Recovered:
    """Say what it was told once. To forecast its start anew would be most of what recovery costs, before any replica is up."""
    return Recovered(
        now_ms,
        task.key,
        task.pool_id,
        task.accepted_at_ms,
        event.bound is not None,
        task.strict,
        task.profile,
        task.prompt_tokens,
        task.cost_tokens,
        event.accepted.queue_position,
        event.accepted.predicted_start_ms,
    )


def _told_again(accepted: Accepted) -> Accept:
    """Put together what the client was told when its task was accepted: whoever sends it again is told the same.

    Req: ORCH-4371
    """
    return Accept(
        reply=ReplyId(0),
        key=task_key(accepted.tenant, accepted.task_id),
        queue_position=accepted.queue_position,
        predicted_start_ms=accepted.predicted_start_ms,
        predicted_end_ms=accepted.predicted_end_ms,
        basis=accepted.basis,
        seed=accepted.spec.seed or 0,
        determinism=admission.determinism_of(accepted.strict),
        pool_id=accepted.pool_id,
        prompt_tokens=accepted.prompt_tokens,
        prompt_tokens_basis=accepted.prompt_basis,
    )
