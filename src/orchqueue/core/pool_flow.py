"""What operators do to a pool: drain it, give it another model, take that back, change its policies.

Req: ORCH-4124, ORCH-4127
"""

from __future__ import annotations

from orchqueue.core import canary_flow, quotas
from orchqueue.core.decisions import MoveCause, Moved
from orchqueue.core.effects import (
    ClearTimer,
    Done,
    LogDecision,
    Note,
    Refuse,
    SetTimer,
    VerifyModel,
)
from orchqueue.core.ending import end
from orchqueue.core.events import (
    DrainRequested,
    ModelVerified,
    ReloadRequested,
    ReplicaStopped,
    RollbackRequested,
    SettingsReplaced,
)
from orchqueue.core.forecast import comes_up_in_ms
from orchqueue.core.ids import PoolId, ReplyId
from orchqueue.core.log_entries import log_pool, log_settings
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.queue import Full
from orchqueue.core.replica_states import ReplicaState, ReplicaTrigger
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.swap import end_those_left_behind, forget_engine, start_replica, take_down
from orchqueue.core.task_states import TaskState


def _pool(state: State, reply: ReplyId, pool_id: PoolId) -> Pool | None:
    pool = state.pools.get(pool_id)
    if pool is None:
        text = f"no such pool; pools: {', '.join(state.pools)}"
        state.emit(Refuse(reply, Refusal(Outcome.UNKNOWN_ID, text, (Fault("/path/pool_id", text),))))
    return pool


def on_drain(state: State, event: DrainRequested, now_ms: int) -> None:
    """Empty a pool: waiting tasks move to siblings in order of arrival, the rest has until the deadline.

    Again: the earlier deadline holds.

    Req: ORCH-2101, ORCH-4123
    """
    pool = _pool(state, event.reply, event.pool_id)
    if pool is None:
        return
    if pool.mode in ("verifying", "reloading"):
        _busy(state, event.reply, pool, now_ms)
        return
    if pool.canary is not None:
        canary_flow.take_back(state, pool, "the pool is drained", now_ms)
    at_ms = now_ms + event.deadline_ms
    pool.drain_at_ms = at_ms if pool.drain_at_ms is None else min(pool.drain_at_ms, at_ms)
    if pool.mode != "drained":
        pool.mode = "draining"
        log_pool(state, pool, now_ms)
        _move_to_siblings(state, pool, "drain", now_ms)
        state.emit(SetTimer(("drain", pool.pool_id), pool.drain_at_ms))
    left_ms = max(0, pool.drain_at_ms - now_ms)
    state.emit(Done(event.reply, {"pool_id": pool.pool_id, "mode": pool.mode, "deadline_ms": left_ms}))
    state.emit(Note("info", "pool_drain", {"pool_id": pool.pool_id, "engine": pool.settings.engine}))
    state.dirty = True


def _move_to_siblings(state: State, pool: Pool, cause: MoveCause, now_ms: int) -> None:
    siblings = [p for p in state.siblings(pool) if p.serving and p.ready]
    waiting = sorted((t for line in pool.queue.lines.values() for t in line), key=lambda t: t.seq)
    for task in waiting:
        for sibling in sorted(siblings, key=lambda p: (len(p.queue), p.pool_id)):
            if not task.spec.placement.allows(sibling.pool_id):
                continue
            room = sibling.queue.make_room(task.spec.priority)
            if isinstance(room, Full) or room.victim is not None:
                continue
            pool.queue.remove(task)
            task.pool_id = sibling.pool_id
            sibling.queue.push(task)
            state.emit(LogDecision(Moved(now_ms, task.key, pool.pool_id, sibling.pool_id, cause)))
            break


def on_drain_due(state: State, pool_id: PoolId, now_ms: int) -> None:
    """End what a draining pool could not finish in time.

    Req: ORCH-4125
    """
    pool = state.pools[pool_id]
    if pool.mode != "draining":
        return
    text = f"pool {pool.pool_id} was drained before the task could finish; send it again"
    for task in [t for t in state.active.values() if t.pool_id == pool_id and t.state is not TaskState.COUNTING]:
        end(state, task, Outcome.POOL_DRAINED, now_ms, text, retry_after_ms=1_000)
    settle_drain(state, pool, now_ms)


def settle_drain(state: State, pool: Pool, now_ms: int) -> None:
    """Notice that a draining pool has become empty."""
    if pool.mode == "draining" and not len(pool.queue) and state.busy(pool) == 0:
        pool.mode = "drained"
        log_pool(state, pool, now_ms)
        state.emit(ClearTimer(("drain", pool.pool_id)))


def on_reload(state: State, event: ReloadRequested, now_ms: int) -> None:
    """Replace a pool's model, or try another on some replicas. One at a time; its checksum is verified before anything stops.

    The whole of the model that a canary has proven ends the trial: it is promoted.

    Req: ORCH-2102, ORCH-4131, ORCH-4334
    """
    pool = _pool(state, event.reply, event.pool_id)
    if pool is None:
        return
    tried = pool.canary.model_ref if pool.canary is not None and pool.canary.trying else None
    if (event.new_model_ref, event.canary_percent) == (tried, 100):
        canary_flow.promote(state, pool, now_ms)
        _begun(state, event.reply, pool, pool.model_ref, 100)
        return
    hindrance = canary_flow.hindrance(pool, event.new_model_ref) if event.canary_percent < 100 else None
    if hindrance is not None:
        state.emit(Refuse(event.reply, hindrance))
        return
    _begin_reload(state, event.reply, pool, event.new_model_ref, now_ms, event.canary_percent)


def on_rollback(state: State, event: RollbackRequested, now_ms: int) -> None:
    """Give a pool its previous model back; what is only tried is taken back, and the pool serves on.

    Req: ORCH-3034, ORCH-4333
    """
    pool = _pool(state, event.reply, event.pool_id)
    if pool is None:
        return
    if pool.canary is not None:
        canary_flow.take_back(state, pool, None, now_ms)
        _begun(state, event.reply, pool, pool.model_ref, 100)
        return
    if pool.previous_model_ref is None:
        text = f"pool {pool.pool_id} has no previous model to go back to"
        state.emit(Refuse(event.reply, Refusal(Outcome.CONFLICT, text, pool_id=pool.pool_id)))
        return
    _begin_reload(state, event.reply, pool, pool.previous_model_ref, now_ms)


def _begun(state: State, reply: ReplyId, pool: Pool, model_ref: str, percent: int) -> None:
    detail: dict[str, str | int] = {"pool_id": pool.pool_id, "mode": "reloading", "model_ref": model_ref}
    state.emit(Done(reply, detail | {"canary_percent": percent}))


def _busy(state: State, reply: ReplyId, pool: Pool, now_ms: int) -> None:
    text = f"pool {pool.pool_id} is being reloaded; wait until its health says otherwise"
    if pool.canary is not None:
        text = f"pool {pool.pool_id} tries {pool.canary.model_ref}; when its replicas are ready reload it whole, or roll back"
    wait_ms = max(1, comes_up_in_ms(pool, now_ms))
    refusal = Refusal(Outcome.POOL_UNREADY, text, (), wait_ms, pool.settings.engine, pool.pool_id)
    state.emit(Refuse(reply, refusal))


def _begin_reload(state: State, reply: ReplyId, pool: Pool, model_ref: str, now_ms: int, percent: int = 100) -> None:
    if pool.mode in ("verifying", "reloading") or pool.canary is not None:
        _busy(state, reply, pool, now_ms)
        return
    pool.mode = "verifying"
    pool.drain_at_ms = None
    pool.wanted_model_ref, pool.wanted_percent = model_ref, percent
    pool.last_error = None
    log_pool(state, pool, now_ms)
    state.emit(ClearTimer(("drain", pool.pool_id)))
    state.emit(VerifyModel(pool.pool_id, model_ref))
    _begun(state, reply, pool, model_ref, percent)


def on_verified(state: State, event: ModelVerified, now_ms: int) -> None:
    """Begin the swap when the new model is good, else stay with the old one and say why.

    Req: ORCH-4128
    """
    pool = state.pools[event.pool_id]
    if pool.mode != "verifying":
        return
    if event.problem:
        pool.mode, pool.wanted_model_ref = "serving", None
        pool.last_error = f"reload of {event.model_ref} refused: {event.problem}"
        log_pool(state, pool, now_ms, pool.last_error)
        state.emit(Note("error", "pool_reload_failed", {"pool_id": pool.pool_id, "detail": pool.last_error}))
        state.dirty = True
        return
    if pool.wanted_percent < 100:
        pool.mode, pool.wanted_model_ref = "serving", None
        canary_flow.begin(state, pool, event.model_ref, pool.wanted_percent, now_ms)
        state.dirty = True
        return
    pool.mode = "reloading"
    log_pool(state, pool, now_ms)
    _move_to_siblings(state, pool, "reload", now_ms)
    reload_step(state, pool, now_ms)


def reload_step(state: State, pool: Pool, now_ms: int) -> None:
    """Take a reload one step on: wait for running tasks, stop every replica, start them with the wanted model.

    Each step is taken as soon as the one before is complete, so it is safe to ask at any time.

    Req: ORCH-2102
    """
    if pool.mode != "reloading" or state.busy(pool):
        return
    wanted = pool.wanted_model_ref
    assert wanted is not None, f"pool {pool.pool_id} reloads without a model"
    if not pool.swap_begun:
        pool.swap_begun, pool.asleep = True, False
        for replica in pool.replicas.values():
            take_down(state, replica, now_ms)
        pool.replaced_model_ref, pool.model_ref = pool.model_ref, wanted
    for replica in pool.replicas.values():
        if replica.state is ReplicaState.DOWN:
            forget_engine(replica)
            start_replica(state, replica, now_ms)


def replica_of_reload_ready(state: State, pool: Pool, now_ms: int) -> None:
    """Finish a reload once every replica serves the wanted model."""
    if pool.mode != "reloading" or not all(r.ready for r in pool.replicas.values()):
        return
    pool.mode, pool.wanted_model_ref, pool.swap_begun = "serving", None, False
    log_pool(state, pool, now_ms)
    text = "old model restored" if pool.reload_failed else "reloaded"
    if not pool.reload_failed:
        pool.previous_model_ref = pool.replaced_model_ref
    pool.reload_failed = False
    end_those_left_behind(state, pool, now_ms)
    state.emit(Note("info", "pool_reload_done", {"pool_id": pool.pool_id, "detail": text, "model_id": pool.model_ref}))


def replica_of_reload_lost(state: State, pool: Pool, error: str, now_ms: int) -> None:
    """Go back to the old model when the new one does not come up; the old one is then retried like any other.

    Req: ORCH-4128
    """
    if pool.mode != "reloading" or not pool.swap_begun:
        return
    pool.swap_begun = False
    if pool.reload_failed or pool.replaced_model_ref is None:
        pool.mode, pool.wanted_model_ref, pool.reload_failed = "serving", None, False
        log_pool(state, pool, now_ms, pool.last_error)
        return
    pool.last_error = f"reload of {pool.model_ref} failed: {error}"
    pool.reload_failed = True
    pool.wanted_model_ref = pool.replaced_model_ref
    state.emit(Note("error", "pool_reload_failed", {"pool_id": pool.pool_id, "detail": pool.last_error}))
    reload_step(state, pool, now_ms)


def on_stopped(state: State, event: ReplicaStopped, now_ms: int) -> None:
    """Note that a replica is down because we wanted it."""
    replica = state.replicas[event.replica_id]
    if replica.state is ReplicaState.STOPPING:
        replica.move(ReplicaTrigger.STOPPED)
        go_on_after_stop(state, replica, now_ms)


def go_on_after_stop(state: State, replica: Replica, now_ms: int) -> None:
    """Start a replica that is down, with the model that its pool wants now: nobody stops one to leave it down."""
    pool = state.pool_of(replica)
    if pool.mode == "reloading":
        reload_step(state, pool, now_ms)
    else:
        start_replica(state, replica, now_ms)


def on_settings(state: State, event: SettingsReplaced, now_ms: int) -> None:
    """Take new policies for the same pools and replicas, all at once.

    Req: ORCH-4205
    """
    pools = {settings.pool_id: settings for settings in event.settings.pools}
    assert pools.keys() == state.pools.keys(), "pools cannot come and go while the daemon runs"
    state.settings = event.settings
    quotas.reconfigure(state, now_ms)
    state.sessions.limits = event.settings.sessions
    for pool in state.pools.values():
        if pools[pool.pool_id].scheduling != pool.settings.scheduling:
            _write_charges_off(state, pool)
        pool.settings = pools[pool.pool_id]
        pool.queue.configure(pool.settings.capacity, pool.settings.classes, pool.settings.scheduling)
    _weigh_anew(state)
    log_settings(state, now_ms)
    state.emit(Done(event.reply), Note("info", "config_reloaded", {}))
    state.dirty = True


def _write_charges_off(state: State, pool: Pool) -> None:
    """Owe and demand nothing for what was started under another policy: its charges are of another kind."""
    for task in state.active.values():
        if task.charged_pool_id == pool.pool_id:
            task.charged = 0


def _weigh_anew(state: State) -> None:
    """Give tasks that were accepted under other weights the new ones; who waits keeps its place among its tenant's."""
    for task in state.active.values():
        weight = state.settings.tenant(task.tenant).weight
        if task.weight == weight:
            continue
        waits = task.state is TaskState.WAITING
        if waits:
            state.pools[task.pool_id].queue.remove(task)
        task.weight = weight
        if waits:
            state.pools[task.pool_id].queue.push(task)
