"""What happens when a timer is due. Every timer may fire late or for something long gone.

Req: ORCH-3016, ORCH-3026, ORCH-3039
"""

from __future__ import annotations

from orchqueue.core import decisions
from orchqueue.core.decisions import TimerName
from orchqueue.core.effects import LogDecision, Note, SetTimer
from orchqueue.core.ending import end, forget
from orchqueue.core.events import ReplicaLost, TimerFired
from orchqueue.core.failover_flow import LETS_GO_MS, on_silence
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, TaskKey, Tenant
from orchqueue.core.log_entries import log_replica
from orchqueue.core.outcome import Outcome
from orchqueue.core.placement import WARM_WAIT_MS
from orchqueue.core.pool_flow import on_drain_due
from orchqueue.core.replica_flow import RUNNING, on_lost
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.running_text import on_beat
from orchqueue.core.state import State
from orchqueue.core.swap import start_replica
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState


def on_timer(state: State, event: TimerFired, now_ms: int) -> None:
    """Look up what the timer was for, and act if it still matters."""
    kind, name = event.key
    match kind:
        case "restart" | "stable" | "cool":
            _replica_timer(state, kind, ReplicaId(name), now_ms)
        case "session":
            tenant, _, session_id = name.partition("/")
            state.sessions.expire((Tenant(tenant), session_id), now_ms)
        case "retention":
            if TaskKey(name) in state.retained:
                forget(state, TaskKey(name))
        case "text":
            on_beat(state, now_ms)
        case "hung":
            _never_let_go(state, AttemptId(int(name)), now_ms)
        case "drain":
            on_drain_due(state, PoolId(name), now_ms)
        case _:
            task = state.active.get(TaskKey(name))
            if task is not None and task.state is not TaskState.COUNTING:
                _task_timer(state, kind, task, now_ms)


def _replica_timer(state: State, kind: str, replica_id: ReplicaId, now_ms: int) -> None:
    replica = state.replicas[replica_id]
    if kind == "restart" and replica.state in (ReplicaState.BACKOFF, ReplicaState.BROKEN):
        start_replica(state, replica, now_ms)
    elif kind == "stable" and replica.state in (ReplicaState.READY, ReplicaState.SUSPECT):
        replica.failures_in_row = 0
    elif kind == "cool":
        replica.cooling = False
        log_replica(state, replica, now_ms)
        state.dirty = True


def _never_let_go(state: State, attempt_id: AttemptId, now_ms: int) -> None:
    """Have a replica started anew that still works on what it was told to drop after a silence.

    Req: ORCH-4370
    """
    attempt = state.attempts.get(attempt_id)
    if attempt is not None and state.replicas[attempt.replica_id].state in RUNNING:
        text = f"it did not let go of a silent task within {LETS_GO_MS} ms"
        on_lost(state, ReplicaLost(attempt.replica_id, "health", text), now_ms)


def _task_timer(state: State, kind: str, task: Task, now_ms: int) -> None:
    timeouts = state.pools[task.pool_id].settings.timeouts
    match kind:
        case "deadline":
            _fired(state, "deadline", task, task.spec.deadline_ms or 0, now_ms)
            text = f"deadline_ms {task.spec.deadline_ms} has passed; allow more time or ask for fewer tokens"
            end(state, task, Outcome.DEADLINE_PASSED, now_ms, text)
        case "wall" if task.bound_at_ms is not None:
            if _too_early(state, kind, task, task.wall_due_ms(timeouts.wall_ms), now_ms):
                return
            _fired(state, "wall", task, timeouts.wall_ms, now_ms)
            text = f"decoding took longer than wall_ms {timeouts.wall_ms}; ask for fewer tokens"
            end(state, task, Outcome.WALL_TIMEOUT, now_ms, text)
        case "first_token" if _waits_for_first_token(task) and timeouts.first_token_ms is not None:
            if _too_early(state, kind, task, (task.bound_at_ms or 0) + timeouts.first_token_ms, now_ms):
                return
            _fired(state, "first_token", task, timeouts.first_token_ms, now_ms)
            text = f"no token came within first_token_ms {timeouts.first_token_ms}; send the task again"
            end(state, task, Outcome.FIRST_TOKEN_TIMEOUT, now_ms, text)
        case "idle" if task.state is TaskState.STREAMING and task.last_token_at_ms is not None:
            if _too_early(state, kind, task, task.last_token_at_ms + timeouts.idle_ms, now_ms):
                return
            _fired(state, "idle", task, timeouts.idle_ms, now_ms)
            on_silence(state, task, timeouts.idle_ms, now_ms)
        case "disconnect" if task.readers == 0:
            if _too_early(state, kind, task, task.unread_since_ms + state.settings.disconnect_grace_ms, now_ms):
                return
            _fired(state, "disconnect", task, state.settings.disconnect_grace_ms, now_ms)
            state.emit(Note("info", "task_abandoned", {"job_id": task.task_id, "tenant_id": task.tenant}))
            end(state, task, Outcome.CANCELED_ON_DISCONNECT, now_ms)
        case "warm":
            if task.state is TaskState.WAITING and task.warm_wait_begun:
                _fired(state, "warm", task, WARM_WAIT_MS, now_ms)
            task.warm_wait_over = True
            state.dirty = True


def _waits_for_first_token(task: Task) -> bool:
    """Tell whether the limit on the first token holds: a replay begins with text that is there already."""
    return task.state is TaskState.BOUND and not task.emitted_bytes


def _fired(state: State, timer: TimerName, task: Task, limit_ms: int, now_ms: int) -> None:
    state.emit(LogDecision(decisions.TimerFired(now_ms, task.key, timer, limit_ms)))


def _too_early(state: State, kind: str, task: Task, due_ms: int, now_ms: int) -> bool:
    """Wait on when the time is not over: tokens came, or what fired was meant for an earlier attempt or reader."""
    if due_ms > now_ms:
        state.emit(SetTimer((kind, task.key), due_ms))
    return due_ms > now_ms
