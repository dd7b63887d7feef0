"""Pictures of the state for whoever asks, and what is told to readers once an interval.

Req: ORCH-2002, ORCH-2103, ORCH-2104, ORCH-4126
"""

from __future__ import annotations

from orchqueue.core.effects import EmitMetrics
from orchqueue.core.forecast import FreeSlots, end_of, on_time_probability, start_of
from orchqueue.core.ids import SessionKey, TaskKey
from orchqueue.core.outcome import CANCELED, Outcome
from orchqueue.core.records import Ended
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.snapshots import CanaryPicture, PoolPicture, ReplicaPicture, SessionPicture, TaskPicture
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState

DRAINED = "drained: it takes no task until it is reloaded, which may be with the model that it has"
RUNNING = (TaskState.BOUND, TaskState.STREAMING)


def task(state: State, key: TaskKey, now_ms: int) -> TaskPicture | None:
    """Picture one task; None when unknown or not yet accepted.

    Req: ORCH-4002
    """
    found = state.tasks.get(key)
    if found is None or found.state is TaskState.COUNTING:
        return None
    return picture(state, found, now_ms)


def picture(state: State, found: Task, now_ms: int) -> TaskPicture:
    """Picture a task; positions are live."""
    waiting = found.state is TaskState.WAITING
    forecast = start_of(state, state.pools[found.pool_id], found, now_ms) if waiting else None
    attempt = state.attempts.get(found.attempt_id) if found.attempt_id is not None else None
    return TaskPicture(
        accepted=found.accepted_record(),
        state="queued" if waiting else "running" if found.ended is None else ended_state(found.ended),
        readers=found.readers,
        queue_position=forecast.position if forecast else None,
        predicted_start_ms=forecast.start_in_ms if forecast else None,
        predicted_end_ms=forecast.end_in_ms if forecast else end_of(state, found, now_ms),
        basis=forecast.basis if forecast else "none",
        replica_id=attempt.replica_id if attempt else None,
        started_at_ms=found.first_bound_at_ms,
        tokens_out=found.tokens_out if found.ended is None else found.ended.tokens_out,
        ended=found.ended,
    )


def ended_state(ended: Ended) -> str:
    """Name an end as the API does."""
    if ended.outcome is Outcome.COMPLETED:
        return "succeeded"
    return "canceled" if ended.outcome in CANCELED else "failed"


def session(state: State, key: SessionKey, now_ms: int) -> SessionPicture | None:
    """Picture a session. Looking creates nothing.

    `kv_warmth` tells whether the next turn would find its KV: the replica is up and nobody else's KV has taken the place.

    Req: ORCH-2004, ORCH-4254
    """
    found = state.sessions.find(key, now_ms)
    if found is None:
        return None
    warm, kv_bytes = is_warm(state, key, now_ms), 0
    if warm and found.warm_on is not None:
        facts = state.replicas[found.warm_on].facts
        kv_bytes = found.cached_tokens * (facts.kv_bytes_per_token if facts else 0)
    return SessionPicture(key[1], found.expires_at_ms - now_ms, found.turns, kv_bytes, warm)


def is_warm(state: State, key: SessionKey, now_ms: int) -> bool:
    """Tell whether a session's KV is where a next turn would find it.

    Req: ORCH-4253
    """
    found = state.sessions.find(key, now_ms)
    if found is None or found.warm_on is None:
        return False
    replica = state.replicas[found.warm_on]
    return replica.state is ReplicaState.READY and key in replica.resident


def pools(state: State) -> tuple[PoolPicture, ...]:
    """Picture every pool."""
    return tuple(_pool(state, pool) for pool in state.pools.values())


def _pool(state: State, pool: Pool) -> PoolPicture:
    running = dict.fromkeys(pool.queue.lines, 0)
    for replica in pool.replicas:
        for attempt_id in state.slots.holders(replica):
            held_by = state.active.get(state.attempts[attempt_id].key)
            if held_by is not None and held_by.attempt_id == attempt_id:
                running[held_by.spec.priority] += 1
    errors = [r.last_error for r in pool.replicas.values() if r.last_error and not r.ready]
    return PoolPicture(
        pool_id=pool.pool_id,
        engine=pool.settings.engine,
        model_ref=pool.model_ref,
        ctx=pool.settings.ctx,
        quant=pool.settings.quant,
        allow_cpu=pool.settings.allow_cpu,
        strict=pool.settings.strict and any(r.facts and r.facts.strict_proven for r in pool.replicas.values()),
        workloads=pool.settings.workloads,
        sampler_profile_version=pool.settings.sampler_profile_version,
        device_class=pool.settings.device_class,
        mode="serving" if pool.mode == "verifying" else pool.mode,
        live=any(r.state not in (ReplicaState.BROKEN, ReplicaState.BACKOFF) for r in pool.replicas.values()),
        ready=pool.serving and (pool.ready or pool.wakes) and not state.shutting_down,
        last_error=pool.last_error or (DRAINED if pool.mode == "drained" else errors[0] if errors else None),
        capacity=pool.queue.capacity,
        depths={name: len(line) for name, line in pool.queue.lines.items()},
        running=running,
        replicas=tuple(_replica(state, pool, r) for r in pool.replicas.values()),
        set_key="|".join(pool.set_key),
        prompt_form=pool.settings.prompt_form,
        first_tokens_in_time=sum(
            waited <= state.settings.slo_first_token_ms for waited in pool.interactive_first_tokens_ms
        ),
        first_tokens_seen=len(pool.interactive_first_tokens_ms),
        capacities={name: min(c.capacity, pool.queue.capacity) for name, c in pool.queue.classes.items()},
        canary=_canary(pool),
        previous_model_ref=pool.previous_model_ref,
        wanted_model_ref=pool.wanted_model_ref,
    )


def _canary(pool: Pool) -> CanaryPicture | None:
    """Picture what a pool tries.

    Req: ORCH-4335
    """
    found = pool.canary
    if found is None:
        return None
    return CanaryPicture(
        found.model_ref,
        found.percent,
        tuple(sorted(found.replica_ids)),
        found.trying,
        found.starts,
        found.tried,
        found.ended,
        found.errors,
        found.first_tokens,
        found.late,
    )


def _replica(state: State, pool: Pool, replica: Replica) -> ReplicaPicture:
    used = [figures.vram_used_bytes for figures in replica.devices if figures.vram_used_bytes is not None]
    return ReplicaPicture(
        replica_id=replica.replica_id,
        state=replica.state.value,
        slots_total=state.slots.total(replica.replica_id),
        slots_free=state.slots.free(replica.replica_id) if replica.ready else 0,
        restarts=replica.restarts,
        last_error=replica.last_error,
        facts=replica.facts,
        kv_usage_ratio=replica.kv_usage_ratio,
        vram_used_bytes=sum(used) if used else None,
        decode_us_per_token=replica.rates.decode_us or None,
        prefill_us_per_token=replica.rates.prefill_us or None,
        url=replica.settings.url,
        devices=replica.devices,
        model_ref=replica.model_ref,
        set_key="|".join(pool.key_of(replica)),
    )


def tell_readers(state: State, now_ms: int) -> None:
    """Send every task that is read its live figures.

    Cost: nothing for tasks that nobody follows; the running attempts are looked at once a pool.
    Req: ORCH-2002, ORCH-4094, ORCH-4095
    """
    free_in_ms: FreeSlots = {}
    for found in state.followed.values():
        if found.state is TaskState.COUNTING:
            continue
        pool = state.pools[found.pool_id]
        if found.state is TaskState.WAITING:
            forecast = start_of(state, pool, found, now_ms, free_in_ms)
            chance = on_time_probability(state, found, forecast.start_in_ms, forecast.end_in_ms, now_ms)
            state.emit(
                EmitMetrics(
                    found.key,
                    forecast.position,
                    forecast.start_in_ms,
                    on_time_probability=chance,
                    predicted_end_ms=forecast.end_in_ms,
                )
            )
            continue
        rate = None
        if found.first_token_at_ms is not None and now_ms > found.first_token_at_ms:
            rate = round(found.tokens_out * 1000 / (now_ms - found.first_token_at_ms), 2)
        warm = found.session is not None and is_warm(state, found.session, now_ms)
        end_in_ms = end_of(state, found, now_ms)
        chance = None if end_in_ms is None else on_time_probability(state, found, 0, end_in_ms, now_ms)
        state.emit(EmitMetrics(found.key, None, None, rate, warm, len(pool.queue), chance, end_in_ms))
