"""What is noted about a task while it is decided upon, so that it can be explained afterwards.

Req: ORCH-4003
"""

from __future__ import annotations

from typing import Literal

import msgspec

from orchqueue.core.events import AttemptFailure
from orchqueue.core.ids import PoolId, ReplicaId

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
Choice = Literal["only_free", "least_busy", "warm_session"]


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One pool as it stood when a task was admitted, and why it was chosen or not.

    Shape: `load` is what ran and waited there.
    """

    pool_id: PoolId
    load: int
    slots: int
    standing: Standing


class Try(msgspec.Struct, frozen=True, gc=False):
    """One attempt of a task, and why it went to its replica.

    Shape: `free_replicas` could have taken it, the chosen one counted; `failure` None unless it failed.
    Units: instants in unix milliseconds.
    """

    pool_id: PoolId
    replica_id: ReplicaId
    started_at_ms: int
    choice: Choice
    free_replicas: int
    failed_at_ms: int | None = None
    failure: AttemptFailure | None = None
