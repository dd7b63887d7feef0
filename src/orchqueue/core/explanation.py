"""What an explanation holds: facts for programs, and the same in plain English.

None and empty mean that there is nothing to say. No other task and no other tenant is ever named.

Units: instants in unix milliseconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from orchqueue.core.effects import Basis
from orchqueue.core.outcome import Refusal
from orchqueue.core.records import Ended
from orchqueue.core.traces import Candidate, Try

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
TimerName = Literal["deadline", "wall", "idle", "first_token"]


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


class Timer(msgspec.Struct, frozen=True):
    """A limit on the task's time. `due_at_ms` None while it does not run."""

    name: TimerName
    limit_ms: int
    fired: bool
    due_at_ms: int | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Why a task is where it is.

    Shape: `attempts_total` may exceed `attempts`: of earlier lives of the daemon only the number is known.
    `queue_time_ms` from admission to the first start.
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
    refused_at_ms: int | None = None
    refusal: Refusal | None = None
