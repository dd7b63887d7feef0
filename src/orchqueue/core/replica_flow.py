"""What happens to a replica: it comes up, is lost, is brought back, is given up for a while.

Req: ORCH-3002, ORCH-3038, ORCH-3040, ORCH-4144, ORCH-4270
"""

from __future__ import annotations

from zlib import crc32

from orchqueue.core import canary_flow, quotas
from orchqueue.core.effects import AbortAttempt, ClearTimer, Count, Note, SetTimer
from orchqueue.core.ending import end
from orchqueue.core.estimate import smooth
from orchqueue.core.events import ReplicaHealthy, ReplicaLost, ReplicaReady, ReplicaScraped
from orchqueue.core.failover_flow import fail_attempt, give_up_interrupted
from orchqueue.core.log_entries import log_replica
from orchqueue.core.outcome import Outcome
from orchqueue.core.pool_flow import go_on_after_stop, replica_of_reload_lost, replica_of_reload_ready
from orchqueue.core.replica_states import ReplicaState, ReplicaTrigger
from orchqueue.core.settings import Supervision
from orchqueue.core.state import Pool, Replica, State

MINUTE_MS = 60_000
RUNNING = (ReplicaState.READY, ReplicaState.SUSPECT)


def on_ready(state: State, event: ReplicaReady, now_ms: int) -> None:
    """Let a replica take attempts.

    Replicas of a pool never mix engine versions where the pool says so.
    """
    replica = state.replicas[event.replica_id]
    if replica.state is not ReplicaState.STARTING:
        return
    pool = state.pool_of(replica)
    odd = _differs(pool, replica, event)
    if odd:
        on_lost(state, ReplicaLost(event.replica_id, "selftest", odd), now_ms)
        return
    replica.move(ReplicaTrigger.BECOME_READY)
    size_before = pool.kv_bytes_per_token
    replica.facts = event.facts
    if pool.kv_bytes_per_token != size_before:
        quotas.size_context(state, pool)
    replica.rates.start_from(event.facts)
    replica.start_took_ms = smooth(replica.start_took_ms, now_ms - replica.starting_since_ms)
    replica.ready_since_ms = now_ms
    replica.cooling = False
    replica.last_error = None
    state.slots.size(replica.replica_id, min(pool.settings.slots, event.facts.slots_total))
    log_replica(state, replica, now_ms)
    state.emit(SetTimer(("stable", replica.replica_id), now_ms + pool.settings.supervision.stable_after_ms))
    state.emit(Count("preload_outcomes_total", (pool.settings.engine, pool.pool_id, "ready")))
    state.emit(_note("info", "replica_ready", pool, replica))
    replica_of_reload_ready(state, pool, now_ms)
    canary_flow.on_replica_ready(state, pool, replica, now_ms)
    _give_up_strict(state, pool, now_ms)
    give_up_interrupted(state, state.interrupted.values(), now_ms)
    state.dirty = True


def _differs(pool: Pool, replica: Replica, event: ReplicaReady) -> str:
    """Tell how a replica differs from its running siblings, empty when it does not; a canary's only in its model.

    One that is suspect or cools off runs as well: it may take attempts again at any moment.

    Req: ORCH-3045, ORCH-4136
    """
    for other in pool.replicas.values():
        if other is replica or other.facts is None or other.state not in RUNNING:
            continue
        if pool.settings.require_same_engine_version and other.facts.engine_version != event.facts.engine_version:
            ours, theirs = event.facts.engine_version, other.facts.engine_version
            return f"runs engine version {ours}, {other.replica_id} runs {theirs}; replicas of a pool must be equal"
        if other.model_ref != replica.model_ref:
            continue
        if other.facts.model_digest != event.facts.model_digest:
            return f"serves another model than {other.replica_id}; replicas of a pool must be equal"
        if pool.settings.strict and other.facts.known_answer != event.facts.known_answer:
            return f"gives another known answer than {other.replica_id}; a strict pool needs equal ones"
    return ""


def on_lost(state: State, event: ReplicaLost, now_ms: int) -> None:
    """Take a replica out, move its tasks on, and plan its return.

    1. Attempts on it fail as lost; their slots are released when each is closed.
    2. Backoff doubles from the first failure; a breaker opens after several in a row; restarts a minute are bounded.

    Req: ORCH-4270
    """
    replica = state.replicas[event.replica_id]
    pool = state.pool_of(replica)
    if replica.state in (ReplicaState.DOWN, ReplicaState.BACKOFF, ReplicaState.BROKEN):
        return
    stopping = replica.state is ReplicaState.STOPPING
    was_up = replica.facts is not None and replica.state is not ReplicaState.STARTING
    replica.last_error = f"{event.cause}: {event.detail}"
    replica.resident = []
    state.sessions.chill(replica.replica_id)
    state.emit(ClearTimer(("stable", replica.replica_id)))
    state.emit(_note("error", "replica_lost", pool, replica, event.cause))
    if not was_up:
        outcome = "out_of_memory" if event.cause in ("host_oom", "vram_oom", "cannot_fit") else "failed"
        state.emit(Count("preload_outcomes_total", (pool.settings.engine, pool.pool_id, outcome)))
    if stopping:
        replica.move(ReplicaTrigger.LOSE)
    else:
        _plan_return(state, pool, replica, now_ms)
    log_replica(state, replica, now_ms, event.cause)
    _fail_attempts(state, replica, event, now_ms)
    if stopping:
        go_on_after_stop(state, replica, now_ms)
    else:
        replica_of_reload_lost(state, pool, replica.last_error, now_ms)
        canary_flow.on_replica_lost(state, pool, replica, replica.last_error, now_ms)
    _give_up_waiting(state, pool, now_ms)
    _give_up_strict(state, pool, now_ms)
    give_up_interrupted(state, state.interrupted.values(), now_ms)
    state.dirty = True


def _plan_return(state: State, pool: Pool, replica: Replica, now_ms: int) -> None:
    policy = pool.settings.supervision
    replica.failures_in_row += 1
    replica.restarts += 1
    if replica.failures_in_row >= policy.breaker_failures:
        replica.move(ReplicaTrigger.BREAK)
        wait_ms = policy.breaker_open_ms
    else:
        replica.move(ReplicaTrigger.LOSE)
        wait_ms = backoff_ms(policy, replica.failures_in_row, replica.replica_id)
    recent = [t for t in replica.restart_times_ms if t > now_ms - MINUTE_MS]
    if len(recent) >= policy.restarts_per_minute:
        wait_ms = max(wait_ms, recent[0] + MINUTE_MS - now_ms)
    replica.restart_times_ms = [*recent, now_ms + wait_ms][-policy.restarts_per_minute :]
    replica.retry_at_ms = now_ms + wait_ms
    state.emit(SetTimer(("restart", replica.replica_id), replica.retry_at_ms))
    state.emit(Count("replica_restarts_total", (pool.settings.engine, pool.pool_id, replica.replica_id)))


def backoff_ms(policy: Supervision, failures: int, name: str) -> int:
    """Wait twice as long after each failure, spread by a share that depends on name and count alone.

    Req: ORCH-3039

    >>> backoff_ms(Supervision(backoff_jitter_percent=0), 3, "r")
    4000
    """
    base = min(policy.backoff_max_ms, policy.backoff_initial_ms << min(failures - 1, 20))
    spread = base * policy.backoff_jitter_percent // 100
    return base - spread + crc32(f"{name}:{failures}".encode()) % (2 * spread + 1)


def _fail_attempts(state: State, replica: Replica, event: ReplicaLost, now_ms: int) -> None:
    for attempt_id in sorted(state.slots.holders(replica.replica_id)):
        attempt = state.attempts[attempt_id]
        if not attempt.aborting:
            attempt.aborting = True
            state.emit(AbortAttempt(attempt_id))
        task = state.active.get(attempt.key)
        if task is not None and task.attempt_id == attempt_id:
            fail_attempt(state, task, replica.replica_id, "lost", f"{event.cause}: {event.detail}", now_ms)


def _give_up_waiting(state: State, pool: Pool, now_ms: int) -> None:
    """End what waits for replicas that are all given up, so that clients need not wait for the breaker.

    Req: ORCH-4145
    """
    if any(r.state is not ReplicaState.BROKEN for r in pool.regulars):
        return
    members = (pool, *state.siblings(pool))
    replicas = [r for p in members for r in p.regulars]
    if any(r.state is not ReplicaState.BROKEN for r in replicas):
        return
    wait_ms = max(1, min(r.retry_at_ms for r in replicas) - now_ms)
    for task in [t for p in members for line in p.queue.lines.values() for t in line]:
        text = f"every replica of pool {task.pool_id} failed repeatedly; send the task again later"
        end(state, task, Outcome.POOL_UNAVAILABLE, now_ms, text, retry_after_ms=wait_ms)


def _give_up_strict(state: State, pool: Pool, now_ms: int) -> None:
    """End what was promised equal outputs, once every replica of the set has failed to prove that it gives them.

    Req: ORCH-4170
    """
    if pool.mode == "reloading" or _may_prove(pool):
        return
    members = (pool, *state.siblings(pool))
    if any(_may_prove(p) for p in members):
        return
    text = f"pool {pool.pool_id} gives no equal outputs any more; send the task again without determinism strict"
    for task in [t for p in members for line in p.queue.lines.values() for t in line if t.strict]:
        end(state, task, Outcome.POOL_UNAVAILABLE, now_ms, text, retry_after_ms=1_000)


def _may_prove(pool: Pool) -> bool:
    return any(r.facts.strict_proven if r.facts else r.state is not ReplicaState.BROKEN for r in pool.regulars)


def on_healthy(state: State, event: ReplicaHealthy, now_ms: int) -> None:
    """Trust a suspect replica again."""
    replica = state.replicas[event.replica_id]
    if replica.state is ReplicaState.SUSPECT:
        replica.move(ReplicaTrigger.CLEAR)
        log_replica(state, replica, now_ms)
        state.dirty = True


def on_scraped(state: State, event: ReplicaScraped, now_ms: int) -> None:
    """Keep the replica's own figures; what its only slot holds is the context of who ran there last, unless somebody runs now.

    Req: ORCH-4255
    """
    replica = state.replicas[event.replica_id]
    replica.kv_usage_ratio = event.kv_usage_ratio
    replica.devices = event.devices
    whose = replica.resident[-1] if replica.resident else None
    if event.cached_tokens is not None and whose is not None and not state.slots.holders(replica.replica_id):
        state.sessions.measure(whose, replica.replica_id, event.cached_tokens, now_ms)


def _note(level: str, name: str, pool: Pool, replica: Replica, cause: str | None = None) -> Note:
    facts = replica.facts
    return Note(
        "error" if level == "error" else "info",
        name,
        {
            "engine": pool.settings.engine,
            "pool_id": pool.pool_id,
            "replica_id": replica.replica_id,
            "model_id": replica.model_ref,
            "engine_version": facts.engine_version if facts else None,
            "cause": cause,
            "detail": replica.last_error,
            "oom_events": 1 if cause in ("host_oom", "vram_oom") else 0,
            "driver_reset_events": 1 if cause == "cuda" else 0,
        },
    )
