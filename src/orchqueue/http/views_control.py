"""What the core's pictures look like to an operator.

Req: ORCH-4280
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType

from orchqueue.core.profiles import PROFILES
from orchqueue.core.request import Determinism, Workload
from orchqueue.core.snapshots import CanaryPicture, PoolPicture, ReplicaPicture
from orchqueue.http.problems import unset
from orchqueue.schema import control

MICROS_PER_S = 1_000_000
FIRST_TOKEN_TARGET_RATIO = 0.95


def pool_info(pool: PoolPicture) -> control.PoolInfo:
    """Tell of a pool in brief.

    Req: ORCH-2103
    """
    return control.PoolInfo(
        id=pool.pool_id,
        engine=pool.engine,
        model=pool.model_ref,
        ready=pool.ready,
        draining=pool.mode in ("draining", "drained"),
        mode=cast("control.PoolMode", pool.mode),
        allow_cpu=pool.allow_cpu,
        ctx_tokens=pool.ctx,
        determinism=_determinism(pool),
        sampler_profile_version=pool.sampler_profile_version,
        replicas_total=len(pool.replicas),
        replicas_ready=len(_ready(pool)),
        slots_total=_slots_total(pool),
        slots_free=_slots_free(pool),
        queue_depth=control.QueueDepth(
            interactive=pool.depths.get("interactive", 0), batch=pool.depths.get("batch", 0)
        ),
        queue_capacity=pool.capacity,
        quant=unset(pool.quant),
    )


def pool_health(pool: PoolPicture) -> control.PoolHealth:
    """Tell of a pool and its replicas in full.

    Req: ORCH-4132
    """
    rates = [replica.decode_us_per_token for replica in pool.replicas if replica.decode_us_per_token]
    kv_usage = [replica.kv_usage_ratio for replica in pool.replicas if replica.kv_usage_ratio is not None]
    return control.PoolHealth(
        id=pool.pool_id,
        live=pool.live,
        ready=pool.ready,
        draining=pool.mode in ("draining", "drained"),
        mode=cast("control.PoolMode", pool.mode),
        last_error=pool.last_error,
        model=pool.model_ref,
        allow_cpu=pool.allow_cpu,
        canary=UNSET if pool.canary is None else _canary(pool.canary),
        metrics=control.PoolMetrics(
            queue_depth=sum(pool.depths.values()),
            tasks_running=sum(pool.running.values()),
            tokens_per_s=round(MICROS_PER_S * len(rates) / sum(rates), 2) if rates else UNSET,
            kv_cache_usage_ratio=max(kv_usage) if kv_usage else UNSET,
            vram_used_bytes=_vram_used_bytes(pool),
        ),
        replicas=[_replica_health(replica) for replica in sorted(pool.replicas, key=lambda r: r.replica_id)],
    )


def _canary(found: CanaryPicture) -> control.CanaryHealth:
    return control.CanaryHealth(
        model=found.model_ref,
        percent=found.percent,
        replica_ids=list(found.replica_ids),
        state="trying" if found.trying else "starting",
        starts=found.starts,
        tried=found.tried,
        ended=found.ended,
        errors=found.errors,
        first_tokens=found.first_tokens,
        late=found.late,
    )


def _vram_used_bytes(pool: PoolPicture) -> int | UnsetType:
    """Count each device once, though replicas may share it."""
    shared = {figures.device: figures.vram_used_bytes for replica in pool.replicas for figures in replica.devices}
    alone = [replica.vram_used_bytes for replica in pool.replicas if not replica.devices]
    known = [used for used in (*shared.values(), *alone) if used is not None]
    return sum(known) if known else UNSET


def replica_sets(pools: Sequence[PoolPicture]) -> control.ReplicaSetList:
    """Group the replicas that give the same bytes for the same request. What a canary tries is a set of its own.

    Req: ORCH-2104, ORCH-4330
    """
    members: dict[str, list[PoolPicture]] = {}
    for pool in pools:
        own = dict.fromkeys(replica.set_key or pool.set_key for replica in pool.replicas)
        for key in own or (pool.set_key,):
            theirs = tuple(r for r in pool.replicas if (r.set_key or pool.set_key) == key)
            members.setdefault(key, []).append(msgspec.structs.replace(pool, replicas=theirs))
    sets = [_replica_set(key, found) for key, found in members.items()]
    return control.ReplicaSetList(replica_sets=sorted(sets, key=lambda one: one.id))


def pool_capabilities(pool: PoolPicture) -> control.PoolCapabilities:
    """Tell what a pool can be asked for.

    Req: ORCH-2060
    """
    return control.PoolCapabilities(
        id=pool.pool_id,
        engine=pool.engine,
        model=pool.model_ref,
        engine_version=_engine_version(pool),
        ctx_tokens_max=pool.ctx,
        slots=_slots_total(pool),
        workloads=[cast("Workload", workload) for workload in pool.workloads],
        determinism=_determinism(pool),
        prompt_form=pool.prompt_form,
        sampler_profile_versions=list(PROFILES),
        limits=control.PoolLimits(max_tokens=max(1, pool.ctx - 1), queue_capacity=pool.capacity),
    )


def _replica_health(replica: ReplicaPicture) -> control.ReplicaHealth:
    """Tell of a replica, also what its self-test proved.

    Req: ORCH-4132, ORCH-4400
    """
    facts = replica.facts
    return control.ReplicaHealth(
        replica_id=replica.replica_id,
        state=cast("control.ReplicaState", replica.state),
        slots_total=replica.slots_total,
        slots_free=replica.slots_free,
        restarts=replica.restarts,
        last_error=replica.last_error,
        url=unset((facts.url if facts else "") or replica.url or None),
        pid=_some(facts.pid) if facts else UNSET,
        model=unset(replica.model_ref or None),
        engine_version=facts.engine_version if facts else UNSET,
        model_digest=facts.model_digest if facts else UNSET,
        strict_proven=facts.strict_proven if facts else UNSET,
        selftest_note=unset((facts.selftest_note if facts else "") or None),
    )


def _replica_set(key: str, pools: list[PoolPicture]) -> control.ReplicaSet:
    first = pools[0]
    slots_total = sum(map(_slots_total, pools))
    slots_free = sum(map(_slots_free, pools))
    waiting = sum(sum(pool.depths.values()) for pool in pools)
    return control.ReplicaSet(
        id=sha256(key.encode()).hexdigest(),
        engine=first.engine,
        model=next((r.model_ref for r in first.replicas if r.model_ref), first.model_ref),
        ctx_tokens=first.ctx,
        engine_version=next(filter(None, map(_engine_version, pools)), ""),
        sampler_profile_version=first.sampler_profile_version,
        pool_ids=[pool.pool_id for pool in pools],
        replica_ids=[replica.replica_id for pool in pools for replica in pool.replicas],
        load=round((slots_total - slots_free + waiting) / max(1, slots_total), 3),
        queue_depth=waiting,
        slots_total=slots_total,
        slots_free=slots_free,
        slo=[_first_token_attainment(pools)],
        quant=unset(first.quant),
    )


def _first_token_attainment(pools: list[PoolPicture]) -> control.SloAttainment:
    seen = sum(pool.first_tokens_seen for pool in pools)
    kept = sum(pool.first_tokens_in_time for pool in pools)
    return control.SloAttainment(
        priority="interactive",
        slo="first_token",
        target_ratio=FIRST_TOKEN_TARGET_RATIO,
        attainment_ratio=round(kept / seen, 4) if seen else None,
    )


def _determinism(pool: PoolPicture) -> Determinism:
    return "strict" if pool.strict else "best_effort"


def _ready(pool: PoolPicture) -> list[ReplicaPicture]:
    return [replica for replica in pool.replicas if replica.state == "ready"]


def _slots_total(pool: PoolPicture) -> int:
    return sum(replica.slots_total for replica in _ready(pool))


def _slots_free(pool: PoolPicture) -> int:
    return sum(replica.slots_free for replica in _ready(pool))


def _engine_version(pool: PoolPicture) -> str | None:
    return next((replica.facts.engine_version for replica in pool.replicas if replica.facts is not None), None)


def _some(value: int | None) -> int | UnsetType:
    return UNSET if value is None else value
