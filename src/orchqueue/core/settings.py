"""What the operator configured, as the core needs it."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.request import Priority, Workload

FullPolicy = Literal["reject", "drop-lru", "shed-low-priority"]
Scheduling = Literal["fair", "fifo", "strict-priority", "round-robin"]


class ClassSettings(msgspec.Struct, frozen=True):
    """One priority class of one pool's queue."""

    name: Priority
    weight: int
    capacity: int = 128
    full_policy: FullPolicy = "reject"
    rate_limit_rps: float | None = None


class Timeouts(msgspec.Struct, frozen=True):
    """Limits on one task's decode. None means no limit."""

    wall_ms: int = 60_000
    idle_ms: int = 5_000
    first_token_ms: int | None = None


class Supervision(msgspec.Struct, frozen=True):
    """How a replica that fails is brought back.

    Req: ORCH-3038, ORCH-3039, ORCH-3040
    """

    backoff_initial_ms: int = 1_000
    backoff_max_ms: int = 60_000
    backoff_jitter_percent: int = 10
    stable_after_ms: int = 300_000
    breaker_failures: int = 5
    breaker_open_ms: int = 300_000
    restarts_per_minute: int = 10


class CanaryLevels(msgspec.Struct, frozen=True):
    """What a new model on trial has to keep over `tasks` tasks before it gets the rest; `manual`: only an operator promotes it.

    `first_token_ms` is counted from a task's start on the replica: the wait before it says nothing about the model.

    Req: ORCH-4332
    """

    promote: Literal["auto", "manual"] = "auto"
    tasks: int = 100
    errors_per_mille: int = 5
    first_token_ms: int = 900
    late_percent: int = 5


class ReplicaSettings(msgspec.Struct, frozen=True):
    """One engine process or endpoint of a pool. `url`: where one that runs elsewhere is reached, else empty."""

    replica_id: ReplicaId
    devices: tuple[str, ...] = ()
    url: str = ""


class PoolSettings(msgspec.Struct, frozen=True):
    """One engine, model and settings with its queue.

    `prompt_form`: a bare prompt goes to the engine as it is, or as a chat of one message through the model's template.
    `preload`: replicas are started with the daemon, else at the pool's first task.
    `launch_digest` covers every flag the engine is launched with: replicas whose flags differ are not of one set.
    """

    pool_id: PoolId
    engine: str
    model_ref: str
    replicas: tuple[ReplicaSettings, ...]
    ctx: int
    slots: int = 1
    strict: bool = True
    allow_cpu: bool = False
    quant: str | None = None
    device_class: str = "cpu"
    tensor_split: tuple[float, ...] = ()
    launch_digest: str = ""
    sampler_profile_version: str = "v1"
    prompt_form: Literal["raw", "chat"] = "raw"
    require_same_engine_version: bool = True
    workloads: tuple[Workload, ...] = ("completion",)
    capacity: int = 256
    scheduling: Scheduling = "fair"
    classes: tuple[ClassSettings, ...] = (ClassSettings("interactive", 8), ClassSettings("batch", 1))
    timeouts: Timeouts = Timeouts()
    supervision: Supervision = Supervision()
    canary: CanaryLevels = CanaryLevels()
    max_attempts: int = 5
    preload: bool = True


class SessionLimits(msgspec.Struct, frozen=True):
    """Bounds on a session.

    Req: ORCH-3021
    """

    ttl_ms: int = 600_000
    max_turns: int = 8


class Retention(msgspec.Struct, frozen=True):
    """How long and how much of what ended stays readable."""

    interactive_ms: int = 600_000
    batch_ms: int = 86_400_000
    max_bytes: int = 1 << 30


class Quotas(msgspec.Struct, frozen=True):
    """What one tenant or key may use at most. None means no limit.

    Units: `kv_mb` counts 1 000 000 bytes each.
    Req: ORCH-4151
    """

    requests_per_s: float | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    concurrent_tasks: int | None = None
    queued_tasks: int | None = None
    kv_mb: int | None = None


class TenantSettings(msgspec.Struct, frozen=True):
    """One tenant's share and quotas. `quotas_per_key` holds for each of its keys; `*` names every tenant not listed."""

    tenant: str
    weight: int = 1
    quotas: Quotas = Quotas()
    quotas_per_key: Quotas = Quotas()


class Settings(msgspec.Struct, frozen=True, dict=True):
    """Everything the core is configured with."""

    pools: tuple[PoolSettings, ...]
    sessions: SessionLimits = SessionLimits()
    retention: Retention = Retention()
    disconnect_grace_ms: int = 10_000
    metrics_interval_ms: int = 1_000
    poison_kills: int = 3
    slo_first_token_ms: int = 900
    tenants: tuple[TenantSettings, ...] = ()

    @cached_property
    def _tenants(self) -> dict[str, TenantSettings]:
        return {entry.tenant: entry for entry in self.tenants}

    def tenant(self, name: str) -> TenantSettings:
        """Look a tenant up: its own entry, else the one for all others, else defaults.

        Cost: two look-ups.
        """
        return self._tenants.get(name) or self._tenants.get("*") or TenantSettings(name)
