"""Whether a failed attempt is tried again."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from orchqueue.core.events import AttemptFailure
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.task import Task


def after_failure(
    task: Task, failure: AttemptFailure, live: AbstractSet[ReplicaId], max_attempts: int, poison_kills: int
) -> Outcome | None:
    """Decide: None means try again.

    1. The engine refuses the request itself: nobody else would take it.
    2. Text was already sent: another run cannot be joined to it yet.
    3. The task has lost too many replicas: poison.
    4. Attempts are used up, or every live replica was tried by something worse than overload.

    Req: ORCH-4173, ORCH-4174, ORCH-4175, ORCH-4176, ORCH-4177
    """
    if failure == "rejected":
        return Outcome.ENGINE_REFUSED
    if task.first_token_at_ms is not None:
        return Outcome.ENGINE_LOST
    if task.kills >= poison_kills:
        return Outcome.POISON
    if task.attempts >= max_attempts:
        return Outcome.REPLICAS_EXHAUSTED
    if failure == "engine_error" and live <= task.tried:
        return Outcome.REPLICAS_EXHAUSTED
    return None
