"""Why a task waits, was placed where it is, ended as it did, or was refused.

Req: ORCH-4086
"""

from __future__ import annotations

from itertools import islice

import msgspec

from orchqueue.core.explain_words import story_of
from orchqueue.core.explanation import Ahead, Explanation, Timer, TimerName, Waiting, WaitsFor
from orchqueue.core.forecast import start_of
from orchqueue.core.ids import TaskKey, task_id_of
from orchqueue.core.outcome import Outcome
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.state import Pool, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState
from orchqueue.core.views import ended_state

FIRED: dict[Outcome, TimerName] = {
    Outcome.DEADLINE_PASSED: "deadline",
    Outcome.WALL_TIMEOUT: "wall",
    Outcome.IDLE_TIMEOUT: "idle",
    Outcome.FIRST_TOKEN_TIMEOUT: "first_token",
}


def explain(state: State, key: TaskKey, now_ms: int) -> Explanation | None:
    """Explain a task, or one of the latest refusals; None when nothing of that key is known.

    Cost: while it waits, the tasks ahead of it.
    Req: ORCH-4003
    """
    task = state.tasks.get(key)
    if task is not None and task.state is not TaskState.COUNTING:
        found = _of_task(state, task, now_ms)
    else:
        refused = state.refusals.find(key)
        if refused is None:
            return None
        found = Explanation(
            task_id_of(key),
            "refused",
            pool_id=refused.refusal.pool_id,
            refused_at_ms=refused.refused_at_ms,
            refusal=refused.refusal,
        )
    return msgspec.structs.replace(found, story=story_of(found))


def _of_task(state: State, task: Task, now_ms: int) -> Explanation:
    waiting = _waiting(state, task, now_ms) if task.state is TaskState.WAITING else None
    started = task.first_bound_at_ms
    return Explanation(
        task_id=task.task_id,
        state="queued" if waiting else "running" if task.ended is None else ended_state(task.ended),
        pool_id=task.pool_id,
        waiting=waiting,
        candidates=task.considered,
        attempts=task.tries,
        attempts_total=_attempts(task),
        queue_time_ms=None if started is None else max(0, started - task.accepted_at_ms),
        timers=tuple(_timers(state, task)),
        ended=task.ended,
    )


def _attempts(task: Task) -> int:
    if task.ended is not None and task.ended.receipt is not None:
        return task.ended.receipt.attempts
    return task.attempts


def _waiting(state: State, task: Task, now_ms: int) -> Waiting:
    pool = state.pools[task.pool_id]
    forecast = start_of(state, pool, task, now_ms)
    ready = [r.replica_id for r in pool.replicas.values() if r.ready]
    return Waiting(
        waits_for=_waits_for(state, pool, task),
        queue_position=forecast.position,
        predicted_start_ms=forecast.start_in_ms,
        basis=forecast.basis,
        waited_ms=max(0, now_ms - task.accepted_at_ms),
        slots_total=sum(state.slots.total(r) for r in ready),
        slots_busy=sum(len(state.slots.holders(r)) for r in ready),
        ahead=tuple(_ahead(pool, task)),
    )


def _ahead(pool: Pool, task: Task) -> list[Ahead]:
    found = []
    for name, count in pool.queue.ahead_by_class(task).items():
        own = sum(other.tenant == task.tenant for other in islice(pool.queue.lines[name], count))
        found.append(Ahead(name, own, count - own))
    return found


def _waits_for(state: State, pool: Pool, task: Task) -> WaitsFor:
    """Name the first of what stands between a task and its start.

    1. Nothing starts at all. 2. Nothing starts in this pool. 3. No replica is up. 4. A slot is free, but not for this
    task. 5. No slot is free.
    """
    if state.journal_problem is not None:
        return "journal"
    if state.shutting_down:
        return "restart"
    if pool.mode == "reloading":
        return "pool_reloading"
    if pool.mode in ("draining", "drained"):
        return "pool_draining"
    if not pool.ready:
        failed = (ReplicaState.BACKOFF, ReplicaState.BROKEN)
        return "live_replica" if all(r.state in failed for r in pool.replicas.values()) else "pool_loading"
    if not any(r.ready and state.slots.free(r.replica_id) for r in pool.replicas.values()):
        return "slot"
    return "warm_replica" if task.warm_wait_begun and not task.warm_wait_over else "other_replica"


def _timers(state: State, task: Task) -> list[Timer]:
    limits = state.pools[task.pool_id].settings.timeouts if task.pool_id in state.pools else None
    fired = FIRED.get(task.ended.outcome) if task.ended is not None else None
    running = task.state in (TaskState.BOUND, TaskState.STREAMING)
    begun = task.bound_at_ms if running else None
    found: list[tuple[TimerName, int | None, int | None]] = [
        ("deadline", task.spec.deadline_ms, None if task.ended is not None else task.accepted_at_ms)
    ]
    if limits is not None:
        first = begun if task.state is TaskState.BOUND else None
        last = task.last_token_at_ms if task.state is TaskState.STREAMING else None
        found += [
            ("wall", limits.wall_ms, begun),
            ("first_token", limits.first_token_ms, first),
            ("idle", limits.idle_ms, last),
        ]
    return [
        Timer(name, limit_ms, name == fired, None if since_ms is None else since_ms + limit_ms)
        for name, limit_ms, since_ms in found
        if limit_ms is not None
    ]
