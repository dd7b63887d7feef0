"""Whether a failed attempt is tried again, and who can go on with a text that was begun."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from orchqueue.core.events import AttemptFailure, ReplicaFacts
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.task import Task


def after_failure(
    task: Task,
    failure: AttemptFailure,
    live: AbstractSet[ReplicaId],
    max_attempts: int,
    poison_kills: int,
    *,
    can_continue: bool,
) -> Outcome | None:
    """Decide: None means try again.

    1. The engine refuses the request itself: nobody else would take it.
    2. Text was already sent, and it can be neither computed again nor continued.
    3. The task has lost too many replicas since it last got on: poison, or where the last one only fell silent, out of time.
    4. Attempts of this life of the daemon are used up, or every live replica was tried by something worse than overload.

    Req: ORCH-4173, ORCH-4174, ORCH-4175, ORCH-4176, ORCH-4177, ORCH-4382
    """
    sent = task.emitted_bytes > 0
    if failure == "rejected":
        return Outcome.ENGINE_LOST if sent else Outcome.ENGINE_REFUSED
    if sent and not task.strict and not (can_continue and is_continuable(task)):
        return Outcome.IDLE_TIMEOUT if failure == "hung" else Outcome.ENGINE_LOST
    if task.kills >= poison_kills:
        return Outcome.IDLE_TIMEOUT if failure == "hung" else Outcome.POISON
    if task.attempts - task.earlier_attempts >= max_attempts:
        return Outcome.IDLE_TIMEOUT if failure == "hung" else Outcome.REPLICAS_EXHAUSTED
    if failure == "engine_error" and live <= task.tried:
        return Outcome.REPLICAS_EXHAUSTED
    return None


def is_continuable(task: Task) -> bool:
    """Tell whether an engine could go on from the text so far: a grammar cannot be taken up in its middle, nor a result.

    Req: ORCH-4178
    """
    sampling = task.spec.sampling
    bound = sampling.json_schema is not None or sampling.grammar is not None
    return not bound and task.spec.workload == "completion" and task.tokens_out < task.spec.max_tokens


def may_go_on(task: Task, facts: ReplicaFacts) -> bool:
    """Tell whether a replica can go on with a text that was begun.

    It is the same engine and model, and has proven what a replay needs, or can continue.

    Req: ORCH-4368
    """
    if task.made_by is not None and task.made_by != (facts.engine_version, facts.model_digest):
        return False
    if task.strict:
        return facts.strict_proven
    return facts.can_continue and is_continuable(task)
