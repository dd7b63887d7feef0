"""From the file's words to what the core decides with. Pure."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from orchqueue.config.types import Config, Pool, PriorityClass, QuotasSection
from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.request import Priority
from orchqueue.core.settings import (
    CanaryLevels,
    ClassSettings,
    PoolSettings,
    Quotas,
    ReplicaSettings,
    Retention,
    SessionLimits,
    Settings,
    Supervision,
    TenantSettings,
    Timeouts,
)

_WEIGHTS: dict[Priority, int] = {"interactive": 8, "batch": 1}
_CLASS_CAPACITY = 128


def to_settings(config: Config) -> Settings:
    """Translate a checked configuration for the core."""
    kept = config.retention
    return Settings(
        pools=tuple(_pool_settings(pool) for pool in config.pools),
        sessions=SessionLimits(config.sessions.ttl_ms, config.sessions.max_turns),
        retention=Retention(kept.interactive_s * 1000, kept.batch_s * 1000, kept.max_bytes),
        tenants=tuple(
            TenantSettings(entry.id, entry.weight, _quotas(entry.quotas), _quotas(entry.quotas_per_key))
            for entry in config.tenants
        ),
    )


def _quotas(told: QuotasSection) -> Quotas:
    return Quotas(
        requests_per_s=told.requests_per_s,
        burst=told.burst,
        tokens_per_minute=told.tokens_per_minute,
        concurrent_tasks=told.concurrent_tasks,
        queued_tasks=told.queued_tasks,
        kv_mb=told.kv_mb,
    )


def replica_count(pool: Pool) -> int:
    """Count the replicas of a pool: as the file says, else one for each external URL, else 1."""
    return pool.replicas or len(pool.launch.urls) or 1


def replica_ids(pool: Pool) -> tuple[ReplicaId, ...]:
    """Name the replicas; the n-th belongs to the n-th URL of an external pool."""
    return tuple(ReplicaId(f"{pool.id}-{index}") for index in range(replica_count(pool)))


def is_strict(pool: Pool) -> bool:
    """Tell whether the pool promises equal streams: as the file says, else where one slot makes it possible.

    Req: ORCH-3045, ORCH-4167, ORCH-4405
    """
    return pool.determinism == "strict" if pool.determinism is not None else pool.slots == 1


def launch_digest(pool: Pool) -> str:
    """Digest what an engine is launched with and could change its output; equal digests may share a replica set.

    Environment values are in it only by their digest.

    Shape: sha256 hex.
    Req: ORCH-3047, ORCH-4405
    """
    launch = pool.launch
    flags = (
        launch.mode,
        sorted((name, repr(value)) for name, value in launch.args.items()),
        sorted((name, sha256(value.encode()).hexdigest()) for name, value in launch.env.items()),
        pool.ctx,
        pool.slots,
        list(pool.tensor_split),
        is_strict(pool),
        *([list(pool.workloads)] if pool.workloads != ("completion",) else []),
    )
    return sha256(msgspec.json.encode(flags)).hexdigest()


def device_class(pool: Pool) -> str:
    """Name the kind of device; replicas on different kinds are not of one set. `external`: the file does not say."""
    if pool.devices:
        return pool.devices[0].partition(":")[0]
    return "cpu" if pool.allow_cpu else "external"


def _pool_settings(pool: Pool) -> PoolSettings:
    return PoolSettings(
        pool_id=PoolId(pool.id),
        engine=pool.engine,
        model_ref=pool.model,
        replicas=_replicas(pool),
        ctx=pool.ctx,
        slots=pool.slots,
        strict=is_strict(pool),
        allow_cpu=pool.allow_cpu,
        quant=pool.quant,
        device_class=device_class(pool),
        launch_digest=launch_digest(pool),
        sampler_profile_version=pool.sampler_profile_version,
        prompt_form=pool.prompt_form,
        workloads=pool.workloads,
        tensor_split=pool.tensor_split,
        require_same_engine_version=pool.require_same_engine_version,
        capacity=pool.queue.capacity,
        scheduling=pool.queue.scheduling,
        classes=_classes(pool),
        timeouts=Timeouts(pool.timeouts.wall_ms, pool.timeouts.idle_ms, pool.timeouts.first_token_ms),
        supervision=_supervision(pool),
        max_attempts=pool.retry.max_attempts,
        preload=pool.preload,
        canary=CanaryLevels(
            pool.canary.promote,
            pool.canary.tasks,
            pool.canary.errors_per_mille,
            pool.canary.first_token_ms,
            pool.canary.late_percent,
        ),
    )


def _replicas(pool: Pool) -> tuple[ReplicaSettings, ...]:
    names = replica_ids(pool)
    urls = pool.launch.urls or ("",) * len(names)
    return tuple(ReplicaSettings(name, pool.devices, url) for name, url in zip(names, urls, strict=True))


def _classes(pool: Pool) -> tuple[ClassSettings, ...]:
    named = {entry.name: entry for entry in pool.admission.priorities}
    result: list[ClassSettings] = []
    for name, weight in _WEIGHTS.items():
        entry = named.get(name) or PriorityClass(name=name)
        result.append(
            ClassSettings(
                name=name,
                weight=entry.weight or weight,
                capacity=entry.queue_capacity or min(_CLASS_CAPACITY, pool.queue.capacity),
                full_policy=entry.full_policy or pool.queue.full_policy,
                rate_limit_rps=entry.rate_limit_rps,
            )
        )
    return tuple(result)


def _supervision(pool: Pool) -> Supervision:
    told = pool.supervision
    return Supervision(
        backoff_initial_ms=told.backoff.initial_ms,
        backoff_max_ms=told.backoff.max_ms,
        backoff_jitter_percent=told.backoff.jitter_percent,
        stable_after_ms=told.backoff.stable_after_ms,
        breaker_failures=told.breaker.failures,
        breaker_open_ms=told.breaker.open_ms,
        restarts_per_minute=told.restarts_per_minute,
    )
