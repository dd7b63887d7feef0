"""What the core decided, as small values that can be kept, told, and later replayed against other settings.

Every decision has its instant and a key: a task's key, which names tenant and id, a pool's id, or `EVERYTHING`. There is
never prompt or output text in one.

Units: instants in unix milliseconds.
Req: ORCH-4320, ORCH-4321
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from orchqueue.core.events import AttemptFailure, CrashCause
from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Basis, CountBasis
from orchqueue.core.request import Determinism, PlacementWish, Priority, Workload
from orchqueue.core.settings import PoolSettings

EVERYTHING = "*"

Standing = Literal[
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
]
ReplicaStanding = Literal[
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
]
Choice = Literal["only_free", "least_busy", "warm_session", "canary"]
PassCause = Literal["let_pass", "left_free"]
TimerName = Literal["deadline", "wall", "idle", "first_token", "disconnect", "warm"]
MoveCause = Literal["drain", "reload"]
HaltCause = Literal["journal", "shutdown"]


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One pool as it stood when a task was placed, and why it was chosen or not.

    Shape: `load` is what ran and waited there.
    """

    pool_id: PoolId
    load: int
    slots: int
    standing: Standing


class ReplicaCandidate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One replica as it stood when an attempt was bound, and the filter that took it out or what put it behind.

    Shape: `score` in thousandths of its slots that were taken, the less the better; equal ones go by free memory, then by
    name. None where a filter took it out. `warm`: it holds the session's context.
    """

    replica_id: ReplicaId
    standing: ReplicaStanding
    ready: bool
    busy: int
    slots: int
    vram_free_bytes: int = 0
    warm: bool = False
    score: int | None = None


class Share(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How one class stood when a slot was given away: the smallest `tag` of those that wait goes first."""

    priority: str
    weight: int
    waiting: int
    tag: int | None = None


class Decision(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="kind"):
    """Base of all decisions."""

    at_ms: int
    key: str


class Submitted(Decision, frozen=True, gc=False, tag="submitted"):
    """A new request came in: what has to be known of it to decide about it again. `turns`: chat messages, 0 without."""

    client_id: str
    priority: Priority
    workload: Workload
    max_tokens: int
    prompt_bytes: int
    turns: int = 0
    model_ref: str | None = None
    engine: str | None = None
    ctx: int | None = None
    expected_tokens: int | None = None
    deadline_ms: int | None = None
    session_id: str | None = None
    kv_hint: Literal["reuse", "cold"] = "reuse"
    placement: PlacementWish = PlacementWish()
    determinism: Determinism | None = None
    profile: str | None = None
    ignore_eos: bool = False


class CountAsked(Decision, frozen=True, gc=False, tag="count_asked"):
    """A pool was chosen, and a replica's tokenizer is asked whether the prompt fits."""

    pool_id: PoolId
    replica_id: ReplicaId
    candidates: tuple[Candidate, ...]


class Admitted(Decision, frozen=True, gc=False, tag="admitted"):
    """A task was let into a queue.

    Shape: `candidates` empty where `CountAsked` has them; `displaced` the class of the task that gave way.
    """

    pool_id: PoolId
    model_ref: str
    strict: bool
    profile: str
    prompt_tokens: int
    prompt_basis: CountBasis
    cost_tokens: int
    queue_position: int
    predicted_start_ms: int
    basis: Basis
    candidates: tuple[Candidate, ...] = ()
    displaced: str | None = None


class Refused(Decision, frozen=True, gc=False, tag="refused"):
    """A request was turned away. Shape: the refusal cut to size; `candidates` where a pool had been chosen."""

    refusal: Refusal
    prompt_tokens: int = 0
    candidates: tuple[Candidate, ...] = ()


class Recovered(Decision, frozen=True, gc=False, tag="recovered"):
    """A task of an earlier life of the daemon was taken over; position and prediction are what was told at its admission."""

    pool_id: PoolId
    accepted_at_ms: int
    was_bound: bool
    strict: bool
    profile: str
    prompt_tokens: int
    cost_tokens: int
    queue_position: int
    predicted_start_ms: int


class Dropped(Decision, frozen=True, gc=False, tag="dropped"):
    """A waiting task had to give way to a newcomer of a class, of which no more is said."""

    pool_id: PoolId
    policy: str
    by_priority: str


class Moved(Decision, frozen=True, gc=False, tag="moved"):
    """A waiting task went to a pool of the same replica set."""

    from_pool_id: PoolId
    pool_id: PoolId
    cause: MoveCause


class PassedOver(Decision, frozen=True, gc=False, tag="passed_over"):
    """A free slot was not given to a task because its session's context is on a replica that frees soon.

    Once a task and cause. `let_pass`: another task got the slot; `left_free`: the slot stays free for the moment.
    """

    warm_on: ReplicaId
    cause: PassCause
    until_ms: int | None = None


class Bound(Decision, frozen=True, gc=False, tag="bound"):
    """A task was given a slot.

    Shape: `candidates` the chosen replica first; `turn` the class whose turn it was; `shares` as they stood before;
    `free_replicas` of the pool, the chosen one counted; `from_pool_id` where a pool took the task from another's queue.
    """

    attempt: int
    pool_id: PoolId
    replica_id: ReplicaId
    choice: Choice
    free_replicas: int
    turn: str
    candidates: tuple[ReplicaCandidate, ...]
    shares: tuple[Share, ...]
    from_pool_id: PoolId | None = None


class AttemptFailed(Decision, frozen=True, gc=False, tag="attempt_failed"):
    """An attempt failed. Shape: `verdict` None: it is tried again, else the end that was decided."""

    attempt: int
    replica_id: ReplicaId
    failure: AttemptFailure
    verdict: Outcome | None = None


class CaughtUp(Decision, frozen=True, gc=False, tag="caught_up"):
    """A replay gave every byte that was sent again; from here on its text is passed on."""

    attempt: int
    replica_id: ReplicaId
    at_bytes: int


class Diverged(Decision, frozen=True, gc=False, tag="diverged"):
    """A replay gave something else than what was sent, first at byte `at_bytes` of `sent_bytes`."""

    attempt: int
    first_replica_id: ReplicaId
    replica_id: ReplicaId
    at_bytes: int
    sent_bytes: int


class TimerFired(Decision, frozen=True, gc=False, tag="timer_fired"):
    """A limit on a task's time was reached, and that had consequences."""

    timer: TimerName
    limit_ms: int


class Ended(Decision, frozen=True, gc=False, tag="ended"):
    """A task reached its end. Shape: `prefill_ms` and `cached_tokens` where the engine told them."""

    outcome: Outcome
    pool_id: PoolId
    replica_id: ReplicaId | None
    attempts: int
    tokens_in: int
    tokens_out: int
    decode_ms: int
    first_token_at_ms: int | None = None
    prefill_ms: int = 0
    cached_tokens: int = 0


class PoolConfigured(Decision, frozen=True, gc=False, tag="pool_configured"):
    """A pool's policies are these from now on; where its replicas run is left out."""

    settings: PoolSettings


class PoolChanged(Decision, frozen=True, gc=False, tag="pool_changed"):
    """A pool's mode or models changed. Shape: `canary_*` where a share of its tasks tries another model."""

    mode: str
    model_ref: str
    drain_at_ms: int | None = None
    problem: str | None = None
    canary_model_ref: str | None = None
    canary_percent: int | None = None


class ReplicaChanged(Decision, frozen=True, gc=False, tag="replica_changed"):
    """A replica came up, went down, or takes nothing for a while. Units: rates in microseconds per token."""

    replica_id: ReplicaId
    state: str
    cooling: bool = False
    cause: CrashCause | None = None
    slots: int = 0
    strict_proven: bool = False
    prefill_us: int = 0
    decode_us: int = 0
    retry_at_ms: int | None = None


class Halted(Decision, frozen=True, gc=False, tag="halted"):
    """Nothing is admitted or started from now on, or again (`over`)."""

    cause: HaltCause
    over: bool = False


TaskDecision: TypeAlias = (
    Submitted
    | CountAsked
    | Admitted
    | Refused
    | Recovered
    | Dropped
    | Moved
    | PassedOver
    | Bound
    | AttemptFailed
    | CaughtUp
    | Diverged
    | TimerFired
    | Ended
)
AnyDecision: TypeAlias = TaskDecision | PoolConfigured | PoolChanged | ReplicaChanged | Halted
