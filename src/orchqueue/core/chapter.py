"""Picks out of a task's decisions those that belong to its present life, and what they say.

A task's id may have been refused before it was accepted, or named an older task whose retention is over; the log keeps
the decisions about these under the same key.

Req: ORCH-4323
"""

from __future__ import annotations

from collections.abc import Sequence

from orchqueue.core import decisions as dc
from orchqueue.core.explanation import Try
from orchqueue.core.outcome import Outcome

TRIES_AT_MOST = 32
BEGINNINGS = (dc.Admitted, dc.Recovered)


def of_known(log: Sequence[dc.AnyDecision]) -> Sequence[dc.AnyDecision]:
    """Give what is logged of a task that is known now, from its request on.

    Shape: begins with `Submitted`, unless what came first has fallen out of the log.
    """
    begin = 0
    for index, decision in enumerate(log):
        if isinstance(decision, BEGINNINGS):
            begin = _request_before(log, index)
    return log[begin:]


def of_refused(log: Sequence[dc.AnyDecision]) -> Sequence[dc.AnyDecision]:
    """Give what is logged of a request that was refused and is no known task, the refusal last; else nothing.

    A request that is just being counted says nothing yet.
    """
    for index in range(len(log) - 1, -1, -1):
        decision = log[index]
        if isinstance(decision, dc.Refused) and not is_conflict(decision):
            return log[_request_before(log, index) : index + 1]
        if not isinstance(decision, dc.Submitted | dc.CountAsked | dc.Refused):
            return ()
    return ()


def is_conflict(refused: dc.Refused) -> bool:
    """Tell whether another request was refused because it used the task's id."""
    return refused.refusal.outcome is Outcome.CONFLICT


def _request_before(log: Sequence[dc.AnyDecision], index: int) -> int:
    while index > 0 and not isinstance(log[index], dc.Submitted):
        index -= 1
    return index


def is_complete(log: Sequence[dc.AnyDecision]) -> bool:
    """Tell whether everything decided about a task is there: the oldest decisions of a task are the first to go."""
    return bool(log) and isinstance(log[0], dc.Submitted) and not any(isinstance(d, dc.Recovered) for d in log)


def candidates(log: Sequence[dc.AnyDecision]) -> tuple[dc.Candidate, ...]:
    """Give the pools as they stood when one was chosen."""
    found: tuple[dc.Candidate, ...] = ()
    for decision in log:
        if isinstance(decision, dc.CountAsked | dc.Admitted | dc.Refused) and decision.candidates:
            found = decision.candidates
    return found


def tries(log: Sequence[dc.AnyDecision]) -> tuple[Try, ...]:
    """Give the latest attempts, each with its failure.

    Shape: at most `TRIES_AT_MOST`, oldest first.
    """
    bound = [decision for decision in log if isinstance(decision, dc.Bound)]
    failed = {decision.attempt: decision for decision in log if isinstance(decision, dc.AttemptFailed)}
    return tuple(_try(decision, failed.get(decision.attempt)) for decision in bound[-TRIES_AT_MOST:])


def _try(bound: dc.Bound, failed: dc.AttemptFailed | None) -> Try:
    return Try(
        number=bound.attempt,
        pool_id=bound.pool_id,
        replica_id=bound.replica_id,
        started_at_ms=bound.at_ms,
        choice=bound.choice,
        free_replicas=bound.free_replicas,
        turn=bound.turn,
        candidates=bound.candidates,
        shares=bound.shares,
        failed_at_ms=None if failed is None else failed.at_ms,
        failure=None if failed is None else failed.failure,
        verdict=None if failed is None else failed.verdict,
    )
