"""Every field of the configuration file; a field that has no effect does not exist here."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from orchqueue.config.section import Milliseconds, Section
from orchqueue.config.upkeep import CanarySection, Retry, SupervisionSection

Scalar: TypeAlias = str | int | float | bool

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_ENV = r"^[A-Za-z_][A-Za-z0-9_]*$"

Identifier = Annotated[str, Meta(pattern=_NAME, description="Letters, digits, '.', '_' and '-'; at most 64.")]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
FullPolicyName = Literal["reject", "drop-lru", "shed-low-priority"]


class Launch(Section, frozen=True):
    """How the replicas of a pool come to run."""

    mode: Annotated[
        Literal["spawn", "external"],
        Meta(description="spawn: the daemon runs the engine. external: it runs already, at `urls`."),
    ] = "spawn"
    urls: Annotated[
        tuple[Annotated[str, Meta(max_length=2048)], ...],
        Meta(
            description="One base URL for each replica of an external pool; triton's may add /v2/models/NAME?metrics_port=N."
        ),
    ] = ()
    args: Annotated[
        dict[Annotated[str, Meta(pattern=_NAME)], Scalar],
        Meta(description="Flags for the engine, in its adapter's words; see below."),
    ] = msgspec.field(default_factory=dict)
    env: Annotated[
        dict[Annotated[str, Meta(pattern=_ENV)], str],
        Meta(description="Environment of a spawned engine. Values are never printed."),
    ] = msgspec.field(default_factory=dict)
    api_key_env: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=128,
                description="Names the daemon's environment variable with the API key of an external pool's engines; never the key itself.",
            ),
        ]
        | None
    ) = None
    allow_simulated: Annotated[
        bool, Meta(description="Accept an engine that says it is simulated. For tests; its text means nothing.")
    ] = False


class Queue(Section, frozen=True):
    """The bounded queue of a pool."""

    capacity: Annotated[int, Meta(ge=1, le=1_000_000, description="Waiting tasks of all classes together.")] = 256
    full_policy: Annotated[
        FullPolicyName, Meta(description="What happens to a newcomer, or for it, when the queue is full.")
    ] = "reject"
    scheduling: Annotated[
        Literal["fair", "fifo", "strict-priority", "round-robin"],
        Meta(description="Who goes next. fair: classes and tenants by weight; the others are there to compare with."),
    ] = "fair"


class PriorityClass(Section, frozen=True):
    """One priority class in a pool's queue."""

    name: Annotated[Literal["interactive", "batch"], Meta(description="The `priority` of a task.")]
    weight: (
        Annotated[
            int,
            Meta(ge=1, le=1000, description="Share of starts against the other class; default interactive 8, batch 1."),
        ]
        | None
    ) = None
    queue_capacity: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1_000_000,
                description="Waiting tasks of the class; default 128, or the pool's capacity if less.",
            ),
        ]
        | None
    ) = None
    full_policy: Annotated[FullPolicyName | None, Meta(description="Overrides the queue's policy for this class.")] = (
        None
    )
    rate_limit_rps: (
        Annotated[float, Meta(gt=0, le=1_000_000, description="Accepted tasks a second; none by default.")] | None
    ) = None


class Admission(Section, frozen=True):
    """Who may enter a pool's queue, by class. A class that is not named keeps its defaults."""

    priorities: tuple[PriorityClass, ...] = ()


class TimeoutsSection(Section, frozen=True):
    """Limits on one task's decode."""

    wall_ms: Annotated[int, Meta(ge=1, le=86_400_000, description="From dispatch to the end.")] = 60_000
    idle_ms: Annotated[int, Meta(ge=1, le=86_400_000, description="Between two tokens.")] = 5_000
    first_token_ms: (
        Annotated[int, Meta(ge=1, le=86_400_000, description="From dispatch to the first token; none by default.")]
        | None
    ) = None


class Pool(Section, frozen=True):
    """One engine, one model, one set of flags, with its queue."""

    id: Annotated[Identifier, Meta(description="Its name in requests, metrics and logs.")]
    engine: Annotated[
        Literal["llamacpp", "vllm", "tgi", "triton"],
        Meta(
            description="Which adapter speaks to it. Only llamacpp is launched by the daemon; the others are external."
        ),
    ]
    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4096,
            description="file:PATH, sha256:HEX (looked up in model_dir), bundled:NAME, repo:ORG/NAME (external only).",
        ),
    ]
    model_sha256: (
        Annotated[
            str, Meta(pattern=r"^[0-9a-f]{64}$", description="Checksum of the model file, checked before each load.")
        ]
        | None
    ) = None
    quant: Annotated[Identifier | None, Meta(description="Quantisation, as part of the replica set's name.")] = None
    ctx: Annotated[
        int, Meta(ge=16, le=16_777_216, description="Tokens one task may use, prompt and output together.")
    ] = 2048
    preload: Annotated[
        bool, Meta(description="false: its replicas are started at its first task, which waits for them.")
    ] = True
    devices: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(cpu|cuda:[0-9]{1,3})$")], ...],
        Meta(description="Device mask of each replica: [cpu] or [cuda:0, ...]."),
    ] = ()
    allow_cpu: Annotated[bool, Meta(description="Run on the CPU. Nothing ever spills over to it by itself.")] = False
    tensor_split: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=1)], ...],
        Meta(description="Share of the model for each device; must sum to 1."),
    ] = ()
    replicas: (
        Annotated[int, Meta(ge=1, le=1024, description="Engine processes; default 1, or one for each external URL.")]
        | None
    ) = None
    slots: Annotated[int, Meta(ge=1, le=256, description="Tasks that one replica decodes at once.")] = 1
    determinism: Annotated[
        Literal["strict", "best_effort"] | None,
        Meta(description="strict needs slots: 1; it is the default where slots is 1."),
    ] = None
    require_same_engine_version: Annotated[
        bool, Meta(description="Refuse a replica whose engine version differs from its siblings'.")
    ] = True
    sampler_profile_version: Annotated[
        Literal["v1", "greedy-v1", "focused-v1"], Meta(description="Profile of tasks that name none.")
    ] = "v1"
    workloads: Annotated[
        tuple[Literal["completion", "embedding", "rerank"], ...],
        Meta(description="What its tasks may want; a launched engine does one of them."),
    ] = ("completion",)
    prompt_form: Annotated[
        Literal["raw", "chat"],
        Meta(
            description="How a bare `prompt` reaches the model: as it is, or as a chat of one message, which an instruct model expects."
        ),
    ] = "raw"
    launch: Launch = Launch()
    queue: Queue = Queue()
    admission: Admission = Admission()
    timeouts: TimeoutsSection = TimeoutsSection()
    supervision: SupervisionSection = SupervisionSection()
    retry: Retry = Retry()
    canary: CanarySection = CanarySection()


class Limits(Section, frozen=True):
    """Bounds on what clients may take of the server."""

    body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="A larger body is answered 413.")] = 8 << 20
    header_bytes: Annotated[int, Meta(ge=1024, le=1 << 20, description="Larger headers are answered 431.")] = 32 << 10
    header_timeout_ms: Annotated[Milliseconds, Meta(description="For all headers of a request; then 408.")] = 10_000
    body_timeout_ms: Annotated[Milliseconds, Meta(description="For the whole body; then 408.")] = 30_000
    idle_timeout_ms: Annotated[Milliseconds, Meta(description="An unused connection is closed after it.")] = 75_000
    connections: Annotated[Count, Meta(description="At once; one more is answered 429 and closed.")] = 4096
    readers_per_task: Annotated[int, Meta(ge=1, le=10_000, description="Of one stream at once.")] = 16
    stalled_reader_ms: Annotated[
        Milliseconds, Meta(description="A reader that takes nothing for so long is closed; it may resume.")
    ] = 30_000
    heartbeat_ms: Annotated[
        int, Meta(ge=3_000, le=15_000, description="A stream is never silent for longer; a comment if need be.")
    ] = 15_000


class Tls(Section, frozen=True):
    """Certificate chain and private key, PEM files."""

    cert: Annotated[PathText, Meta(description="Server certificate and its chain.")]
    key: Annotated[PathText, Meta(description="Its private key, without a passphrase.")]


class Server(Section, frozen=True):
    """Where the API is served."""

    host: Annotated[str, Meta(min_length=1, max_length=255, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="0 lets the system choose.")] = 8080
    shutdown_grace_ms: Annotated[
        int, Meta(ge=0, le=86_400_000, description="How long running tasks may go on after a stop was asked for.")
    ] = 10_000
    limits: Limits = Limits()
    tls: Tls | None = None


class Auth(Section, frozen=True):
    """Who may call."""

    keys_file: Annotated[
        PathText | None, Meta(description="File written by `orchestratord keys`; without it nobody needs a key.")
    ] = None
    allow_anonymous_loopback: Annotated[
        bool | None,
        Meta(description="Serve calls from this machine without a key; default: only where there is no keys_file."),
    ] = None


class JournalSection(Section, frozen=True):
    """Where accepted work is kept."""

    path: Annotated[PathText | None, Meta(description="Default: journal.sqlite in the data directory.")] = None
    durability: Annotated[
        Literal["full", "relaxed", "memory"],
        Meta(
            description="full: synced to the disk before any answer. relaxed: a moment later; a crash of the daemon loses"
            " nothing, a power cut the last second or so. memory: lost with the process. See docs/reliability.md."
        ),
    ] = "full"
    max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 44,
            description="The oldest ended tasks are forgotten before it holds that much; then nothing new is accepted.",
        ),
    ] = 4 << 30
    stall_ms: Annotated[
        Milliseconds, Meta(description="How long an `end` waits for a failing journal before it goes out undurable.")
    ] = 5_000


class RetentionSection(Section, frozen=True):
    """How long and how much of what ended stays readable."""

    interactive_s: Annotated[int, Meta(ge=1, le=31_536_000, description="Seconds after the end.")] = 600
    batch_s: Annotated[int, Meta(ge=1, le=31_536_000, description="Seconds after the end.")] = 86_400
    max_bytes: Annotated[int, Meta(ge=0, le=1 << 40, description="The oldest ended tasks go first.")] = 1 << 30


class Sessions(Section, frozen=True):
    """Bounds on a session."""

    ttl_ms: Annotated[int, Meta(ge=1000, le=600_000, description="From its first accepted task.")] = 600_000
    max_turns: Annotated[int, Meta(ge=1, le=8, description="Accepted tasks of one session.")] = 8


class Logging(Section, frozen=True):
    """What is written to standard error."""

    level: Annotated[Literal["info", "warning", "error"], Meta(description="The least that is written.")] = "info"
    format: Annotated[Literal["json", "text"], Meta(description="json: one object a line. text: for people.")] = "json"


class QuotasSection(Section, frozen=True):
    """What one account may use at most. A field that is not there is no limit."""

    requests_per_s: (
        Annotated[float, Meta(gt=0, le=1_000_000, description="Accepted tasks a second; none by default.")] | None
    ) = None
    burst: (
        Annotated[
            int, Meta(ge=1, le=1_000_000, description="Tasks accepted at once; default one second's worth, at least 1.")
        ]
        | None
    ) = None
    tokens_per_minute: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1_000_000_000,
                description="Prompt and output; prompt and max_tokens are taken at once, what is not used comes back.",
            ),
        ]
        | None
    ) = None
    concurrent_tasks: Annotated[int, Meta(ge=1, le=1_000_000, description="Tasks accepted and not ended.")] | None = (
        None
    )
    queued_tasks: Annotated[int, Meta(ge=1, le=1_000_000, description="Tasks that wait.")] | None = None
    kv_mb: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1_000_000_000,
                description="Megabytes of context of tasks and sessions, where the engine tells its size.",
            ),
        ]
        | None
    ) = None


class TenantSection(Section, frozen=True):
    """One tenant's share and quotas.

    Req: ORCH-4309
    """

    id: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9_.-]{1,64}|\*)$",
            description="The tenant's name as its keys have it; `*` is every tenant that is not listed.",
        ),
    ]
    weight: Annotated[int, Meta(ge=1, le=1000, description="Share of a class against other tenants.")] = 1
    quotas: Annotated[QuotasSection, Meta(description="Of the tenant as a whole.")] = QuotasSection()
    quotas_per_key: Annotated[QuotasSection, Meta(description="Of each of its keys.")] = QuotasSection()


class ExplainSection(Section, frozen=True):
    """The log of decisions, from which tasks are explained."""

    entries: Annotated[int, Meta(ge=1, le=100_000_000, description="Decisions of all tasks; the oldest go first.")] = (
        200_000
    )
    bytes: Annotated[int, Meta(ge=4096, le=1 << 36, description="What they may take of memory, about.")] = 64 << 20
    file: Annotated[
        PathText | None,
        Meta(
            description="File to which they are appended too, a line of JSON each, without any text; none by default."
        ),
    ] = None
    file_bytes: Annotated[
        int, Meta(ge=4096, le=1 << 40, description="At that size the file becomes FILE.1, and FILE begins anew.")
    ] = 256 << 20


class Config(Section, frozen=True):
    """The whole file.

    Req: ORCH-3030, ORCH-4202
    """

    pools: tuple[Pool, ...]
    server: Server = Server()
    auth: Auth = Auth()
    journal: JournalSection = JournalSection()
    retention: RetentionSection = RetentionSection()
    sessions: Sessions = Sessions()
    tenants: tuple[TenantSection, ...] = ()
    logging: Logging = Logging()
    explain: ExplainSection = ExplainSection()
    model_dir: Annotated[PathText | None, Meta(description="Where sha256: model references are looked up.")] = None
    compat: Annotated[bool, Meta(description="Log unknown fields instead of refusing them.")] = False
