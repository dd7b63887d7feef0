"""Why a task waits, was placed where it is, ended as it did, or was refused.

Made of the decisions that were logged about the task, and of the live state where it still waits or runs.

Req: ORCH-4086, ORCH-4323
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from orchqueue.core import chapter
from orchqueue.core import decisions as dc
from orchqueue.core.explain_words import story_of
from orchqueue.core.explanation import Ahead, Explanation, Timer, Waiting, WaitsFor
from orchqueue.core.forecast import start_of
from orchqueue.core.ids import TaskKey, task_id_of
from orchqueue.core.moments import timeline
from orchqueue.core.outcome import Outcome
from orchqueue.core.placement import WARM_WAIT_MS
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.state import Pool, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState
from orchqueue.core.views import ended_state

FIRED: dict[Outcome, dc.TimerName] = {
    Outcome.DEADLINE_PASSED: "deadline",
    Outcome.WALL_TIMEOUT: "wall",
    Outcome.IDLE_TIMEOUT: "idle",
    Outcome.FIRST_TOKEN_TIMEOUT: "first_token",
    Outcome.CANCELED_ON_DISCONNECT: "disconnect",
}


def explain(state: State, key: TaskKey, log: Sequence[dc.AnyDecision], now_ms: int) -> Explanation | None:
    """Explain a task, or a refusal that is still in the log; None when nothing of that key is known.

    Shape: `log` holds the decisions of that key, oldest first.
    Cost: the decisions given; while it waits, the tasks ahead of it.
    Req: ORCH-4003
    """
    task = state.tasks.get(key)
    if task is not None and task.state is not TaskState.COUNTING:
        found = _of_task(state, task, chapter.of_known(log), now_ms)
    else:
        log = chapter.of_refused(log)
        if not log:
            return None
        found = _of_refusal(key, log)
    return msgspec.structs.replace(found, story=story_of(found))


def _of_refusal(key: TaskKey, log: Sequence[dc.AnyDecision]) -> Explanation:
    refused = log[-1]
    assert isinstance(refused, dc.Refused), f"the log of {key} ends with {refused}"
    return Explanation(
        task_id_of(key),
        "refused",
        pool_id=refused.refusal.pool_id,
        candidates=chapter.candidates(log),
        refused_at_ms=refused.at_ms,
        refusal=refused.refusal,
        timeline=timeline(log),
        complete=chapter.is_complete(log),
    )


def _of_task(state: State, task: Task, log: Sequence[dc.AnyDecision], now_ms: int) -> Explanation:
    waiting = _waiting(state, task, now_ms) if task.state is TaskState.WAITING else None
    started = task.first_bound_at_ms
    admitted = [decision for decision in log if isinstance(decision, dc.Admitted)]
    dropped = [decision for decision in log if isinstance(decision, dc.Dropped)]
    return Explanation(
        task_id=task.task_id,
        state="queued" if waiting else "running" if task.ended is None else ended_state(task.ended),
        pool_id=task.pool_id,
        waiting=waiting,
        candidates=chapter.candidates(log),
        attempts=chapter.tries(log),
        attempts_total=_attempts(task),
        queue_time_ms=None if started is None else max(0, started - task.accepted_at_ms),
        timers=tuple(_timers(state, task, log)),
        ended=task.ended,
        dropped=dropped[-1] if dropped else None,
        displaced=admitted[-1].displaced if admitted else None,
        timeline=timeline(log),
        complete=chapter.is_complete(log),
        recovered=any(isinstance(decision, dc.Recovered) for decision in log),
    )


def _attempts(task: Task) -> int:
    if task.ended is not None and task.ended.receipt is not None:
        return task.ended.receipt.attempts
    return task.attempts


def _waiting(state: State, task: Task, now_ms: int) -> Waiting:
    pool = state.pools[task.pool_id]
    forecast = start_of(state, pool, task, now_ms)
    ready = [r.replica_id for r in pool.regulars if r.ready]
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
    if not any(r.ready and state.slots.free(r.replica_id) for r in pool.regulars):
        return "slot"
    return "warm_replica" if task.warm_wait_begun and not task.warm_wait_over else "other_replica"


def _timers(state: State, task: Task, log: Sequence[dc.AnyDecision]) -> list[Timer]:
    """List the limits on a task's time: those that were reached as they were then, the others as they are now."""
    fired = {decision.timer: decision for decision in log if isinstance(decision, dc.TimerFired)}
    # Where the decision has fallen out of the log, or was another life's, the end still tells which one it was.
    ended_by = FIRED.get(task.ended.outcome) if task.ended is not None else None
    found = []
    for name, limit_ms, since_ms in _limits(state, task, log):
        reached = fired.get(name)
        if reached is not None:
            limit_ms = reached.limit_ms
        if limit_ms is not None:
            due_at_ms = None if since_ms is None or reached is not None else since_ms + limit_ms
            at_ms = None if reached is None else reached.at_ms
            found.append(Timer(name, limit_ms, reached is not None or name == ended_by, due_at_ms, at_ms))
    return found


def _limits(
    state: State, task: Task, log: Sequence[dc.AnyDecision]
) -> list[tuple[dc.TimerName, int | None, int | None]]:
    """Give each limit and since when it runs, where it does."""
    found: list[tuple[dc.TimerName, int | None, int | None]] = [
        ("deadline", task.spec.deadline_ms, None if task.ended is not None else task.accepted_at_ms)
    ]
    if task.pool_id in state.pools:
        limits = state.pools[task.pool_id].settings.timeouts
        running = task.state in (TaskState.BOUND, TaskState.STREAMING)
        found += [
            ("wall", limits.wall_ms, task.bound_at_ms if running else None),
            ("first_token", limits.first_token_ms, task.bound_at_ms if task.state is TaskState.BOUND else None),
            ("idle", limits.idle_ms, task.last_token_at_ms if task.state is TaskState.STREAMING else None),
        ]
    if task.reader_seen and task.spec.cancels_on_disconnect:
        unread = task.ended is None and task.readers == 0
        found.append(("disconnect", state.settings.disconnect_grace_ms, task.unread_since_ms if unread else None))
    begun = [d.at_ms for d in log if isinstance(d, dc.PassedOver) and d.cause == "left_free"]
    if begun:
        runs = task.state is TaskState.WAITING
        found.append(("warm", WARM_WAIT_MS, begun[0] if runs else None))
    return found
