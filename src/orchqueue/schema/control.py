"""Types of the control plane, generated from contracts/openapi/control.yaml by `make gen`; do not edit."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType
from orchqueue.schema.data import (
    Determinism,
    EngineName,
    EngineVersion,
    ModelDigest,
    ModelRef,
    Name,
    Priority,
    SamplerProfileName,
)
from orchqueue.schema.wire import Wire

AppliedItem: TypeAlias = Annotated[str, Meta(max_length=1024)]


class CanaryHealth(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Another model on trial.
    """

    model: ModelRef
    percent: Annotated[
        int,
        Meta(description="The share of the starts that it gets at most.", ge=1, le=99),
    ]
    replica_ids: Annotated[list[Name], Meta(description="The replicas that it runs on.", max_length=4096)]
    state: Annotated[
        Literal["starting", "trying"],
        Meta(description="Whether its replicas come up still or take tasks."),
    ]
    starts: Annotated[
        int,
        Meta(
            description="Starts of tasks that might have gone either way.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    tried: Annotated[int, Meta(description="Of these", ge=0, le=9007199254740991)]
    ended: Annotated[
        int,
        Meta(
            description="Tasks that its engine ended, well or not.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    errors: Annotated[int, Meta(description="Of these, those that failed.", ge=0, le=9007199254740991)]
    first_tokens: Annotated[
        int,
        Meta(description="First tokens of interactive tasks.", ge=0, le=9007199254740991),
    ]
    late: Annotated[
        int,
        Meta(description="Of these, those that came too late.", ge=0, le=9007199254740991),
    ]


class Capabilities(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What this deployment can do.
    """

    api_version: Annotated[Literal["v1"], Meta(description="The version of this API.")]
    version: Annotated[str, Meta(description="The daemon's own version.", max_length=64, min_length=1)]
    limits: DaemonLimits
    pools: Annotated[
        list[PoolCapabilities],
        Meta(description="In the configuration's order.", max_length=256),
    ]


class ConfigReloaded(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What the new file changed.
    """

    applied: Annotated[
        list[AppliedItem],
        Meta(
            description="JSON pointers into the file, of what changed and is in force.",
            max_length=1024,
        ),
    ]
    needs_restart: Annotated[
        list[NeedsRestartItem],
        Meta(
            description="JSON pointers into the file, of what changed and waits for a restart.",
            max_length=1024,
        ),
    ]


class DaemonLimits(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What the HTTP layer takes.
    """

    body_bytes_max: Annotated[int, Meta(description="The largest request body.", ge=1, le=9007199254740991)]
    header_bytes_max: Annotated[
        int,
        Meta(description="Request line and headers together.", ge=1, le=9007199254740991),
    ]
    readers_per_task_max: Annotated[int, Meta(description="How many may follow one task.", ge=1, le=2147483647)]


class DrainRequest(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    How long the pool may take.
    """

    deadline_ms: Annotated[
        int,
        Meta(
            description="What is left after so long ends, counted from now.",
            ge=0,
            le=86400000,
        ),
    ] = 30000


KnownModelRef: TypeAlias = Annotated[
    str,
    Meta(
        description="A model as `file:PATH`, `sha256:HEX`, `repo:org/name` or `bundled:NAME`.",
        max_length=1024,
        min_length=5,
        pattern="^(file|repo|bundled):.|^sha256:[0-9a-f]{64}$",
    ),
]


class Liveness(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    The daemon lives.
    """

    status: Annotated[Literal["ok"], Meta(description="Always ok.")]


class ModelInfo(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One model.
    """

    ref: ModelRef
    digest: (
        Annotated[
            str, Meta(description="The digest of its weights, or null where it is not known yet.", max_length=256)
        ]
        | None
    )
    state: Annotated[
        Literal["verified", "verifying", "refused", "unknown", "external"],
        Meta(
            description="Whether its checksum was right when its file was last looked at, is being computed, or was wrong or not reached; unknown: nobody has looked yet; external: its engines run elsewhere, and their word is all that there is."
        ),
    ]
    detail: (
        Annotated[
            str,
            Meta(
                description="How far the checksum has come, or why the file is refused and what to do; else null.",
                max_length=8192,
            ),
        ]
        | None
    )
    pool_ids: Annotated[list[Name], Meta(description="The pools that serve or try it.", max_length=256)]
    uses: Annotated[
        list[ModelUse],
        Meta(
            description="What each pool does with it, in the order of the configuration.",
            max_length=1024,
        ),
    ]
    size_bytes: (
        Annotated[
            int,
            Meta(
                description="The size of its weights, where known.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    architecture: (
        Annotated[
            str,
            Meta(description="The architecture that its file names.", max_length=256),
        ]
        | UnsetType
    ) = UNSET
    quant: (
        Annotated[
            str,
            Meta(
                description="How its file says that the weights are stored.",
                max_length=64,
            ),
        ]
        | UnsetType
    ) = UNSET
    ctx_tokens: (
        Annotated[
            int,
            Meta(
                description="The context that it was trained for, as its file says.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    verified_at_ms: (
        Annotated[
            int,
            Meta(
                description="When the checksum was computed that still holds for the file.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET


class ModelList(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Every model.
    """

    models: Annotated[
        list[ModelInfo],
        Meta(description="In the order of their refs.", max_length=1024),
    ]


class ModelUse(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What one pool does with a model.
    """

    pool_id: Name
    role: Annotated[
        Literal["serving", "canary", "next", "previous"],
        Meta(
            description="Whether the pool serves it, tries it, is about to get it by a reload, or would get it back by a rollback."
        ),
    ]
    replica_ids: Annotated[
        list[Name],
        Meta(description="The replicas that are ready with it.", max_length=4096),
    ]


NeedsRestartItem: TypeAlias = Annotated[str, Meta(max_length=1024)]


class PoolCapabilities(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What one pool can do.
    """

    id: Name
    engine: EngineName
    model: ModelRef
    engine_version: (
        Annotated[str, Meta(description="As its replicas reported it, or null before one was ready.", max_length=256)]
        | None
    )
    ctx_tokens_max: Annotated[int, Meta(description="The context that one task can have.", ge=1, le=16777216)]
    slots: Annotated[int, Meta(description="Tasks that can run at the same time.", ge=0, le=65536)]
    workloads: Annotated[
        list[Literal["completion", "embedding", "rerank"]],
        Meta(description="What it can be asked for.", max_length=3),
    ]
    determinism: Determinism
    prompt_form: Annotated[
        Literal["raw", "chat"],
        Meta(
            description="How a bare prompt reaches the model: as it is, or as a chat of one message through its template."
        ),
    ]
    sampler_profile_versions: Annotated[
        list[SamplerProfileName],
        Meta(description="The profiles that it knows.", max_length=16),
    ]
    limits: PoolLimits


class PoolHealth(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One pool in full.
    """

    id: Name
    live: Annotated[bool, Meta(description="Whether any replica is up or coming up.")]
    ready: Annotated[bool, Meta(description="Whether it takes tasks now.")]
    draining: Annotated[bool, Meta(description="Whether it is being emptied, or has been.")]
    mode: PoolMode
    last_error: (
        Annotated[
            str,
            Meta(
                description="The last failure of a replica or a reload, or what a drained pool or a start waits for; else null.",
                max_length=8192,
            ),
        ]
        | None
    )
    model: ModelRef
    allow_cpu: Annotated[
        bool,
        Meta(description="Whether it may run on the CPU; never without its configuration saying so."),
    ]
    metrics: PoolMetrics
    replicas: Annotated[
        list[ReplicaHealth],
        Meta(description="In the order of their ids.", max_length=4096),
    ]
    canary: CanaryHealth | UnsetType = UNSET


class PoolInfo(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One pool in brief.
    """

    id: Name
    engine: EngineName
    model: ModelRef
    ready: Annotated[bool, Meta(description="Whether it takes tasks now.")]
    draining: Annotated[bool, Meta(description="Whether it is being emptied, or has been.")]
    mode: PoolMode
    allow_cpu: Annotated[
        bool,
        Meta(description="Whether it may run on the CPU; never without its configuration saying so."),
    ]
    ctx_tokens: Annotated[int, Meta(description="The context that one task can have.", ge=1, le=16777216)]
    determinism: Determinism
    sampler_profile_version: SamplerProfileName
    replicas_total: Annotated[int, Meta(description="Configured replicas.", ge=0, le=4096)]
    replicas_ready: Annotated[int, Meta(description="Replicas that take tasks now.", ge=0, le=4096)]
    slots_total: Annotated[int, Meta(description="Slots of all ready replicas.", ge=0, le=65536)]
    slots_free: Annotated[int, Meta(description="Slots that are free now.", ge=0, le=65536)]
    queue_depth: QueueDepth
    queue_capacity: Annotated[int, Meta(description="How many tasks may wait.", ge=0, le=2147483647)]
    quant: (
        Annotated[
            str,
            Meta(description="The weights' quantisation, where known.", max_length=64),
        ]
        | UnsetType
    ) = UNSET


class PoolLimits(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What one task may ask of the pool.
    """

    max_tokens: Annotated[
        int,
        Meta(
            description="The longest output that can fit beside a prompt.",
            ge=1,
            le=16777216,
        ),
    ]
    queue_capacity: Annotated[int, Meta(description="How many tasks may wait.", ge=0, le=2147483647)]


class PoolLinks(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Where to go on, as paths on this server.
    """

    health: Annotated[str, Meta(description="GET the pool's health.", max_length=256)]


class PoolList(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Every pool.
    """

    pools: Annotated[
        list[PoolInfo],
        Meta(description="In the configuration's order.", max_length=256),
    ]


class PoolMetrics(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    A few figures; `/metrics` has them all.
    """

    queue_depth: Annotated[int, Meta(description="Tasks that wait.", ge=0, le=2147483647)]
    tasks_running: Annotated[int, Meta(description="Tasks on an engine now.", ge=0, le=65536)]
    tokens_per_s: (
        Annotated[
            float,
            Meta(description="Measured decode rate of one slot, where known.", ge=0.0),
        ]
        | UnsetType
    ) = UNSET
    kv_cache_usage_ratio: (
        Annotated[
            float,
            Meta(
                description="The fullest replica's KV cache, where the engine tells.",
                ge=0.0,
                le=1.0,
            ),
        ]
        | UnsetType
    ) = UNSET
    vram_used_bytes: (
        Annotated[
            int,
            Meta(
                description="Device memory in use, where known.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET


PoolMode: TypeAlias = Annotated[
    Literal["serving", "draining", "drained", "reloading"],
    Meta(
        description="Only a serving pool takes new tasks. draining empties it; a drained one stays empty until it is reloaded, which may be with the model that it has. While it is reloading its replicas are replaced; a reload whose model is only verified leaves it serving."
    ),
]


class PoolOperation(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What was begun.
    """

    pool_id: Name
    operation: Annotated[Literal["drain", "reload", "rollback"], Meta(description="What was begun.")]
    links: PoolLinks
    deadline_ms: (
        Annotated[
            int,
            Meta(
                description="Of a drain: the deadline in effect, counted from now.",
                ge=0,
                le=86400000,
            ),
        ]
        | UnsetType
    ) = UNSET
    model: ModelRef | UnsetType = UNSET
    canary_percent: Annotated[int, Meta(description="Of a reload: the share in effect.", ge=1, le=100)] | UnsetType = (
        UNSET
    )


class QueueDepth(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    How many tasks wait, by priority.
    """

    interactive: Annotated[int, Meta(description="Waiting interactive tasks.", ge=0, le=2147483647)]
    batch: Annotated[int, Meta(description="Waiting batch tasks.", ge=0, le=2147483647)]


class Readiness(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Tasks are admitted.
    """

    status: Annotated[Literal["ready"], Meta(description="Always ready.")]
    pools_ready: Annotated[int, Meta(description="Pools that take tasks now.", ge=1, le=256)]
    pools_total: Annotated[int, Meta(description="Configured pools.", ge=1, le=256)]


class ReloadRequest(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Which model the pool shall serve.
    """

    new_model_ref: KnownModelRef
    canary_percent: Annotated[
        int,
        Meta(
            description="The share of tasks that shall try the new model first; 100 replaces the pool's model at once.",
            ge=1,
            le=100,
        ),
    ] = 100


class ReplicaHealth(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One replica.
    """

    replica_id: Name
    state: ReplicaState
    slots_total: Annotated[
        int,
        Meta(
            description="Concurrent decodes that it can do; 0 while it is not ready.",
            ge=0,
            le=65536,
        ),
    ]
    slots_free: Annotated[int, Meta(description="Of these free now.", ge=0, le=65536)]
    restarts: Annotated[
        int,
        Meta(
            description="How often it was started again after a failure.",
            ge=0,
            le=2147483647,
        ),
    ]
    last_error: (
        Annotated[
            str,
            Meta(
                description="Why it last failed, or how far the checksum has come that its start waits for; else null.",
                max_length=8192,
            ),
        ]
        | None
    )
    url: (
        Annotated[
            str,
            Meta(description="Where its engine listens, once known.", max_length=2048),
        ]
        | UnsetType
    ) = UNSET
    pid: (
        Annotated[
            int,
            Meta(
                description="Its engine's process, where we started it.",
                ge=1,
                le=4194304,
            ),
        ]
        | UnsetType
    ) = UNSET
    model: ModelRef | UnsetType = UNSET
    engine_version: EngineVersion | UnsetType = UNSET
    model_digest: ModelDigest | UnsetType = UNSET
    strict_proven: (
        Annotated[
            bool,
            Meta(
                description="Whether its self-test proved that it repeats itself byte for byte, so that it takes strict tasks; absent before its first."
            ),
        ]
        | UnsetType
    ) = UNSET
    selftest_note: (
        Annotated[
            str,
            Meta(
                description="Why the self-test could not prove that, where it was tried.",
                max_length=8192,
                min_length=1,
            ),
        ]
        | UnsetType
    ) = UNSET


class ReplicaSet(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Replicas that give the same bytes for the same request.
    """

    id: Annotated[
        str,
        Meta(
            description="A digest of all that must be equal, launch flags and device class included.",
            max_length=64,
            min_length=1,
        ),
    ]
    engine: EngineName
    model: ModelRef
    ctx_tokens: Annotated[int, Meta(description="The context that one task can have.", ge=1, le=16777216)]
    engine_version: EngineVersion
    sampler_profile_version: SamplerProfileName
    pool_ids: Annotated[list[Name], Meta(description="The pools that it spans.", max_length=256)]
    replica_ids: Annotated[list[Name], Meta(description="Its replicas.", max_length=4096)]
    load: Annotated[float, Meta(description="Busy slots and waiting tasks per slot.", ge=0.0)]
    queue_depth: Annotated[int, Meta(description="Tasks that wait in its pools.", ge=0, le=2147483647)]
    slots_total: Annotated[int, Meta(description="Slots of its ready replicas.", ge=0, le=65536)]
    slots_free: Annotated[int, Meta(description="Of these free now.", ge=0, le=65536)]
    slo: Annotated[
        list[SloAttainment],
        Meta(description="How well promises are kept.", max_length=16),
    ]
    quant: (
        Annotated[
            str,
            Meta(description="The weights' quantisation, where known.", max_length=64),
        ]
        | UnsetType
    ) = UNSET


class ReplicaSetList(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Every replica set.
    """

    replica_sets: Annotated[list[ReplicaSet], Meta(description="In the order of their ids.", max_length=256)]


ReplicaState: TypeAlias = Annotated[
    Literal["down", "starting", "ready", "suspect", "stopping", "backoff", "broken"],
    Meta(
        description="Only ready takes tasks. suspect is being probed after an odd failure, backoff waits for its next start, broken has failed so often that its breaker is open."
    ),
]


class SloAttainment(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One promise and how often it was kept lately.
    """

    priority: Priority
    slo: Annotated[
        str,
        Meta(
            description="The promise, such as first_token, tokens_64, errors, throughput.",
            max_length=64,
            min_length=1,
        ),
    ]
    target_ratio: Annotated[float, Meta(description="The share in which it shall be kept.", ge=0.0, le=1.0)]
    attainment_ratio: (
        Annotated[
            float,
            Meta(description="The share in which it was kept, or null before anything was measured.", ge=0.0, le=1.0),
        ]
        | None
    )
