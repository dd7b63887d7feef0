"""Types of the data plane, generated from contracts/openapi/data.yaml by `make gen`; do not edit."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType, field
from orchqueue.schema.wire import Wire


class AdmissionResponse(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    The task is in the queue, durably, and this is what to expect.
    """

    task_id: AnsweredUuid
    queue_position: Annotated[
        int,
        Meta(
            description="How many tasks are before this one; 0 is next.",
            ge=0,
            le=2147483647,
        ),
    ]
    predicted_start_ms: Annotated[
        int,
        Meta(
            description="When it should start, counted from admission.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    backoff_ms: Annotated[int, Meta(description="Always 0 in a 202.", ge=0, le=86400000)]
    seed: Annotated[int, Meta(description="The seed in effect.", ge=0, le=2147483647)]
    determinism: Determinism
    pool_id: Name
    links: Links
    basis: Basis
    prompt_tokens: Annotated[
        int,
        Meta(
            description="Tokens of the prompt as counted for admission.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    prompt_tokens_basis: Annotated[
        Literal["bytes_bound", "tokenizer", "estimate"],
        Meta(
            description="bytes_bound is an upper bound from the byte count, tokenizer the engine's own count, estimate a guess."
        ),
    ]
    predicted_end_ms: (
        Annotated[
            int,
            Meta(
                description="When it should be done, counted from admission.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET


class Ahead(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Tasks of one class that will probably start before this one.
    """

    priority: Priority
    own: Annotated[
        int,
        Meta(description="How many are of the caller's own tenant.", ge=0, le=2147483647),
    ]
    others: Annotated[int, Meta(description="How many are of other tenants.", ge=0, le=2147483647)]


AnsweredUuid: TypeAlias = Annotated[
    str,
    Meta(
        description="A UUID in lower case.",
        pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    ),
]


class Attempt(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One try of the task on a replica.
    """

    pool_id: Name
    replica_id: Name
    started_at_ms: Annotated[int, Meta(description="When it was given the slot.", ge=0, le=9007199254740991)]
    choice: Annotated[
        Literal["only_free", "least_busy", "warm_session", "canary"],
        Meta(
            description="Why this replica: warm_session holds the session's context, canary tries another model with a share of the tasks."
        ),
    ]
    free_replicas: Annotated[
        int,
        Meta(
            description="Replicas of the pool that had a free slot then, this one counted.",
            ge=0,
            le=2147483647,
        ),
    ]
    failed_at_ms: (
        Annotated[
            int,
            Meta(description="When it failed, if it did.", ge=0, le=9007199254740991),
        ]
        | UnsetType
    ) = UNSET
    failure: (
        Annotated[
            Literal["lost", "hung", "rejected", "overloaded", "engine_error"],
            Meta(
                description="How it failed: the engine was lost, fell silent, refused the request, had no room, or failed."
            ),
        ]
        | UnsetType
    ) = UNSET
    decided: (
        Annotated[
            str,
            Meta(
                description="What was decided then: retry, or the outcome that ended the task.",
                pattern="^[a-z_]{1,64}$",
            ),
        ]
        | UnsetType
    ) = UNSET
    turn: Priority | UnsetType = UNSET
    shares: (
        Annotated[
            list[Share],
            Meta(description="How the classes stood before this start.", max_length=8),
        ]
        | UnsetType
    ) = UNSET
    candidates: (
        Annotated[
            list[ReplicaCandidate],
            Meta(
                description="Replicas as they stood then, the chosen one first, up to 16.",
                max_length=16,
            ),
        ]
        | UnsetType
    ) = UNSET


class AuthBody(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    The body of 401 and 403. It never says which part of a credential was wrong.
    """

    message: Annotated[str, Meta(description="For people.", max_length=256, min_length=1)]
    correlation_id: CorrelationId


Basis: TypeAlias = Annotated[
    Literal["measured", "selftest", "none"],
    Meta(description="What a prediction rests on; measured work, the replicas' self-test, or nothing yet."),
]


class Candidate(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    A pool as it stood when the task was placed.
    """

    pool_id: Name
    standing: Annotated[
        Literal[
            "chosen",
            "other_model",
            "other_engine",
            "avoided",
            "not_pinned",
            "no_workload",
            "ctx_too_small",
            "not_strict",
            "prompt_may_not_fit",
            "not_ready",
            "not_preferred",
            "full",
            "more_loaded",
            "later_in_name",
        ],
        Meta(description="Whether it was chosen, or the first thing that spoke against it."),
    ]
    load: Annotated[int, Meta(description="Tasks that ran or waited there.", ge=0, le=2147483647)]
    slots: Annotated[
        int,
        Meta(description="Slots of its replicas that were up.", ge=0, le=2147483647),
    ]


CorrelationId: TypeAlias = Annotated[
    str,
    Meta(
        description="Names one request in answers and logs.",
        pattern="^[A-Za-z0-9._:-]{1,128}$",
    ),
]


Day: TypeAlias = Annotated[
    str,
    Meta(
        description="A day in UTC as YYYY-MM-DD.",
        pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    ),
]


Determinism: TypeAlias = Annotated[
    Literal["strict", "best_effort"],
    Meta(
        description="strict gives the same bytes for the same request on every replica of a set, or fails; best_effort promises nothing."
    ),
]


class Drop(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    By which rule a waiting task had to give way.
    """

    policy: Annotated[str, Meta(description="The full-queue policy.", pattern="^[a-z][a-z-]{0,63}$")]
    by_priority: Priority
    at_ms: Annotated[int, Meta(description="When.", ge=0, le=9007199254740991)]


Embedding: TypeAlias = Annotated[list[float], Meta(max_length=65536)]


class EndEvent(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    The task is over, and well or by someone's wish. Nothing follows.
    """

    tokens_out: Annotated[
        int,
        Meta(
            description="Tokens of the output, by the engine's own count.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    decode_ms: Annotated[
        int,
        Meta(
            description="How long the engine took for the output.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    finish_reason: FinishReason
    canceled: Annotated[bool, Meta(description="Whether it was cancelled.")]
    receipt: Receipt
    result: Result | UnsetType = UNSET


Engine: TypeAlias = Annotated[Literal["llamacpp", "vllm", "tgi", "triton"], Meta(description="A kind of engine.")]


EngineName: TypeAlias = Annotated[
    str,
    Meta(
        description="The kind of engine that a pool runs; later versions may know more than `Engine` lists.",
        max_length=64,
        min_length=1,
    ),
]


EngineVersion: TypeAlias = Annotated[
    str,
    Meta(description="The engine's version as the replica reported it.", max_length=256),
]


ErrorCode: TypeAlias = Annotated[
    Literal[
        "INVALID_PARAMS",
        "ADMISSION_REJECT",
        "QUEUE_FULL_DROP_LRU",
        "POOL_UNREADY",
        "POOL_UNAVAILABLE",
        "REPLICA_EXHAUSTED",
        "DECODE_TIMEOUT",
        "WORKER_RESET",
        "INTERNAL",
    ],
    Meta(description="The closed set of what can go wrong."),
]


class ErrorEnvelope(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Everything that goes wrong is told like this, before a stream as a response, in a stream as its `error` event.
    """

    code: ErrorCode
    message: Annotated[
        str,
        Meta(
            description="What happened, to which id, in which state, and what to do next. For people; may change.",
            max_length=8192,
            min_length=1,
        ),
    ]
    retriable: Annotated[
        bool,
        Meta(
            description="Whether the same request may succeed later; with the label `deadline`, only with a longer deadline_ms."
        ),
    ]
    correlation_id: CorrelationId
    engine: EngineName | UnsetType = UNSET
    pool_id: Name | UnsetType = UNSET
    task_id: AnsweredUuid | UnsetType = UNSET
    retry_after_ms: (
        Annotated[
            int,
            Meta(
                description="When a retry is worth while, counted from now.",
                ge=1,
                le=86400000,
            ),
        ]
        | UnsetType
    ) = UNSET
    policy_label: (
        Annotated[
            str,
            Meta(
                description="The rule that refused or dropped it, such as `reject`, `drop-lru`, `shed-low-priority`, `rate-limit`, `quota`, `deadline`, `readers`, `connections`.",
                pattern="^[a-z][a-z-]{0,63}$",
            ),
        ]
        | UnsetType
    ) = UNSET
    faults: (
        Annotated[
            list[Fault],
            Meta(
                description="With INVALID_PARAMS: every offending place, up to 32.",
                max_length=32,
            ),
        ]
        | UnsetType
    ) = UNSET


class ExplainedOutcome(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    How a task ended or why it was refused.
    """

    name: Annotated[
        str,
        Meta(
            description="The outcome, finer than `code`; later versions may know more.",
            pattern="^[a-z_]{1,64}$",
        ),
    ]
    retriable: Annotated[bool, Meta(description="Whether the same request may succeed later.")]
    message: Annotated[str, Meta(description="What was said about it; may be empty.", max_length=8192)]
    at_ms: Annotated[
        int,
        Meta(description="When it ended or was refused.", ge=0, le=9007199254740991),
    ]
    code: ErrorCode | UnsetType = UNSET
    status: Annotated[int, Meta(description="The HTTP status of a refusal.", ge=400, le=599)] | UnsetType = UNSET
    retry_after_ms: (
        Annotated[
            int,
            Meta(
                description="When a retry was worth while, counted from `at_ms`.",
                ge=1,
                le=86400000,
            ),
        ]
        | UnsetType
    ) = UNSET
    policy_label: (
        Annotated[
            str,
            Meta(
                description="The rule that refused or dropped it.",
                pattern="^[a-z][a-z-]{0,63}$",
            ),
        ]
        | UnsetType
    ) = UNSET
    faults: (
        Annotated[
            list[Fault],
            Meta(
                description="What was wrong with a refused request, up to 8.",
                max_length=8,
            ),
        ]
        | UnsetType
    ) = UNSET


class Explanation(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Why a task is where it is.
    """

    task_id: AnsweredUuid
    state: Annotated[
        Literal["queued", "running", "succeeded", "failed", "canceled", "refused"],
        Meta(description="As in a look at the task; refused was never admitted."),
    ]
    story: Annotated[
        list[StoryItem],
        Meta(
            description="The same in plain English, a fact a line. For people; may change.",
            max_length=128,
        ),
    ]
    candidates: Annotated[
        list[Candidate],
        Meta(
            description="The pools when one was chosen, the chosen one first; empty when that is not known any more.",
            max_length=16,
        ),
    ]
    attempts: Annotated[
        list[Attempt],
        Meta(
            description="Its attempts, oldest first; the latest 32 that are still in the log.",
            max_length=32,
        ),
    ]
    attempts_total: Annotated[
        int,
        Meta(
            description="How many attempts there were, also those that are not known any more.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    timers: Annotated[list[Timer], Meta(description="The limits on its time.", max_length=8)]
    pool_id: Name | UnsetType = UNSET
    waiting: Waiting | UnsetType = UNSET
    queue_time_ms: (
        Annotated[
            int,
            Meta(
                description="From admission to the first start, once it started.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    outcome: ExplainedOutcome | UnsetType = UNSET
    dropped: Drop | UnsetType = UNSET
    displaced: Priority | UnsetType = UNSET
    timeline: (
        Annotated[
            list[Moment],
            Meta(
                description="What was decided about it, oldest first; of more than 128 the first and the latest 64.",
                max_length=128,
            ),
        ]
        | UnsetType
    ) = UNSET
    complete: (
        Annotated[
            bool,
            Meta(description="Whether everything that was decided about it is still in the log."),
        ]
        | UnsetType
    ) = UNSET


class Fault(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One thing wrong with a request, and where.
    """

    pointer: Annotated[
        str,
        Meta(
            description="RFC 6901 JSON pointer into the body, or `/path/NAME`, `/query/NAME`, `/header/NAME`.",
            max_length=1024,
            pattern="^(/[\\s\\S]*)?$",
        ),
    ]
    message: Annotated[
        str,
        Meta(
            description="What is wrong there and what would be right.",
            max_length=1024,
            min_length=1,
        ),
    ]


FinishReason: TypeAlias = Annotated[
    Literal["stop", "length", "canceled"],
    Meta(
        description="stop is the model's own end or a stop string, length is max_tokens or a full context, canceled is someone's wish."
    ),
]


Input: TypeAlias = Annotated[str, Meta(max_length=1048576, min_length=1)]


class Links(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Where to go on, as paths on this server.
    """

    self: Annotated[str, Meta(description="GET the task.", max_length=256)]
    stream: Annotated[str, Meta(description="GET its stream.", max_length=256)]
    cancel: Annotated[str, Meta(description="POST to cancel it.", max_length=256)]


class Message(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One turn of a chat, rendered by the model's own template.
    """

    role: Annotated[Literal["system", "user", "assistant", "tool"], Meta(description="Who speaks.")]
    content: Annotated[str, Meta(description="What is said.", max_length=8388608)]


class MetricsEvent(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    How it goes, about once a second; may be thinned for a slow reader.
    """

    queue_position: (
        Annotated[
            int,
            Meta(
                description="Before started: how many tasks are before this one now.",
                ge=0,
                le=2147483647,
            ),
        ]
        | UnsetType
    ) = UNSET
    predicted_start_ms: (
        Annotated[
            int,
            Meta(
                description="Before started: when it should start, counted from now.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    predicted_end_ms: (
        Annotated[
            int,
            Meta(
                description="When it should be done, counted from now.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    tokens_per_s: Annotated[float, Meta(description="How fast text is coming.", ge=0.0)] | UnsetType = UNSET
    kv_warmth: Annotated[bool, Meta(description="Whether cached context was found.")] | UnsetType = UNSET
    queue_depth: (
        Annotated[
            int,
            Meta(description="How many tasks wait in the pool.", ge=0, le=2147483647),
        ]
        | UnsetType
    ) = UNSET
    on_time_probability: (
        Annotated[float, Meta(description="How likely the deadline is met.", ge=0.0, le=1.0)] | UnsetType
    ) = UNSET


ModelDigest: TypeAlias = Annotated[
    str,
    Meta(
        description="The sha256 of the model's weights in hex, or what the operator of an external engine says it is; empty where nobody knows.",
        max_length=256,
    ),
]


ModelRef: TypeAlias = Annotated[
    str,
    Meta(
        description="A model as `file:PATH`, `sha256:HEX`, `repo:org/name` or `bundled:NAME`.",
        max_length=1024,
        min_length=1,
    ),
]


class Moment(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One decision about the task.
    """

    at_ms: Annotated[int, Meta(description="When it was decided.", ge=0, le=9007199254740991)]
    kind: Annotated[
        str,
        Meta(
            description="What was decided: submitted, count_asked, admitted, refused, recovered, dropped, moved, passed_over, bound, attempt_failed, caught_up, diverged, timer_fired, ended; later versions may know more.",
            pattern="^[a-z_]{1,64}$",
        ),
    ]
    text: Annotated[
        str,
        Meta(
            description="The same in plain English. For people; may change.",
            max_length=8192,
        ),
    ]
    pool_id: Name | UnsetType = UNSET
    replica_id: Name | UnsetType = UNSET
    attempt: (
        Annotated[
            int,
            Meta(description="The number of the attempt.", ge=1, le=9007199254740991),
        ]
        | UnsetType
    ) = UNSET
    detail: (
        Annotated[
            str,
            Meta(
                description="A code: the outcome, failure, timer, policy, choice or cause.",
                pattern="^[a-z][a-z_-]{0,63}$",
            ),
        ]
        | UnsetType
    ) = UNSET


Name: TypeAlias = Annotated[
    str,
    Meta(
        description="The id of a pool or replica, as the configuration names it.",
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    ),
]


class Placement(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Where the task should run.
    """

    mode: Annotated[
        Literal["auto", "prefer", "pin"],
        Meta(description="auto lets us choose, prefer tries pool_ids first, pin takes nothing else."),
    ] = "auto"
    pool_ids: Annotated[list[Name], Meta(description="The pools that are preferred or pinned.", max_length=256)] = (
        field(default_factory=list)
    )
    avoid: Annotated[list[Name], Meta(description="Pools that are not used.", max_length=256)] = field(
        default_factory=list
    )


Priority: TypeAlias = Annotated[
    Literal["interactive", "batch"],
    Meta(description="Which class of the queue; interactive is served eight times as much as batch while both wait."),
]


class QuotaUse(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One limit, and what is in use of it now.
    """

    scope: Annotated[
        Literal["tenant", "key"],
        Meta(description="Whose it is: the tenant's as a whole, or the caller's key's."),
    ]
    quota: Annotated[
        Literal["requests_per_s", "tokens_per_minute", "concurrent_tasks", "queued_tasks", "kv_mb"],
        Meta(description="What is limited."),
    ]
    limit: Annotated[float, Meta(description="As configured.", ge=0.0, le=1000000000.0)]
    in_use: Annotated[
        int,
        Meta(
            description="What counts against it now. requests_per_s: accepted tasks of the burst that are not made up for yet; tokens_per_minute: tokens taken that are not made up for yet, which may be more than the limit; concurrent_tasks: accepted and not ended; queued_tasks: those that wait; kv_mb: megabytes of context of tasks and sessions, rounded up.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    burst: (
        Annotated[
            int,
            Meta(
                description="With `requests_per_s`: how many tasks may be accepted at once.",
                ge=1,
                le=1000000,
            ),
        ]
        | UnsetType
    ) = UNSET


class Receipt(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What an output can be checked against.
    """

    digest: Annotated[Sha256Hex, Meta(description="SHA-256 of the output's UTF-8 bytes.")]
    seed: Annotated[int, Meta(description="The seed that was used.", ge=0, le=2147483647)]
    params_digest: Annotated[
        Sha256Hex,
        Meta(description="SHA-256 over what decides the output besides prompt, engine and model."),
    ]
    sampler_profile_version: SamplerProfileName
    engine: EngineName
    engine_version: Annotated[EngineVersion, Meta(description="Empty when the task never reached an engine.")]
    model_digest: Annotated[ModelDigest, Meta(description="Empty when the task never reached an engine.")]
    attempts: Annotated[
        int,
        Meta(
            description="How often an engine began this task; 0 when none did.",
            ge=0,
            le=1000,
        ),
    ]
    durable: Annotated[
        bool,
        Meta(description="false only when the journal had stalled and this end is not on disk yet."),
    ]
    continued: (
        Annotated[
            bool,
            Meta(
                description="true when an engine went on from the text of another that was lost, so that one run alone need not give the same; never for strict."
            ),
        ]
        | UnsetType
    ) = UNSET


class ReplicaCandidate(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    A replica as it stood when an attempt was given its slot.
    """

    replica_id: Name
    standing: Annotated[
        Literal[
            "chosen",
            "not_ready",
            "cooling",
            "no_free_slot",
            "not_strict",
            "other_model",
            "tried",
            "other_pool",
            "not_warm",
            "busier",
            "less_memory",
            "later_in_name",
        ],
        Meta(
            description="Whether it was chosen, or the filter that took it out (not_ready to tried), or what put it behind. cooling: it was just overloaded; other_model: a canary's share decided; other_pool: it belongs to the pool where the task waited, which was asked later; not_warm: the chosen one held the session's context."
        ),
    ]
    ready: Annotated[bool, Meta(description="Whether it took new attempts.")]
    busy: Annotated[int, Meta(description="Slots that were taken.", ge=0, le=2147483647)]
    slots: Annotated[int, Meta(description="Slots that it had.", ge=0, le=2147483647)]
    vram_free_bytes: (
        Annotated[
            int,
            Meta(
                description="What its devices had free, where that is known.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    warm: (
        Annotated[
            bool,
            Meta(description="Whether it held the session's context; left out where it did not."),
        ]
        | UnsetType
    ) = UNSET
    score: (
        Annotated[
            int,
            Meta(
                description="Thousandths of its slots that were taken; the least wins. Absent where a filter took it out.",
                ge=0,
                le=1000,
            ),
        ]
        | UnsetType
    ) = UNSET


class Result(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What an embedding or rerank task made. The task's text is this object as JSON, so that readers resume, digests hold and replays are compared as for any other text.
    """

    embeddings: (
        Annotated[
            list[Embedding],
            Meta(
                description="One vector for each input, in their order.",
                max_length=1024,
            ),
        ]
        | UnsetType
    ) = UNSET
    scores: (
        Annotated[
            list[float],
            Meta(
                description="How well each document fits the query, in the order of the documents; more is better.",
                max_length=1024,
            ),
        ]
        | UnsetType
    ) = UNSET


SamplerProfile: TypeAlias = Annotated[
    Literal["v1", "greedy-v1", "focused-v1"],
    Meta(
        description="v1 is temperature 0.7, top_p 0.95, top_k 40, seeded; greedy-v1 always takes the likeliest token; focused-v1 is temperature 0.3, top_p 0.9, top_k 20, seeded. A name never changes its values."
    ),
]


SamplerProfileName: TypeAlias = Annotated[
    str,
    Meta(description="The sampler profile that was used.", max_length=64, min_length=1),
]


class Sampling(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Overrides of the sampler profile; what is left out keeps the profile's value.
    """

    temperature: Annotated[float, Meta(description="0 takes the likeliest token.", ge=0.0, le=100.0)] | UnsetType = (
        UNSET
    )
    top_p: (
        Annotated[
            float,
            Meta(
                description="Keep the likeliest tokens up to this share of probability.",
                gt=0.0,
                le=1.0,
            ),
        ]
        | UnsetType
    ) = UNSET
    top_k: (
        Annotated[
            int,
            Meta(
                description="Keep so many of the likeliest tokens; 0 keeps all.",
                ge=0,
                le=1000000,
            ),
        ]
        | UnsetType
    ) = UNSET
    min_p: (
        Annotated[
            float,
            Meta(
                description="Drop tokens less likely than this share of the likeliest one.",
                ge=0.0,
                le=1.0,
            ),
        ]
        | UnsetType
    ) = UNSET
    repeat_penalty: (
        Annotated[
            float,
            Meta(description="Above 1 makes repetition less likely.", gt=0.0, le=10.0),
        ]
        | UnsetType
    ) = UNSET
    stop: Annotated[
        list[StopItem],
        Meta(
            description="The output ends before the first of these; the matched text is not part of it.", max_length=16
        ),
    ] = field(default_factory=list)
    ignore_eos: Annotated[bool, Meta(description="Go on after the model's own end, until max_tokens.")] | UnsetType = (
        UNSET
    )
    json_schema: (
        Annotated[
            dict[str, object],
            Meta(description="The output is JSON that fits this JSON Schema."),
        ]
        | UnsetType
    ) = UNSET
    grammar: (
        Annotated[
            str,
            Meta(
                description="The output fits this grammar (GBNF for llama.cpp).",
                max_length=262144,
                min_length=1,
            ),
        ]
        | UnsetType
    ) = UNSET


class SessionInfo(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    A session as it stands.
    """

    ttl_ms_remaining: Annotated[
        int,
        Meta(
            description="How long it still lives; its life is counted from its first accepted task.",
            ge=0,
            le=600000,
        ),
    ]
    turns: Annotated[int, Meta(description="Tasks accepted in it so far, at most 8.", ge=0, le=8)]
    kv_bytes: Annotated[
        int,
        Meta(
            description="Memory that its context holds on a replica; 0 when none or unknown.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    kv_warmth: Annotated[bool, Meta(description="Whether the next task would find its context there.")]


Sha256Hex: TypeAlias = Annotated[str, Meta(description="A SHA-256 in lower-case hex.", pattern="^[0-9a-f]{64}$")]


class Share(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    How a class stood when a slot was given away.
    """

    priority: Priority
    weight: Annotated[int, Meta(description="Its weight.", ge=1, le=1000)]
    waiting: Annotated[int, Meta(description="How many of it waited in the pool.", ge=0, le=2147483647)]
    tag: (
        Annotated[
            int,
            Meta(
                description="Its place in the order of turns, the smallest first; absent where nothing of it waited.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET


class StartedEvent(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    An engine took the task. Sent once, whatever is retried behind it.
    """

    queue_position: Annotated[int, Meta(description="The position told at admission.", ge=0, le=2147483647)]
    predicted_start_ms: Annotated[
        int,
        Meta(
            description="The start predicted at admission, counted from there.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    seed: Annotated[int, Meta(description="The seed in effect.", ge=0, le=2147483647)]
    pool_id: Name
    replica_id: Name
    engine_version: EngineVersion
    model_digest: ModelDigest
    determinism: Determinism
    queue_time_ms: Annotated[int, Meta(description="How long it really waited.", ge=0, le=9007199254740991)]


StopItem: TypeAlias = Annotated[str, Meta(max_length=256, min_length=1)]


StoryItem: TypeAlias = Annotated[str, Meta(max_length=8192)]


class TaskList(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    One page of tasks, newest first.
    """

    tasks: Annotated[list[TaskSummary], Meta(description="The page.", max_length=200)]
    next_cursor: (
        Annotated[
            str,
            Meta(
                description="Give it back as `cursor` for the next page; absent on the last one.",
                max_length=512,
                min_length=1,
            ),
        ]
        | UnsetType
    ) = UNSET


class TaskRequest(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What a task is. Exactly one of `prompt`, `messages` and `inputs` is required; everything else has a default. Unknown fields are ignored.
    """

    task_id: (
        Annotated[
            Uuid,
            Meta(
                description="Your own id for the task, so that a repeated POST is counted once; we make one where it is left out."
            ),
        ]
        | UnsetType
    ) = UNSET
    session_id: (
        Annotated[
            Uuid,
            Meta(
                description="Tasks of one session prefer the replica that still holds their context; none means no affinity."
            ),
        ]
        | UnsetType
    ) = UNSET
    workload: Annotated[
        Literal["completion", "embedding", "rerank"],
        Meta(description="What is wanted. A pool that cannot do it answers 400."),
    ] = "completion"
    prompt: (
        Annotated[
            str,
            Meta(
                description="Text for the model: to continue as it is, or to answer where the pool puts its chat template around it (`prompt_form` in the capabilities).",
                max_length=8388608,
                min_length=1,
            ),
        ]
        | UnsetType
    ) = UNSET
    messages: (
        Annotated[
            list[Message],
            Meta(
                description="A chat, rendered by the model's own template.",
                max_length=1024,
                min_length=1,
            ),
        ]
        | UnsetType
    ) = UNSET
    inputs: (
        Annotated[
            list[Input],
            Meta(
                description="Texts for an embedding or rerank task: each is embedded, or the first is the query and the others are the documents to be ranked. Each must fit into ctx.",
                max_length=1024,
                min_length=1,
            ),
        ]
        | UnsetType
    ) = UNSET
    model_ref: (
        Annotated[
            ModelRef,
            Meta(description="Which model; may be left out when only one pool fits."),
        ]
        | UnsetType
    ) = UNSET
    engine: (
        Annotated[
            Engine,
            Meta(description="Which kind of engine; may be left out when only one pool fits."),
        ]
        | UnsetType
    ) = UNSET
    ctx: (
        Annotated[
            int,
            Meta(
                description="Context that the pool must offer, in tokens.",
                ge=1,
                le=16777216,
            ),
        ]
        | UnsetType
    ) = UNSET
    priority: Priority = "interactive"
    seed: (
        Annotated[
            int,
            Meta(
                description='Left out, it is derived from the task_id. Bounded by 2^31-1 because that is what every engine takes as a plain number; above it some engines see a negative number, and one reads 2^32-1 as "random".',
                ge=0,
                le=2147483647,
            ),
        ]
        | UnsetType
    ) = UNSET
    determinism: (
        Annotated[
            Determinism,
            Meta(description="Left out, strict where the pool can, else best_effort; the answer says which."),
        ]
        | UnsetType
    ) = UNSET
    sampler_profile_version: Annotated[SamplerProfile, Meta(description="Left out, the pool's own.")] | UnsetType = (
        UNSET
    )
    sampling: Sampling | UnsetType = UNSET
    max_tokens: Annotated[
        int,
        Meta(
            description="The output is cut after so many tokens; not used by embedding and rerank.",
            ge=1,
            le=32768,
        ),
    ] = 256
    deadline_ms: (
        Annotated[
            int,
            Meta(
                description="The task is worthless later than this, counted from admission. A certain miss is refused with 429 and the label `deadline`; only a longer one helps then.",
                ge=1,
                le=604800000,
            ),
        ]
        | UnsetType
    ) = UNSET
    expected_tokens: (
        Annotated[
            int,
            Meta(
                description="How long you expect the output to be; makes predictions and shares better, cuts nothing.",
                ge=1,
                le=32768,
            ),
        ]
        | UnsetType
    ) = UNSET
    kv_hint: Annotated[
        Literal["reuse", "cold"],
        Meta(
            description="Whether the session's cached context may be used. For strict tasks it only steers placement."
        ),
    ] = "reuse"
    on_disconnect: (
        Annotated[
            Literal["cancel", "continue"],
            Meta(
                description="Whether the task ends when its last reader is gone for 10 s. Left out, cancel for interactive, continue for batch."
            ),
        ]
        | UnsetType
    ) = UNSET
    placement: Placement | UnsetType = UNSET


TaskState: TypeAlias = Annotated[
    Literal["queued", "running", "succeeded", "failed", "canceled"],
    Meta(
        description="queued until a slot takes it, running while an engine works on it, then exactly one of the other three for ever."
    ),
]


class TaskSummary(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    A task without its text.
    """

    task_id: AnsweredUuid
    state: TaskState
    priority: Priority
    pool_id: Name
    created_at_ms: Annotated[int, Meta(description="When it was admitted.", ge=0, le=9007199254740991)]
    seed: Annotated[int, Meta(description="The seed in effect.", ge=0, le=2147483647)]
    determinism: Determinism
    sampler_profile_version: SamplerProfileName
    tokens_out: Annotated[
        int,
        Meta(
            description="Tokens of the output so far, by the engine's own count.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    replica_id: Annotated[Name, Meta(description="The replica that works or last worked on it.")] | UnsetType = UNSET
    session_id: AnsweredUuid | UnsetType = UNSET
    queue_position: (
        Annotated[
            int,
            Meta(
                description="While queued: how many tasks are before this one.",
                ge=0,
                le=2147483647,
            ),
        ]
        | UnsetType
    ) = UNSET
    predicted_start_ms: (
        Annotated[
            int,
            Meta(
                description="While queued: when it should start, counted from now.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    predicted_end_ms: (
        Annotated[
            int,
            Meta(
                description="While queued or running: when it should be done, counted from now.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    started_at_ms: (
        Annotated[
            int,
            Meta(description="When an engine first took it.", ge=0, le=9007199254740991),
        ]
        | UnsetType
    ) = UNSET
    ended_at_ms: Annotated[int, Meta(description="When it ended.", ge=0, le=9007199254740991)] | UnsetType = UNSET
    tokens_in: (
        Annotated[
            int,
            Meta(
                description="Tokens of the prompt, by the engine's own count.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    decode_ms: (
        Annotated[
            int,
            Meta(
                description="How long the engine took for the output.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET
    finish_reason: FinishReason | UnsetType = UNSET
    error: ErrorEnvelope | UnsetType = UNSET
    receipt: Receipt | UnsetType = UNSET


class TaskInfo(TaskSummary, frozen=True, kw_only=True, omit_defaults=True):
    """
    A task as it stands, with its text so far.
    """

    text: Annotated[str, Meta(description="The output so far.", max_length=1073741824)]


class Timer(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    A limit on the task's time.
    """

    name: Annotated[
        Literal["deadline", "wall", "idle", "first_token", "disconnect", "warm"],
        Meta(
            description="deadline: from admission to the end; wall: of decoding; idle: between two tokens; first_token: from start to first token; disconnect: without a reader, after there was one; warm: waiting for the session's replica while a slot is free."
        ),
    ]
    limit_ms: Annotated[int, Meta(description="The limit.", ge=0, le=9007199254740991)]
    fired: Annotated[
        bool,
        Meta(description="Whether it was reached, which ended the task, or, of warm, the wait."),
    ]
    due_at_ms: (
        Annotated[
            int,
            Meta(description="When it is due, while it runs.", ge=0, le=9007199254740991),
        ]
        | UnsetType
    ) = UNSET
    fired_at_ms: (
        Annotated[
            int,
            Meta(
                description="When it was reached, where that is still known.",
                ge=0,
                le=9007199254740991,
            ),
        ]
        | UnsetType
    ) = UNSET


class TokenEvent(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    More text. Whole characters only; may hold more than one token.
    """

    t: Annotated[str, Meta(description="The text.", max_length=1073741824, min_length=1)]
    i: Annotated[
        int,
        Meta(description="0, 1, 2 and so on without a gap.", ge=0, le=9007199254740991),
    ]


class Usage(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    The caller's tenant's usage.
    """

    from_day: Day
    to_day: Day
    since_ms: Annotated[
        int,
        Meta(
            description="Everything since then is counted; of what was before, only a part.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    complete: Annotated[
        bool,
        Meta(description="Whether everything that happened in the days asked for is counted."),
    ]
    rows: Annotated[
        list[UsageRow],
        Meta(
            description="Oldest day first; days, keys and models without any use have none.",
            max_length=100000,
        ),
    ]
    limits: (
        Annotated[
            list[QuotaUse],
            Meta(
                description="Each limit of the tenant, then of the key; none where nothing is limited.",
                max_length=10,
            ),
        ]
        | UnsetType
    ) = UNSET


class UsageRow(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    What one key used of one model on one day.
    """

    day: Day
    model: Annotated[
        str,
        Meta(
            description="The model that the pool served at admission; `unknown` where the journal does not say.",
            max_length=1024,
            min_length=1,
        ),
    ]
    accepted: Annotated[int, Meta(description="Tasks admitted on this day.", ge=0, le=9007199254740991)]
    succeeded: Annotated[
        int,
        Meta(description="Tasks that ended well on this day.", ge=0, le=9007199254740991),
    ]
    failed: Annotated[
        int,
        Meta(
            description="Tasks that ended with an error on this day.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    canceled: Annotated[
        int,
        Meta(
            description="Tasks that were cancelled on this day.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    tokens_in: Annotated[
        int,
        Meta(
            description="Tokens of the prompts of the tasks that ended on this day; of those that did not succeed as counted for admission.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    tokens_out: Annotated[int, Meta(description="Tokens of their outputs.", ge=0, le=9007199254740991)]
    decode_ms: Annotated[
        int,
        Meta(
            description="Time that replicas spent on their last attempts.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    key_id: (
        Annotated[
            str,
            Meta(
                description="The public id of the key; absent for callers without one.",
                max_length=64,
                min_length=1,
            ),
        ]
        | UnsetType
    ) = UNSET


Uuid: TypeAlias = Annotated[
    str,
    Meta(
        description="A UUID in the hyphenated form of RFC 4122, in any letter case; answers spell it in lower case.",
        max_length=36,
        min_length=36,
        pattern="^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$",
    ),
]


class Waiting(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """
    Why a task waits, and how long it probably still does.
    """

    waits_for: Annotated[
        Literal[
            "slot",
            "warm_replica",
            "other_replica",
            "pool_loading",
            "pool_draining",
            "pool_reloading",
            "live_replica",
            "journal",
            "restart",
        ],
        Meta(
            description="What stands between it and its start. slot: all are busy; warm_replica: one is free, but another replica holds its session's context; other_replica: one is free, but it was tried there or may not run there; live_replica: all replicas have failed; journal: nothing can be recorded; restart: the daemon is shutting down."
        ),
    ]
    queue_position: Annotated[
        int,
        Meta(
            description="How many tasks are before this one; the sum of `ahead`.",
            ge=0,
            le=2147483647,
        ),
    ]
    predicted_start_ms: Annotated[
        int,
        Meta(
            description="When it should start, counted from now.",
            ge=0,
            le=9007199254740991,
        ),
    ]
    basis: Basis
    waited_ms: Annotated[
        int,
        Meta(description="How long ago it was admitted.", ge=0, le=9007199254740991),
    ]
    slots_total: Annotated[
        int,
        Meta(description="Slots of the pool's replicas that are up.", ge=0, le=2147483647),
    ]
    slots_busy: Annotated[int, Meta(description="How many of them are busy.", ge=0, le=2147483647)]
    ahead: Annotated[
        list[Ahead],
        Meta(
            description="Who is before it: exact in its own class, of other classes as many as will probably pass it.",
            max_length=8,
        ),
    ]
