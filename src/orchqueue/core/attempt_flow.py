"""What happens to an attempt: text arrives, the engine ends or fails, the slot is really free.

Req: ORCH-4173, ORCH-4274
"""

from __future__ import annotations

from orchqueue.core import decisions, labels
from orchqueue.core.effects import ClearTimer, Count, EmitTokens, LogDecision, Note, Observe, ProbeReplica, SetTimer
from orchqueue.core.ending import end, task_fields
from orchqueue.core.events import AttemptClosed, AttemptCompleted, AttemptFailed, AttemptFailure, ChunksArrived
from orchqueue.core.forecast import busy
from orchqueue.core.ids import ReplicaId
from orchqueue.core.log_entries import log_replica
from orchqueue.core.outcome import Outcome
from orchqueue.core.replica_states import ReplicaState, ReplicaTrigger
from orchqueue.core.retry import after_failure
from orchqueue.core.state import State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState, TaskTrigger

COOL_OFF_MS = 500


def on_chunks(state: State, event: ChunksArrived, now_ms: int) -> None:
    """Pass text on, unless the attempt no longer owns its task.

    Cost: the hot path; one dictionary look-up and one effect a wake-up.
    Req: ORCH-4109, ORCH-4293
    """
    attempt = state.attempts.get(event.attempt_id)
    if attempt is None:
        return
    task = state.active.get(attempt.key)
    if task is None or task.attempt_id != event.attempt_id:
        return
    if task.state is TaskState.BOUND:
        _first_token(state, task, now_ms)
    task.last_token_at_ms = now_ms
    task.tokens_out = event.tokens_out
    for text in event.texts:
        task.emitted_bytes += len(text) if text.isascii() else len(text.encode())
    state.effects.append(EmitTokens(attempt.key, event.texts))


def _first_token(state: State, task: Task, now_ms: int) -> None:
    task.move(TaskTrigger.FIRST_TOKEN)
    task.first_token_at_ms = now_ms
    pool = state.pools[task.pool_id]
    waited = now_ms - task.accepted_at_ms
    if task.spec.priority == "interactive":
        pool.interactive_first_tokens_ms.append(waited)
    state.emit(
        Observe("latency_first_token_ms", labels.of_pool(pool, task.spec.priority), waited),
        ClearTimer(("first_token", task.key)),
        SetTimer(("idle", task.key), now_ms + pool.settings.timeouts.idle_ms),
    )


def on_completed(state: State, event: AttemptCompleted, now_ms: int) -> None:
    """Take the engine's end, and learn from it how fast it is and how long outputs get."""
    attempt = state.attempts.get(event.attempt_id)
    if attempt is None:
        return
    replica = state.replicas[attempt.replica_id]
    computed = event.tokens_in - event.cached_tokens
    together = (attempt.busy_at_start + busy(state, replica) + 1) // 2
    attempt.worked_ms = event.prefill_ms + event.decode_ms
    replica.rates.learn(computed, event.prefill_ms, event.tokens_out, event.decode_ms, together)
    task = state.active.get(attempt.key)
    if task is None or task.attempt_id != event.attempt_id:
        return
    pool = state.pools[task.pool_id]
    pool.queue.price_prompts(replica.rates.prefill_us, replica.rates.decode_us)
    pool.habits.learn(task.tenant, task.spec.priority, pool.model_ref, event.tokens_out, task.cost_tokens)
    pool.habits.learn_prompt(task.prompt_tokens, task.prompt_basis, event.tokens_in)
    task.tokens_out = event.tokens_out
    if task.session is not None and not task.strict and task.spec.kv_hint == "reuse":
        cached = event.tokens_in + event.tokens_out
        state.sessions.warm(task.session, attempt.replica_id, cached, now_ms)
    end(state, task, Outcome.COMPLETED, now_ms, completed=event)


def on_failed(state: State, event: AttemptFailed, now_ms: int) -> None:
    """Try elsewhere where nobody can notice, end the task where somebody would.

    A replica whose connection broke takes no more attempts until it was probed.

    Req: ORCH-4143
    """
    attempt = state.attempts.get(event.attempt_id)
    if attempt is None:
        return
    replica = state.replicas[attempt.replica_id]
    if event.failure == "lost" and replica.state is ReplicaState.READY:
        replica.move(ReplicaTrigger.SUSPECT)
        log_replica(state, replica, now_ms)
        state.emit(ProbeReplica(replica.replica_id))
    if event.failure == "overloaded":
        replica.cooling = True
        log_replica(state, replica, now_ms)
        state.emit(SetTimer(("cool", replica.replica_id), now_ms + COOL_OFF_MS))
    task = state.active.get(attempt.key)
    if task is not None and task.attempt_id == event.attempt_id:
        attempt.aborting = True
        fail_attempt(state, task, replica.replica_id, event.failure, event.detail, now_ms)


def fail_attempt(
    state: State, task: Task, replica_id: ReplicaId, failure: AttemptFailure, detail: str, now_ms: int
) -> None:
    """Decide what becomes of a task whose attempt failed. The attempt itself keeps its slot until it is closed.

    Req: ORCH-4271
    """
    task.tried = task.tried | {replica_id}
    if failure == "lost":
        task.kills += 1
    pool = state.pools[task.pool_id]
    live = {
        r.replica_id
        for p in (pool, *state.siblings(pool))
        for r in p.replicas.values()
        if r.state not in (ReplicaState.BROKEN, ReplicaState.DOWN, ReplicaState.STOPPING)
    }
    verdict = after_failure(task, failure, live, pool.settings.max_attempts, state.settings.poison_kills)
    state.emit(LogDecision(decisions.AttemptFailed(now_ms, task.key, task.attempts, replica_id, failure, verdict)))
    fields = task_fields(state, task) | {"replica_id": replica_id, "failure": failure, "detail": detail}
    state.emit(Note("warning", "attempt_failed", fields))
    if failure == "lost":
        state.emit(Count("failovers_total", (verdict.value if verdict else "retried",)))
    if verdict is not None:
        end(state, task, verdict, now_ms, f"{_story(verdict)} ({detail})")
        return
    task.attempt_id = None
    task.bound_at_ms = None
    task.move(TaskTrigger.REQUEUE)
    if task.charged:
        state.pools[task.charged_pool_id].queue.put_back(task)
    pool.queue.push(task)
    state.ledger.wait_again(task.hold)
    state.emit(*(ClearTimer((kind, task.key)) for kind in ("wall", "idle", "first_token")))
    state.dirty = True


def _story(verdict: Outcome) -> str:
    match verdict:
        case Outcome.ENGINE_LOST:
            return "the engine was lost in the middle of the stream; send the task again"
        case Outcome.REPLICAS_EXHAUSTED:
            return "every replica was tried; send the task again later"
        case Outcome.POISON:
            return "this task has brought down several replicas and is not tried again"
        case _:
            return "the engine refused the task"


def on_closed(state: State, event: AttemptClosed, now_ms: int) -> None:
    """Release the slot: the engine holds nothing of this attempt any more. The only place that releases.

    Req: ORCH-3017, ORCH-4164
    """
    attempt = state.attempts.pop(event.attempt_id, None)
    if attempt is None:
        return
    owner = state.active.get(attempt.key)
    assert owner is None or owner.attempt_id != event.attempt_id, (
        f"attempt {event.attempt_id} closed while it owns a task"
    )
    if attempt.worked_ms is not None:
        state.replicas[attempt.replica_id].rates.learn_overhead(now_ms - attempt.started_at_ms, attempt.worked_ms)
    state.slots.release(event.attempt_id)
    state.dirty = True
