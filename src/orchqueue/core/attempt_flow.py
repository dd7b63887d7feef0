"""What happens to an attempt: text arrives, the engine ends or fails, the slot is really free.

Req: ORCH-4274
"""

from __future__ import annotations

import msgspec

from orchqueue.core import labels
from orchqueue.core.effects import ClearTimer, EmitTokens, Observe, SetTimer
from orchqueue.core.ending import end
from orchqueue.core.events import AttemptClosed, AttemptCompleted, AttemptFailed, ChunksArrived
from orchqueue.core.failover_flow import diverge, fail_attempt, rejoin, suspect
from orchqueue.core.forecast import busy
from orchqueue.core.log_entries import log_replica
from orchqueue.core.outcome import Outcome
from orchqueue.core.running_text import heard
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
    texts = event.texts
    if task.replay_bytes is not None:
        texts = rejoin(state, task, texts, now_ms)
        if not texts:
            return
    if task.kills and any(texts):
        task.kills = 0
    task.tokens_out = task.base_tokens + event.tokens_out
    heard(state, task, texts, now_ms)
    state.effects.append(EmitTokens(attempt.key, texts))


def _first_token(state: State, task: Task, now_ms: int) -> None:
    task.move(TaskTrigger.FIRST_TOKEN)
    pool = state.pools[task.pool_id]
    if task.first_token_at_ms is None:
        task.first_token_at_ms = now_ms
        waited = now_ms - task.accepted_at_ms
        if task.spec.priority == "interactive":
            pool.interactive_first_tokens_ms.append(waited)
        state.emit(Observe("latency_first_token_ms", labels.of_pool(pool, task.spec.priority), waited))
    state.emit(
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
    if task.replay_bytes is not None:
        diverge(state, task, task.replay_bytes, now_ms)
        return
    pool = state.pools[task.pool_id]
    if task.base_tokens:
        # The engine counted what it went on from as a part of its prompt.
        tokens_in, tokens_out = event.tokens_in - task.base_tokens, event.tokens_out + task.base_tokens
        event = msgspec.structs.replace(event, tokens_in=max(0, tokens_in), tokens_out=tokens_out)
    pool.queue.price_prompts(replica.rates.prefill_us, replica.rates.decode_us)
    pool.habits.learn(task.tenant, task.spec.priority, replica.model_ref, event.tokens_out, task.cost_tokens)
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
    if event.failure == "lost":
        suspect(state, replica, now_ms)
    if event.failure == "overloaded":
        replica.cooling = True
        log_replica(state, replica, now_ms)
        state.emit(SetTimer(("cool", replica.replica_id), now_ms + COOL_OFF_MS))
    task = state.active.get(attempt.key)
    if task is not None and task.attempt_id == event.attempt_id:
        attempt.aborting = True
        fail_attempt(state, task, replica.replica_id, event.failure, event.detail, now_ms)


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
