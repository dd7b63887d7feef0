"""A canary begins, is judged, and becomes the pool's model or is taken back.

Some of the pool's replicas get the new model, the others go on as they are. Each replica is restarted as soon as nothing runs
on it, and the pool serves all the time.

Req: ORCH-4131
"""

from __future__ import annotations

from orchqueue.core.canary import Canary
from orchqueue.core.effects import Note
from orchqueue.core.log_entries import log_pool
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.swap import end_those_left_behind, renew_step


def hindrance(pool: Pool, model_ref: str) -> Refusal | None:
    """Say why a pool cannot try a model on some of its replicas.

    Req: ORCH-4331
    """
    if len(pool.replicas) < 2:
        why = (
            f"has {len(pool.replicas)} replica; a canary needs another one beside it, so reload without canary_percent"
        )
    elif pool.mode not in ("serving", "verifying"):
        why = f"is {pool.mode}, so no task would try the model; reload without canary_percent"
    elif pool.asleep:
        why = "has had no task yet and no replica is up; reload without canary_percent"
    elif pool.model_ref == model_ref:
        why = f"serves {model_ref} already; a canary needs another name, or reload without canary_percent"
    else:
        return None
    return Refusal(Outcome.CONFLICT, f"pool {pool.pool_id} {why}", engine=pool.settings.engine, pool_id=pool.pool_id)


def begin(state: State, pool: Pool, model_ref: str, percent: int, now_ms: int) -> None:
    """Give the last of the pool's replicas the new model: as many as its share needs, and never all."""
    replicas = list(pool.replicas.values())
    count = min(len(replicas) - 1, -(-len(replicas) * percent // 100))
    chosen = replicas[-count:]
    pool.canary = Canary(model_ref, percent, frozenset(r.replica_id for r in chosen))
    for replica in chosen:
        replica.renewing = True
    log_pool(state, pool, now_ms)
    _tell(state, pool, "info", "canary_begun", f"{percent} percent of the tasks try {model_ref}")
    renew_step(state, pool, now_ms)


def judge(state: State, pool: Pool, now_ms: int) -> None:
    """Take the canary back when it breaks a level; promote it when it has kept them long enough, where that is wanted.

    Req: ORCH-4332, ORCH-4333
    """
    canary, levels = pool.canary, pool.settings.canary
    if canary is None:
        return
    reason = canary.broken(levels)
    if reason:
        take_back(state, pool, reason, now_ms)
    elif levels.promote == "auto" and canary.kept(levels):
        promote(state, pool, now_ms)


def on_replica_ready(state: State, pool: Pool, replica: Replica, now_ms: int) -> None:
    """Begin to try a model when all its replicas are up; one that cannot keep the promise of equal outputs is taken back.

    Req: ORCH-4333
    """
    canary = pool.canary
    if canary is None or replica.replica_id not in canary.replica_ids:
        return
    assert replica.facts is not None, f"{replica.replica_id} is ready without facts"
    proven = any(r.facts is not None and r.facts.strict_proven for r in pool.regulars)
    if proven and not replica.facts.strict_proven:
        take_back(state, pool, f"{replica.replica_id} gives no equal outputs with it", now_ms)
    elif all(pool.replicas[r].ready and pool.replicas[r].model_ref == canary.model_ref for r in canary.replica_ids):
        canary.trying = True
        log_pool(state, pool, now_ms)


def on_replica_lost(state: State, pool: Pool, replica: Replica, error: str, now_ms: int) -> None:
    """Take a canary back whose replica is lost while it has the new model.

    Req: ORCH-4333
    """
    canary = pool.canary
    if canary is not None and replica.replica_id in canary.replica_ids and replica.model_ref == canary.model_ref:
        take_back(state, pool, f"{replica.replica_id} was lost: {error}", now_ms)


def take_back(state: State, pool: Pool, problem: str | None, now_ms: int) -> None:
    """Give the canary's replicas the pool's model again. What runs on them ends there first.

    `problem` None: an operator wants it so.
    """
    canary = pool.canary
    assert canary is not None, f"pool {pool.pool_id} has no canary"
    pool.canary = None
    pool.last_error = None if problem is None else f"canary of {canary.model_ref} taken back: {problem}"
    for replica_id in canary.replica_ids:
        # One that still drains its old work has the right model.
        pool.replicas[replica_id].renewing = pool.replicas[replica_id].model_ref == canary.model_ref
    log_pool(state, pool, now_ms, pool.last_error)
    _tell(state, pool, "error" if problem else "info", "canary_taken_back", problem or "rolled back", canary.model_ref)
    end_those_left_behind(state, pool, now_ms)
    renew_step(state, pool, now_ms)
    state.dirty = True


def promote(state: State, pool: Pool, now_ms: int) -> None:
    """Make the canary's model the pool's; a rollback leads back to the one before.

    Req: ORCH-4334
    """
    canary = pool.canary
    assert canary is not None, f"pool {pool.pool_id} has no canary"
    for replica in pool.regulars:
        replica.renewing = True
    pool.previous_model_ref, pool.model_ref = pool.model_ref, canary.model_ref
    pool.canary = pool.last_error = None
    log_pool(state, pool, now_ms)
    told = (
        f"after {canary.ended} tasks, {canary.errors} failed, {canary.late} of {canary.first_tokens} first tokens late"
    )
    _tell(state, pool, "info", "canary_promoted", told)
    end_those_left_behind(state, pool, now_ms)
    renew_step(state, pool, now_ms)
    state.dirty = True


def _tell(state: State, pool: Pool, level: str, name: str, detail: str, model_ref: str | None = None) -> None:
    fields = {"pool_id": pool.pool_id, "engine": pool.settings.engine, "detail": detail}
    fields["model_id"] = model_ref or (pool.canary.model_ref if pool.canary else pool.model_ref)
    state.emit(Note("error" if level == "error" else "info", name, {**fields}))
