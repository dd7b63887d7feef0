"""What the journal keeps: small facts, in the order they were decided.

Req: ORCH-4011, ORCH-4013
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from orchqueue.core.ids import PoolId, ReplicaId, TaskId, Tenant
from orchqueue.core.outcome import Outcome
from orchqueue.core.request import FinishReason, TaskSpec

Basis = Literal["measured", "selftest", "none"]
CountBasis = Literal["bytes_bound", "tokenizer", "estimate"]


class Accepted(msgspec.Struct, frozen=True, tag="accepted", omit_defaults=True, gc=False):
    """A task was accepted; from here on it reaches exactly one end. What its client was told is kept, to be told again.

    Units: `accepted_at_ms` unix milliseconds; the predictions from then on.
    """

    tenant: Tenant
    task_id: TaskId
    spec: TaskSpec
    pool_id: PoolId
    strict: bool
    profile: str
    prompt_tokens: int
    accepted_at_ms: int
    client_id: str = ""
    correlation_id: str = ""
    model_ref: str = ""
    prompt_basis: CountBasis = "estimate"
    queue_position: int = 0
    predicted_start_ms: int = 0
    predicted_end_ms: int = 0
    basis: Basis = "none"


class Bound(msgspec.Struct, frozen=True, tag="bound", omit_defaults=True, gc=False):
    """A task was started on a replica. What the engine was is kept, for another one cannot go on with its text.

    Units: `bound_at_ms` unix milliseconds.
    """

    tenant: Tenant
    task_id: TaskId
    replica_id: ReplicaId
    attempt: int
    bound_at_ms: int = 0
    pool_id: PoolId = PoolId("")
    engine_version: str = ""
    model_digest: str = ""


class Spoken(msgspec.Struct, frozen=True, tag="spoken", gc=False):
    """A piece of a running task's text, from byte `at_bytes` of its output on. Pieces follow each other without a gap.

    Units: `tokens_out` were decoded up to the end of this piece.
    Req: ORCH-4183
    """

    tenant: Tenant
    task_id: TaskId
    at_bytes: int
    text: str
    tokens_out: int = 0


class Followed(msgspec.Struct, frozen=True, tag="followed", gc=False):
    """A reader has attached to a task that is canceled when its readers leave; recorded once for a task.

    Req: ORCH-4113
    """

    tenant: Tenant
    task_id: TaskId


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a client can check an output against, but for its digest, which the stream log adds.

    `continued`: an engine went on from the text of another, so that one run alone need not give the same.

    Req: ORCH-4098
    """

    seed: int
    params_digest: str
    sampler_profile_version: str
    engine: str
    engine_version: str
    model_digest: str
    attempts: int
    continued: bool = False


class Ended(msgspec.Struct, frozen=True, tag="ended", omit_defaults=True, gc=False):
    """A task reached its end. `text` is the whole output, added by the owner of the stream log when it is written.

    Units: instants in unix milliseconds.
    """

    tenant: Tenant
    task_id: TaskId
    outcome: Outcome
    ended_at_ms: int
    keep_until_ms: int
    tokens_in: int = 0
    tokens_out: int = 0
    decode_ms: int = 0
    started_at_ms: int | None = None
    finish_reason: FinishReason | None = None
    message: str = ""
    pool_id: PoolId | None = None
    replica_id: ReplicaId | None = None
    engine: str | None = None
    retry_after_ms: int | None = None
    receipt: Receipt | None = None
    text: str = ""


class Booking(msgspec.Struct, frozen=True, gc=False):
    """What is added to the usage of one key and model on one day.

    Units: days from 1970-01-01 UTC.
    """

    day: int
    key_id: str
    model_ref: str
    accepted: int = 0
    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    decode_ms: int = 0


class Forgotten(msgspec.Struct, frozen=True, tag="forgotten", gc=False):
    """An ended task's retention is over; of it nothing is kept but what it used, which is booked at once.

    `dropped_days` are days whose usage goes first; what is kept of the rest is whole since `usage_since_ms`.

    Req: ORCH-4089, ORCH-4308
    """

    tenant: Tenant
    task_id: TaskId
    booked: tuple[Booking, ...] = ()
    dropped_days: tuple[int, ...] = ()
    usage_since_ms: int = 0


AnyRecord: TypeAlias = Accepted | Bound | Spoken | Followed | Ended | Forgotten
