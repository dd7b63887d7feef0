"""What the core learns, as past-tense values.

Every event carries ids, never objects; an event about something that is gone is legal and ignored.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, ReplyId, SessionKey, TaskId, TaskKey, Tenant, TimerKey
from orchqueue.core.records import Accepted, Booking, Bound, Ended
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Settings

AttemptFailure = Literal["lost", "hung", "rejected", "overloaded", "engine_error"]
CrashCause = Literal[
    "exit", "signal", "host_oom", "vram_oom", "cuda", "health", "never_ready", "cannot_fit", "checksum", "selftest", "model_file",
]  # fmt: skip


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of all events."""


class TaskSubmitted(Event, frozen=True):
    """A valid request came in; `spec.seed` is filled in."""

    reply: ReplyId
    task_id: TaskId
    tenant: Tenant
    spec: TaskSpec
    client_id: str = ""
    correlation_id: str = ""


class PromptCounted(Event, frozen=True):
    """The engine's tokenizer answered, or did not in time (`tokens` None)."""

    key: TaskKey
    tokens: int | None


class CancelRequested(Event, frozen=True):
    """A client wants the task stopped."""

    reply: ReplyId
    key: TaskKey


class ReaderAttached(Event, frozen=True):
    """A reader follows the task's stream; `readers` follow it now."""

    key: TaskKey
    readers: int


class ReaderDetached(Event, frozen=True):
    """A reader left the task's stream; `readers` still follow it."""

    key: TaskKey
    readers: int


class SessionDeleteRequested(Event, frozen=True):
    """A client wants the session forgotten."""

    reply: ReplyId
    session: SessionKey


class ChunksArrived(Event, frozen=True):
    """Text from the engine, everything that one wake-up brought.

    Units: `tokens_out` is the engine's own count for this attempt so far.
    """

    attempt_id: AttemptId
    texts: tuple[str, ...]
    tokens_out: int


class AttemptCompleted(Event, frozen=True):
    """The engine said that it is done.

    Units: counts are the engine's own; `cached_tokens` of the prompt came from its KV cache.
    """

    attempt_id: AttemptId
    finish_reason: Literal["stop", "length"]
    tokens_in: int
    tokens_out: int
    prefill_ms: int
    decode_ms: int
    cached_tokens: int = 0


class AttemptFailed(Event, frozen=True):
    """The attempt ended without a result. `lost`: connection gone; `rejected`: the engine refuses this request for good."""

    attempt_id: AttemptId
    failure: AttemptFailure
    detail: str


class AttemptClosed(Event, frozen=True):
    """The engine holds nothing of this attempt any more: its slot is really free."""

    attempt_id: AttemptId


class ReplicaFacts(msgspec.Struct, frozen=True):
    """What a replica told about itself when it became ready. `can_continue`: it goes on from a text that was begun.

    Units: rates are microseconds per token, measured by the self-test.
    """

    engine_version: str
    model_digest: str
    slots_total: int
    ctx: int
    strict_proven: bool
    prefill_us_per_token: int
    decode_us_per_token: int
    kv_bytes_per_token: int = 0
    template_fixed_bytes: int = 0
    template_message_bytes: int = 0
    url: str = ""
    pid: int | None = None
    known_answer: str = ""
    selftest_note: str = ""
    can_continue: bool = False


class ReplicaReady(Event, frozen=True):
    """The replica passed checksum, health and self-test."""

    replica_id: ReplicaId
    facts: ReplicaFacts


class ReplicaLost(Event, frozen=True):
    """The replica is gone or failed to come up; whatever ran there is lost."""

    replica_id: ReplicaId
    cause: CrashCause
    detail: str


class ReplicaStopped(Event, frozen=True):
    """The replica is down because we asked for it."""

    replica_id: ReplicaId


class ReplicaHealthy(Event, frozen=True):
    """A probed replica answered after all."""

    replica_id: ReplicaId


class DeviceFigures(msgspec.Struct, frozen=True):
    """One device of a replica's mask, as its driver tells; None where it does not.

    Units: `vram_used_bytes` counts whatever is in the device's memory, whoever put it there.
    """

    device: str
    utilization_percent: float | None = None
    vram_used_bytes: int | None = None
    vram_free_bytes: int | None = None


class ReplicaScraped(Event, frozen=True):
    """Figures from the replica's own metrics and of its devices; None where there are none.

    `cached_tokens`: what the only slot of a replica that has one holds.
    """

    replica_id: ReplicaId
    kv_usage_ratio: float | None = None
    devices: tuple[DeviceFigures, ...] = ()
    cached_tokens: int | None = None


class TimerFired(Event, frozen=True):
    """A timer that the core set is due."""

    key: TimerKey


class Ticked(Event, frozen=True):
    """Another metrics interval has passed. `journal_bytes`: what the journal holds, of at most `journal_max_bytes`; 0: no bound."""

    journal_bytes: int = 0
    journal_max_bytes: int = 0


class DrainRequested(Event, frozen=True):
    """An operator wants the pool empty after `deadline_ms` at the latest."""

    reply: ReplyId
    pool_id: PoolId
    deadline_ms: int


class ReloadRequested(Event, frozen=True):
    """An operator wants another model in the pool, or below 100 percent: tried by that share of the tasks first."""

    reply: ReplyId
    pool_id: PoolId
    new_model_ref: str
    canary_percent: int = 100


class RollbackRequested(Event, frozen=True):
    """An operator wants the pool's previous model back."""

    reply: ReplyId
    pool_id: PoolId


class ModelVerified(Event, frozen=True):
    """The new model's checksum was compared; `problem` empty when it is good."""

    pool_id: PoolId
    model_ref: str
    problem: str


class SettingsReplaced(Event, frozen=True):
    """A new configuration was accepted; pools and replicas are the same ones, their policies may differ."""

    reply: ReplyId
    settings: Settings


class ShutdownBegan(Event, frozen=True):
    """Stop admitting and starting; what runs may finish."""


class JournalStalled(Event, frozen=True):
    """The journal cannot commit now."""

    reason: str


class JournalHealed(Event, frozen=True):
    """The journal commits again."""


class AcceptsWithdrawn(Event, frozen=True):
    """These tasks' acceptances could not be committed, and their clients were told so."""

    keys: tuple[TaskKey, ...]


class TaskRecovered(Event, frozen=True):
    """An accepted task without an end was found in the journal.

    `bound`: its latest start. `text`: what it had said, as far as that was kept, in `tokens_out` tokens. `followed`: it had readers.
    """

    accepted: Accepted
    bound: Bound | None = None
    text: str = ""
    tokens_out: int = 0
    followed: bool = False


class TaskRestored(Event, frozen=True):
    """An ended task that is still to be kept was found in the journal."""

    accepted: Accepted
    ended: Ended


class UsageBooked(Event, frozen=True):
    """Usage of forgotten tasks was found in the journal; comes before any task.

    Units: `since_ms` unix milliseconds, None when the journal does not know since when it is whole.
    """

    since_ms: int | None
    rows: tuple[tuple[Tenant, Booking], ...]


RareEvent: TypeAlias = (
    ReplicaReady
    | ReplicaLost
    | ReplicaStopped
    | ReplicaHealthy
    | ReplicaScraped
    | DrainRequested
    | ReloadRequested
    | RollbackRequested
    | ModelVerified
    | SettingsReplaced
    | ShutdownBegan
    | JournalStalled
    | JournalHealed
    | AcceptsWithdrawn
    | TaskRecovered
    | TaskRestored
    | UsageBooked
)

AnyEvent: TypeAlias = (
    RareEvent
    | TaskSubmitted
    | PromptCounted
    | CancelRequested
    | ReaderAttached
    | ReaderDetached
    | SessionDeleteRequested
    | ChunksArrived
    | AttemptCompleted
    | AttemptFailed
    | AttemptClosed
    | TimerFired
    | Ticked
)
