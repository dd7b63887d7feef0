"""The one function that ends a task, whatever the reason, and what is kept of it afterwards.

Req: ORCH-3017, ORCH-4097, ORCH-4266, ORCH-4268, ORCH-4269, ORCH-4274, ORCH-4285
"""

from __future__ import annotations

from orchqueue.core import decisions, labels, quotas
from orchqueue.core.effects import (
    AbortAttempt,
    ClearTimer,
    Count,
    Finish,
    Forget,
    LogDecision,
    Note,
    Observe,
    Record,
    SetTimer,
)
from orchqueue.core.events import AttemptCompleted
from orchqueue.core.ids import ReplicaId, TaskKey
from orchqueue.core.outcome import CANCELED, MEANINGS, Outcome
from orchqueue.core.records import Ended, Forgotten, Receipt
from orchqueue.core.request import FinishReason, params_digest
from orchqueue.core.state import Pool, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState, TaskTrigger

TASK_TIMERS = ("deadline", "wall", "idle", "first_token", "disconnect", "warm")
BOOKKEEPING_BYTES = 2_048


def end(
    state: State,
    task: Task,
    outcome: Outcome,
    now_ms: int,
    message: str = "",
    completed: AttemptCompleted | None = None,
    retry_after_ms: int | None = None,
) -> None:
    """End a task now: it leaves the queue or loses its attempt, its terminal event is decided, its timers go.

    The end is recorded before the abort that follows from it. A running attempt keeps its slot until the engine has
    really stopped.
    """
    pool = state.pools[task.pool_id]
    if task.state is TaskState.WAITING:
        pool.queue.remove(task)
    if task.charged:
        state.pools[task.charged_pool_id].queue.settle(task)
    attempt = None if task.attempt_id is None else state.attempts[task.attempt_id]
    replica_id = attempt.replica_id if attempt else _spoke_on(task)
    task.attempt_id = None
    if pool.canary is not None:
        pool.canary.note_end(task, outcome, pool.settings.canary)
    task.move(TaskTrigger.END)
    task.stop_clock(now_ms)
    ended = _describe(state, task, pool, outcome, now_ms, message, completed, replica_id, retry_after_ms)
    task.ended = ended
    state.emit(Record(ended), LogDecision(_decision(task, ended, completed)))
    if attempt is not None and completed is None and not attempt.aborting:
        attempt.aborting = True
        state.emit(AbortAttempt(attempt.attempt_id))
    state.emit(Finish(task.key, ended))
    state.emit(*(ClearTimer((kind, task.key)) for kind in TASK_TIMERS))
    _count(state, task, pool, ended)
    state.usage.end(task)
    quotas.settle(state, task, now_ms)
    del state.active[task.key]
    task.said = bytearray()
    for index in (state.followed, state.unkept, state.interrupted):
        index.pop(task.key, None)
    retain(state, task, now_ms)
    state.dirty = True


def _spoke_on(task: Task) -> ReplicaId | None:
    """Name the replica that began the text of a task that runs nowhere now: after a restart its stream begins with that again."""
    return task.spoke_on if task.emitted_bytes else None


def _describe(
    state: State,
    task: Task,
    pool: Pool,
    outcome: Outcome,
    now_ms: int,
    message: str,
    completed: AttemptCompleted | None,
    replica_id: ReplicaId | None,
    retry_after_ms: int | None,
) -> Ended:
    started = task.first_bound_at_ms
    keep_ms = state.settings.retention.interactive_ms
    if task.spec.priority == "batch":
        keep_ms = state.settings.retention.batch_ms
    finish: FinishReason | None = completed.finish_reason if completed else None
    if outcome in CANCELED:
        finish = "canceled"
    version, digest = _made_by(state, task, pool, replica_id)
    return Ended(
        tenant=task.tenant,
        task_id=task.task_id,
        outcome=outcome,
        ended_at_ms=now_ms,
        keep_until_ms=now_ms + keep_ms,
        tokens_in=completed.tokens_in if completed else task.prompt_tokens,
        tokens_out=completed.tokens_out if completed else task.tokens_out,
        decode_ms=task.spent_ms,
        started_at_ms=started,
        finish_reason=finish,
        message=message,
        pool_id=task.pool_id,
        replica_id=replica_id,
        engine=pool.settings.engine,
        retry_after_ms=retry_after_ms,
        receipt=Receipt(
            seed=task.spec.seed or 0,
            params_digest=params_digest(task.spec, task.profile),
            sampler_profile_version=task.profile,
            engine=pool.settings.engine,
            engine_version=version,
            model_digest=digest,
            attempts=task.attempts,
            continued=task.continued,
        ),
    )


def _made_by(state: State, task: Task, pool: Pool, replica_id: ReplicaId | None) -> tuple[str, str]:
    """Tell which engine version and model made the text, or would have."""
    if task.emitted_bytes and task.made_by is not None:
        return task.made_by
    replica = None if replica_id is None else state.replicas.get(replica_id)
    facts = None if replica is None else replica.facts
    return (facts.engine_version, facts.model_digest) if facts else (pool.engine_version, pool.model_digest)


def _decision(task: Task, ended: Ended, completed: AttemptCompleted | None) -> decisions.Ended:
    return decisions.Ended(
        ended.ended_at_ms,
        task.key,
        ended.outcome,
        task.pool_id,
        ended.replica_id,
        task.attempts,
        ended.tokens_in,
        ended.tokens_out,
        ended.decode_ms,
        task.first_token_at_ms,
        completed.prefill_ms if completed else 0,
        completed.cached_tokens if completed else 0,
    )


def _count(state: State, task: Task, pool: Pool, ended: Ended) -> None:
    meaning = MEANINGS[ended.outcome]
    who = labels.of_replica(pool, ended.replica_id or "-")
    if meaning.cancel_reason:
        state.emit(Count("tasks_canceled_total", (*who, meaning.cancel_reason)))
    if meaning.code:
        state.emit(Count("tasks_failed_total", (*who, meaning.code)))
    if meaning.code and meaning.policy_label:
        state.emit(Count("admission_backpressure_events_total", (pool.settings.engine, meaning.policy_label)))
    if ended.tokens_out:
        state.emit(Count("tokens_out_total", who, ended.tokens_out))
    if ended.outcome is Outcome.COMPLETED:
        # Only then is the number the engine's own; before it is what admission made of the prompt's bytes.
        state.emit(Count("tokens_in_total", who, ended.tokens_in))
        state.emit(Observe("latency_decode_ms", labels.of_pool(pool, task.spec.priority), ended.decode_ms))
    state.emit(
        Note(
            "info" if meaning.code is None else "warning",
            "task_ended",
            task_fields(state, task)
            | {
                "outcome": ended.outcome.value,
                "replica_id": ended.replica_id,
                "tokens_in": ended.tokens_in,
                "tokens_out": ended.tokens_out,
                "decode_time_ms": ended.decode_ms,
            },
        )
    )


def task_fields(state: State, task: Task) -> dict[str, str | int | float | bool | None]:
    """Collect the log fields of a task; never its prompt or output.

    Req: ORCH-4079
    """
    pool = state.pools[task.pool_id]
    queue_ms = None if task.first_bound_at_ms is None else task.first_bound_at_ms - task.accepted_at_ms
    return {
        "job_id": task.task_id,
        "session_id": task.spec.session_id,
        "client_id": task.client_id,
        "tenant_id": task.tenant,
        "correlation_id": task.correlation_id,
        "engine": pool.settings.engine,
        "pool_id": pool.pool_id,
        "model_id": pool.model_ref,
        "quant": pool.settings.quant,
        "ctx": pool.settings.ctx,
        "engine_version": pool.engine_version,
        "sampler_profile_version": task.profile,
        "seed": task.spec.seed,
        "queue_position": task.admission.queue_position if task.admission else None,
        "predicted_start_ms": task.admission.predicted_start_ms if task.admission else None,
        "queue_time_ms": queue_ms,
        "kv_warmth": task.kv_warm,
        "kv_migrated": False,
        "eviction_events": task.evictions,
        "tensor_split": ",".join(f"{share:g}" for share in pool.settings.tensor_split) or None,
    }


def retain(state: State, task: Task, now_ms: int) -> None:
    """Keep an ended task readable for its time; the oldest ended ones go first when the bytes are too many.

    Req: ORCH-4083, ORCH-4084
    """
    assert task.ended is not None
    size = BOOKKEEPING_BYTES + task.spec.prompt_bytes + task.emitted_bytes
    state.retained[task.key] = size
    state.retained_bytes += size
    state.emit(SetTimer(("retention", task.key), max(now_ms, task.ended.keep_until_ms)))
    while state.retained_bytes > state.settings.retention.max_bytes and len(state.retained) > 1:
        forget(state, next(iter(state.retained)))


def forget(state: State, key: TaskKey, *, counted: bool = True) -> None:
    """Drop an ended task for good; what it used is booked by the same record, unless it never counted.

    Req: ORCH-4308
    """
    task = state.tasks.pop(key)
    state.retained_bytes -= state.retained.pop(key)
    usage = state.usage
    booked = usage.bookings(task) if counted else ()
    forgotten = Forgotten(task.tenant, task.task_id, booked, usage.take_dropped_days(), usage.since_ms)
    state.emit(Record(forgotten), Forget(task.key), ClearTimer(("retention", task.key)))
