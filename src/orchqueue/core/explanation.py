"""What an explanation holds: facts for programs, and the same in plain English.

None and empty mean that there is nothing to say. No other task and no other tenant is ever named.

Units: instants in unix milliseconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from orchqueue.core.decisions import Candidate, Choice, Dropped, ReplicaCandidate, Share, TimerName
from orchqueue.core.events import AttemptFailure
from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Basis, Ended

WaitsFor = Literal[
    "slot",
    "warm_replica",
    "other_replica",
    "pool_loading",
    "pool_draining",
    "pool_reloading",
    "live_replica",
    "journal",
    "restart",
]


class Ahead(msgspec.Struct, frozen=True):
    """How many tasks of a class will probably start before this one: the caller's own, and other tenants'."""

    priority: str
    own: int
    others: int


class Waiting(msgspec.Struct, frozen=True):
    """Why a task waits, and how long it probably still does."""

    waits_for: WaitsFor
    queue_position: int
    predicted_start_ms: int
    basis: Basis
    waited_ms: int
    slots_total: int
    slots_busy: int
    ahead: tuple[Ahead, ...]


class Try(msgspec.Struct, frozen=True):
    """One attempt of a task, and why it went to its replica.

    Shape: `free_replicas` could have taken it, the chosen one counted; `turn` is the class whose turn it was; `failure`
    None unless it failed, and then `verdict` the end that was decided, None: it was tried again.
    """

    number: int
    pool_id: PoolId
    replica_id: ReplicaId
    started_at_ms: int
    choice: Choice
    free_replicas: int
    turn: str
    candidates: tuple[ReplicaCandidate, ...]
    shares: tuple[Share, ...]
    failed_at_ms: int | None = None
    failure: AttemptFailure | None = None
    verdict: Outcome | None = None


class Timer(msgspec.Struct, frozen=True):
    """A limit on the task's time. `due_at_ms` None while it does not run, `fired_at_ms` unless it was reached."""

    name: TimerName
    limit_ms: int
    fired: bool
    due_at_ms: int | None = None
    fired_at_ms: int | None = None


class Moment(msgspec.Struct, frozen=True):
    """One decision in the task's life. Shape: `detail` is a code: an outcome, a failure, a timer, a policy, a cause."""

    at_ms: int
    kind: str
    text: str
    pool_id: str | None = None
    replica_id: str | None = None
    attempt: int | None = None
    detail: str | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Why a task is where it is.

    Shape: `attempts_total` may exceed `attempts`: of earlier lives of the daemon only the number is known. `complete`:
    every decision about the task is still in the log. `queue_time_ms` from admission to the first start.
    """

    task_id: str
    state: str
    story: tuple[str, ...] = ()
    pool_id: str | None = None
    waiting: Waiting | None = None
    candidates: tuple[Candidate, ...] = ()
    attempts: tuple[Try, ...] = ()
    attempts_total: int = 0
    queue_time_ms: int | None = None
    timers: tuple[Timer, ...] = ()
    ended: Ended | None = None
    dropped: Dropped | None = None
    displaced: str | None = None
    refused_at_ms: int | None = None
    refusal: Refusal | None = None
    timeline: tuple[Moment, ...] = ()
    complete: bool = True
    recovered: bool = False
