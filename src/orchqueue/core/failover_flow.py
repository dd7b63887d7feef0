"""What becomes of a task whose attempt failed: it is tried again, goes on where it was, or ends.

strict tasks are replayed: the new run is compared with what was sent, and only what goes beyond it is passed on. best_effort tasks
go on from their text where the engine can.

Req: ORCH-4010, ORCH-4173, ORCH-4178
"""

from __future__ import annotations

from collections.abc import Iterable

from orchqueue.core import decisions
from orchqueue.core.effects import AbortAttempt, ClearTimer, Count, LogDecision, Note, ProbeReplica, SetTimer
from orchqueue.core.ending import end, task_fields
from orchqueue.core.events import AttemptFailure
from orchqueue.core.ids import ReplicaId
from orchqueue.core.log_entries import log_replica
from orchqueue.core.outcome import Outcome
from orchqueue.core.replay import follow
from orchqueue.core.replica_states import ReplicaState, ReplicaTrigger
from orchqueue.core.retry import after_failure, may_go_on
from orchqueue.core.state import Replica, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskTrigger

LETS_GO_MS = 10_000


def fail_attempt(
    state: State, task: Task, replica_id: ReplicaId, failure: AttemptFailure, detail: str, now_ms: int
) -> None:
    """Decide what becomes of a task whose attempt failed. The attempt itself keeps its slot until it is closed.

    Req: ORCH-4252, ORCH-4271
    """
    task.tried = task.tried | {replica_id}
    if failure in ("lost", "hung"):
        task.kills += 1
    pool = state.pools[task.pool_id]
    live = {
        r.replica_id
        for p in (pool, *state.siblings(pool))
        for r in p.replicas.values()
        if r.state not in (ReplicaState.BROKEN, ReplicaState.DOWN, ReplicaState.STOPPING)
    }
    facts = state.replicas[replica_id].facts
    verdict = after_failure(
        task,
        failure,
        live,
        pool.settings.max_attempts,
        state.settings.poison_kills,
        can_continue=facts is not None and facts.can_continue,
    )
    state.emit(LogDecision(decisions.AttemptFailed(now_ms, task.key, task.attempts, replica_id, failure, verdict)))
    task.kv_warm = False
    fields = task_fields(state, task) | {"replica_id": replica_id, "failure": failure, "detail": detail}
    state.emit(Note("warning", "attempt_failed", fields))
    if failure in ("lost", "hung"):
        state.emit(Count("failovers_total", (verdict.value if verdict else "retried",)))
    if verdict is not None:
        end(state, task, verdict, now_ms, f"{_story(verdict)} ({detail})")
        return
    if pool.canary is not None and failure in ("lost", "hung", "engine_error"):
        pool.canary.note_failure(task)
    task.stop_clock(now_ms)
    if not task.emitted_bytes:
        # Before any text was sent each attempt has the whole limit for itself.
        task.spent_ms = 0
    task.attempt_id = None
    task.bound_at_ms = None
    task.replay_bytes = None
    task.move(TaskTrigger.REQUEUE)
    if task.charged:
        state.pools[task.charged_pool_id].queue.put_back(task)
    pool.queue.push(task)
    state.ledger.wait_again(task.hold)
    state.emit(*(ClearTimer((kind, task.key)) for kind in ("wall", "idle", "first_token")))
    if task.emitted_bytes:
        state.interrupted[task.key] = task
        give_up_interrupted(state, (task,), now_ms)
    state.dirty = True


def _story(verdict: Outcome) -> str:
    match verdict:
        case Outcome.ENGINE_LOST:
            return "the engine was lost in the middle of the stream; send the task again"
        case Outcome.REPLICAS_EXHAUSTED:
            return "every replica was tried; send the task again later"
        case Outcome.POISON:
            return "this task has brought down several replicas and is not tried again"
        case Outcome.IDLE_TIMEOUT:
            return "the engine fell silent in the middle of the stream; send the task again"
        case _:
            return "the engine refused the task"


def suspect(state: State, replica: Replica, now_ms: int) -> None:
    """Give a replica nothing more until it was probed."""
    if replica.state is ReplicaState.READY:
        replica.move(ReplicaTrigger.SUSPECT)
        log_replica(state, replica, now_ms)
        state.emit(ProbeReplica(replica.replica_id))


def on_silence(state: State, task: Task, idle_ms: int, now_ms: int) -> None:
    """Take a task from an engine that has fallen silent; its slot is kept until the engine has let go, or is given up.

    Req: ORCH-4367
    """
    assert task.attempt_id is not None, f"{task.key} is silent without an attempt"
    attempt = state.attempts[task.attempt_id]
    replica = state.replicas[attempt.replica_id]
    attempt.aborting = True
    state.emit(AbortAttempt(attempt.attempt_id), SetTimer(("hung", str(attempt.attempt_id)), now_ms + LETS_GO_MS))
    suspect(state, replica, now_ms)
    fail_attempt(state, task, replica.replica_id, "hung", f"no token came for idle_ms {idle_ms}", now_ms)


def rejoin(state: State, task: Task, texts: tuple[str, ...], now_ms: int) -> tuple[str, ...]:
    """Compare a replay with what was sent and give what goes beyond it; a difference ends the task.

    Req: ORCH-4010
    """
    assert task.replay_bytes is not None, f"{task.key} is not replayed"
    found = follow(task.said, task.replay_bytes, texts)
    task.replay_bytes = found.at_bytes
    if found.differs_at is not None:
        diverge(state, task, found.differs_at, now_ms)
    elif found.at_bytes == len(task.said):
        _catch_up(state, task, now_ms)
    return found.rest


def _catch_up(state: State, task: Task, now_ms: int) -> None:
    pool, replica_id = state.pools[task.pool_id], _replica_of(state, task)
    task.replay_bytes = None
    task.clock_from_ms = now_ms
    wall_ms = pool.settings.timeouts.wall_ms
    caught_up = decisions.CaughtUp(now_ms, task.key, task.attempts, replica_id, task.emitted_bytes)
    state.emit(
        SetTimer(("wall", task.key), task.wall_due_ms(wall_ms)),
        LogDecision(caught_up),
        Count("replays_total", (pool.settings.engine, pool.pool_id, "caught_up")),
    )


def diverge(state: State, task: Task, at_bytes: int, now_ms: int) -> None:
    """End a task whose new run says something else than what was sent, and leave a record of it for the operator.

    Req: ORCH-4366
    """
    pool, replica_id = state.pools[task.pool_id], _replica_of(state, task)
    diverged = decisions.Diverged(
        now_ms, task.key, task.attempts, task.spoke_on or replica_id, replica_id, at_bytes, task.emitted_bytes
    )
    fields = task_fields(state, task) | {
        "replica_id": replica_id,
        "first_replica_id": task.spoke_on,
        "at_bytes": at_bytes,
        "sent_bytes": task.emitted_bytes,
    }
    state.emit(
        LogDecision(diverged),
        Note("error", "replay_diverged", fields),
        Count("replays_total", (pool.settings.engine, pool.pool_id, "diverged")),
    )
    text = (
        f"a second run of this task on {replica_id} differed at byte {at_bytes} from what was sent; send the task again"
    )
    end(state, task, Outcome.DIVERGED, now_ms, text)


def _replica_of(state: State, task: Task) -> ReplicaId:
    assert task.attempt_id is not None, f"{task.key} has no attempt"
    return state.attempts[task.attempt_id].replica_id


def give_up_interrupted(state: State, tasks: Iterable[Task], now_ms: int) -> None:
    """End what was interrupted in the middle of its text, once no replica of its set can go on with it.

    A replica that is not up yet may turn out to be one that can. After each news of a replica all are looked at: it may be the last
    hope of a task that waits in a sibling of its pool, or in what was one before a reload.

    Req: ORCH-4368
    """
    for task in tuple(tasks):
        pool = state.pools[task.pool_id]
        members = (pool, *(p for p in state.siblings(pool) if task.spec.placement.allows(p.pool_id)))
        replicas = [r for p in members for r in p.replicas.values()]
        if any(may_go_on(task, r.facts) if r.facts else r.state is not ReplicaState.BROKEN for r in replicas):
            continue
        version, _ = task.made_by or ("", "")
        text = f"no engine like the one that began it ({version}) is left to go on with it; send the task again"
        end(state, task, Outcome.ENGINE_LOST, now_ms, text)
