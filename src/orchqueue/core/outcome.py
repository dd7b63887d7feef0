"""Every way a request or a task can end, and what each means at the edge: the one outcome table.

Req: ORCH-2006
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

ErrorCode = Literal[
    "INVALID_PARAMS",
    "ADMISSION_REJECT",
    "QUEUE_FULL_DROP_LRU",
    "POOL_UNREADY",
    "POOL_UNAVAILABLE",
    "REPLICA_EXHAUSTED",
    "DECODE_TIMEOUT",
    "WORKER_RESET",
    "INTERNAL",
]
CancelReason = Literal[
    "client", "disconnect", "wall_timeout", "idle_timeout", "deadline", "drain", "shutdown", "session_deleted"
]


class Outcome(Enum):
    """How a request or a task ended.

    Req: ORCH-4115
    """

    COMPLETED = "completed"
    CANCELED_BY_CLIENT = "canceled_by_client"
    CANCELED_ON_DISCONNECT = "canceled_on_disconnect"
    INVALID = "invalid"
    UNKNOWN_ID = "unknown_id"
    CONFLICT = "conflict"
    NO_WORKLOAD = "no_workload"
    REJECTED_FULL = "rejected_full"
    REJECTED_SHED = "rejected_shed"
    REJECTED_RATE = "rejected_rate"
    REJECTED_QUOTA = "rejected_quota"
    REJECTED_DEADLINE = "rejected_deadline"
    REJECTED_BUSY = "rejected_busy"
    DROPPED_NO_VICTIM = "dropped_no_victim"
    DROPPED_VICTIM = "dropped_victim"
    SHED_VICTIM = "shed_victim"
    POOL_UNREADY = "pool_unready"
    POOL_DRAINED = "pool_drained"
    JOURNAL_DOWN = "journal_down"
    SHUTTING_DOWN = "shutting_down"
    POOL_UNAVAILABLE = "pool_unavailable"
    REPLICAS_EXHAUSTED = "replicas_exhausted"
    ENGINE_REFUSED = "engine_refused"
    WALL_TIMEOUT = "wall_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    DEADLINE_PASSED = "deadline_passed"
    ENGINE_LOST = "engine_lost"
    DIVERGED = "diverged"
    POISON = "poison"
    INTERNAL = "internal"


class Meaning(msgspec.Struct, frozen=True):
    """What an outcome is called outside.

    `status` is the HTTP status when the outcome is told before a stream started. `code` None: not an error.
    `cancel_reason` is the label of `tasks_canceled_total` where an accepted task was ended early.

    Req: ORCH-4114, ORCH-4116
    """

    code: ErrorCode | None
    status: int
    retriable: bool
    policy_label: str | None = None
    cancel_reason: CancelReason | None = None


_REJECT: ErrorCode = "ADMISSION_REJECT"

MEANINGS: dict[Outcome, Meaning] = {
    Outcome.COMPLETED: Meaning(None, 200, False),
    Outcome.CANCELED_BY_CLIENT: Meaning(None, 200, False, cancel_reason="client"),
    Outcome.CANCELED_ON_DISCONNECT: Meaning(None, 200, False, cancel_reason="disconnect"),
    Outcome.INVALID: Meaning("INVALID_PARAMS", 400, False),
    Outcome.UNKNOWN_ID: Meaning("INVALID_PARAMS", 404, False),
    Outcome.CONFLICT: Meaning("INVALID_PARAMS", 409, False),
    Outcome.NO_WORKLOAD: Meaning("INVALID_PARAMS", 400, False),
    Outcome.REJECTED_FULL: Meaning(_REJECT, 429, True, "reject"),
    Outcome.REJECTED_SHED: Meaning(_REJECT, 429, True, "shed-low-priority"),
    Outcome.REJECTED_RATE: Meaning(_REJECT, 429, True, "rate-limit"),
    Outcome.REJECTED_QUOTA: Meaning(_REJECT, 429, True, "quota"),
    Outcome.REJECTED_DEADLINE: Meaning(_REJECT, 429, True, "deadline"),
    Outcome.REJECTED_BUSY: Meaning(_REJECT, 429, True, "connections"),
    Outcome.DROPPED_NO_VICTIM: Meaning("QUEUE_FULL_DROP_LRU", 429, True, "drop-lru"),
    Outcome.DROPPED_VICTIM: Meaning("QUEUE_FULL_DROP_LRU", 429, True, "drop-lru"),
    Outcome.SHED_VICTIM: Meaning(_REJECT, 429, True, "shed-low-priority"),
    Outcome.POOL_UNREADY: Meaning("POOL_UNREADY", 503, True),
    Outcome.POOL_DRAINED: Meaning("POOL_UNAVAILABLE", 503, True, cancel_reason="drain"),
    Outcome.JOURNAL_DOWN: Meaning("POOL_UNREADY", 503, True),
    Outcome.SHUTTING_DOWN: Meaning("POOL_UNREADY", 503, True),
    Outcome.POOL_UNAVAILABLE: Meaning("POOL_UNAVAILABLE", 503, True),
    Outcome.REPLICAS_EXHAUSTED: Meaning("REPLICA_EXHAUSTED", 503, True),
    Outcome.ENGINE_REFUSED: Meaning("INVALID_PARAMS", 400, False),
    Outcome.WALL_TIMEOUT: Meaning("DECODE_TIMEOUT", 500, True, cancel_reason="wall_timeout"),
    Outcome.IDLE_TIMEOUT: Meaning("DECODE_TIMEOUT", 500, True, cancel_reason="idle_timeout"),
    Outcome.FIRST_TOKEN_TIMEOUT: Meaning("DECODE_TIMEOUT", 500, True, cancel_reason="idle_timeout"),
    Outcome.DEADLINE_PASSED: Meaning("DECODE_TIMEOUT", 500, True, cancel_reason="deadline"),
    Outcome.ENGINE_LOST: Meaning("WORKER_RESET", 500, True),
    Outcome.DIVERGED: Meaning("WORKER_RESET", 500, True),
    Outcome.POISON: Meaning("WORKER_RESET", 500, False),
    Outcome.INTERNAL: Meaning("INTERNAL", 500, False),
}

CANCELED = frozenset({Outcome.CANCELED_BY_CLIENT, Outcome.CANCELED_ON_DISCONNECT})


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong with a request, and where.

    Shape: `pointer` is an RFC 6901 JSON pointer into the body, or `/path/…`, `/query/…`, `/header/…`.
    """

    pointer: str
    message: str


class Refusal(msgspec.Struct, frozen=True):
    """An answer other than the one hoped for.

    Units: `retry_after_ms` counts from now.
    """

    outcome: Outcome
    message: str
    faults: tuple[Fault, ...] = ()
    retry_after_ms: int | None = None
    engine: str | None = None
    pool_id: str | None = None
    task_id: str | None = None

    @property
    def meaning(self) -> Meaning:
        """Look the outcome up in the table."""
        return MEANINGS[self.outcome]
