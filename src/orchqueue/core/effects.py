"""What the core wants done, as imperative values; the interpreter carries them out in order.

Effects in `BEHIND_BARRIER` wait until every record decided before them is committed; all others pass at once.

Req: ORCH-4013
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from orchqueue.core.decisions import AnyDecision
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, ReplyId, SessionKey, TaskKey, TimerKey
from orchqueue.core.outcome import Refusal
from orchqueue.core.records import AnyRecord, Basis, Ended
from orchqueue.core.request import Determinism, TaskSpec, Workload


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Record(Effect, frozen=True):
    """Append to the journal."""

    record: AnyRecord


class Accept(Effect, frozen=True):
    """Tell the client that its task is in the queue.

    Units: `predicted_start_ms` and `predicted_end_ms` from admission. `repeated`: an idempotent repeat, the task existed before.
    """

    reply: ReplyId
    key: TaskKey
    queue_position: int
    predicted_start_ms: int
    predicted_end_ms: int
    basis: Basis
    seed: int
    determinism: Determinism
    pool_id: PoolId
    prompt_tokens: int
    prompt_tokens_basis: str
    repeated: bool = False


class Refuse(Effect, frozen=True):
    """Tell the client no, and why."""

    reply: ReplyId
    refusal: Refusal


class Done(Effect, frozen=True):
    """Tell the client that what it asked for holds now. `detail` is data for control calls."""

    reply: ReplyId
    detail: dict[str, str | int] = {}


class OpenStream(Effect, frozen=True):
    """Start an empty stream log for an accepted task."""

    key: TaskKey
    correlation_id: str = ""
    workload: Workload = "completion"


class EmitStarted(Effect, frozen=True):
    """Append the `started` event.

    Units: `predicted_start_ms` as told at admission; `queue_time_ms` really waited.
    """

    key: TaskKey
    queue_position: int
    predicted_start_ms: int
    seed: int
    pool_id: PoolId
    replica_id: ReplicaId
    engine_version: str
    model_digest: str
    determinism: Determinism
    queue_time_ms: int


class EmitTokens(Effect, frozen=True):
    """Append text to the stream, a `token` event for each piece."""

    key: TaskKey
    texts: tuple[str, ...]


class EmitMetrics(Effect, frozen=True):
    """Send a `metrics` event to whoever reads now; it is not kept. None fields are left out."""

    key: TaskKey
    queue_position: int | None = None
    predicted_start_ms: int | None = None
    tokens_per_s: float | None = None
    kv_warmth: bool | None = None
    queue_depth: int | None = None
    on_time_probability: float | None = None
    predicted_end_ms: int | None = None


class Finish(Effect, frozen=True):
    """Append the one terminal event (`end` or `error`) and close the stream."""

    key: TaskKey
    ended: Ended


class Forget(Effect, frozen=True):
    """Drop a task's stream log."""

    key: TaskKey


class CountPrompt(Effect, frozen=True):
    """Ask a replica's tokenizer; answer with `PromptCounted` within `timeout_ms`."""

    key: TaskKey
    replica_id: ReplicaId
    spec: TaskSpec
    timeout_ms: int


class StartAttempt(Effect, frozen=True):
    """Run the task on the replica. `cache_prompt`: the engine may reuse KV from earlier turns. `said`: go on from this text."""

    attempt_id: AttemptId
    key: TaskKey
    replica_id: ReplicaId
    spec: TaskSpec
    profile: str
    cache_prompt: bool
    said: str = ""


class AbortAttempt(Effect, frozen=True):
    """Stop an attempt; `AttemptClosed` follows when the engine has really stopped."""

    attempt_id: AttemptId


class StartReplica(Effect, frozen=True):
    """Launch or connect, check, self-test; `ReplicaReady` or `ReplicaLost` follows."""

    replica_id: ReplicaId
    model_ref: str


class StopReplica(Effect, frozen=True):
    """Stop the replica's process; `ReplicaStopped` follows."""

    replica_id: ReplicaId


class ProbeReplica(Effect, frozen=True):
    """Find out whether a suspect replica lives; `ReplicaHealthy` or `ReplicaLost` follows."""

    replica_id: ReplicaId


class VerifyModel(Effect, frozen=True):
    """Compare a model's checksum; `ModelVerified` follows."""

    pool_id: PoolId
    model_ref: str


class EvictKv(Effect, frozen=True):
    """Have a replica forget a session's KV, where its engine can."""

    replica_id: ReplicaId
    session: SessionKey


class SetTimer(Effect, frozen=True):
    """Fire `TimerFired(key)` at the instant; replaces an earlier timer of that key."""

    key: TimerKey
    at_ms: int


class ClearTimer(Effect, frozen=True):
    """Forget the timer, if it is set."""

    key: TimerKey


class Count(Effect, frozen=True):
    """Add to a counter of the metrics contract; label values in the contract's order."""

    name: str
    labels: tuple[str, ...]
    amount: int = 1


class Observe(Effect, frozen=True):
    """Put a value into a histogram of the metrics contract."""

    name: str
    labels: tuple[str, ...]
    value: int


class Note(Effect, frozen=True):
    """Write a log line about a task or a replica; never holds prompt or output text."""

    level: Literal["info", "warning", "error"]
    event: str
    fields: dict[str, str | int | float | bool | None]


class LogDecision(Effect, frozen=True):
    """Keep a decision in the log, for explanations and replay. Never on the path of a token."""

    decision: AnyDecision


BEHIND_BARRIER = (Accept, Refuse, Done, OpenStream, EmitStarted, Finish, Forget, StartAttempt, AbortAttempt)

AnyEffect: TypeAlias = (
    Record
    | Accept
    | Refuse
    | Done
    | OpenStream
    | EmitStarted
    | EmitTokens
    | EmitMetrics
    | Finish
    | Forget
    | CountPrompt
    | StartAttempt
    | AbortAttempt
    | StartReplica
    | StopReplica
    | ProbeReplica
    | VerifyModel
    | EvictKv
    | SetTimer
    | ClearTimer
    | Count
    | Observe
    | Note
    | LogDecision
)
