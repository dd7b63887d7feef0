"""A task's life as the log tells it, a line for each decision.

Req: ORCH-4323
"""

from __future__ import annotations

from collections.abc import Sequence

from orchqueue.core import decisions as dc
from orchqueue.core.explanation import Moment

MOMENTS_AT_MOST = 128

FAILED: dict[str, str] = {
    "lost": "the connection to its engine was lost",
    "hung": "its engine fell silent",
    "rejected": "its engine refused the request",
    "overloaded": "its engine was overloaded",
    "engine_error": "its engine failed",
}
TIMERS: dict[dc.TimerName, str] = {
    "deadline": "The deadline passed",
    "wall": "The limit on decoding time was reached",
    "idle": "The limit on silence between two tokens was reached",
    "first_token": "The limit on the time to the first token was reached",
    "disconnect": "Nobody had read it for the grace that is given",
    "warm": "The wait for the session's replica was over",
}
PASSED: dict[dc.PassCause, str] = {
    "let_pass": "A free slot went to another task",
    "left_free": "A free slot was left alone",
}
MOVED: dict[dc.MoveCause, str] = {"drain": "its pool was drained", "reload": "its pool was reloaded"}


def timeline(log: Sequence[dc.AnyDecision]) -> tuple[Moment, ...]:
    """Tell a task's decisions, oldest first; of very many the first half and the latest."""
    found = [moment for decision in log for moment in _told(decision)]
    if len(found) > MOMENTS_AT_MOST:
        half = MOMENTS_AT_MOST // 2
        found = [*found[:half], *found[-half:]]
    return tuple(found)


def _told(decision: dc.AnyDecision) -> list[Moment]:
    at_ms = decision.at_ms
    match decision:
        case dc.Submitted():
            text = f"A request of class {decision.priority} came in: {decision.prompt_bytes} bytes, max_tokens {decision.max_tokens}."
            return [Moment(at_ms, "submitted", text)]
        case dc.CountAsked():
            text = f"Replica {decision.replica_id} was asked to count the prompt's tokens for pool {decision.pool_id}."
            return [Moment(at_ms, "count_asked", text, decision.pool_id, decision.replica_id)]
        case dc.Admitted():
            return [_admitted(decision)]
        case dc.Refused():
            outcome = decision.refusal.outcome.value
            text = f"A request of this id was refused: {decision.refusal.message}"
            return [Moment(at_ms, "refused", text, decision.refusal.pool_id, detail=outcome)]
        case dc.Recovered():
            text = f"A restarted daemon took it over into pool {decision.pool_id}."
            return [Moment(at_ms, "recovered", text, decision.pool_id)]
        case dc.Dropped():
            text = f"The policy {decision.policy} gave its place to a new {decision.by_priority} task."
            return [Moment(at_ms, "dropped", text, decision.pool_id, detail=decision.policy)]
        case dc.Moved():
            text = f"It moved from pool {decision.from_pool_id} to {decision.pool_id}, because {MOVED[decision.cause]}."
            return [Moment(at_ms, "moved", text, decision.pool_id, detail=decision.cause)]
        case _:
            return _ran(decision)


def _ran(decision: dc.AnyDecision) -> list[Moment]:
    at_ms = decision.at_ms
    match decision:
        case dc.PassedOver():
            text = (
                f"{PASSED[decision.cause]}: its session's context is on replica {decision.warm_on}, which frees soon."
            )
            return [Moment(at_ms, "passed_over", text, None, decision.warm_on, detail=decision.cause)]
        case dc.Bound():
            text = f"Attempt {decision.attempt} was given a slot of replica {decision.replica_id}."
            return [
                Moment(at_ms, "bound", text, decision.pool_id, decision.replica_id, decision.attempt, decision.choice)
            ]
        case dc.AttemptFailed():
            then = "it is tried again" if decision.verdict is None else "it is not tried again"
            text = f"Attempt {decision.attempt} failed: {FAILED[decision.failure]}; {then}."
            replica_id, failure = decision.replica_id, decision.failure
            return [Moment(at_ms, "attempt_failed", text, None, replica_id, decision.attempt, failure)]
        case dc.CaughtUp():
            text = f"Attempt {decision.attempt} gave the {decision.at_bytes} bytes that were sent again, and went on."
            return [Moment(at_ms, "caught_up", text, None, decision.replica_id, decision.attempt)]
        case dc.Diverged():
            text = (
                f"Attempt {decision.attempt} differed at byte {decision.at_bytes} of the {decision.sent_bytes} that replica "
                f"{decision.first_replica_id} had given."
            )
            return [Moment(at_ms, "diverged", text, None, decision.replica_id, decision.attempt)]
        case dc.TimerFired():
            text = f"{TIMERS[decision.timer]}: {decision.limit_ms} ms."
            return [Moment(at_ms, "timer_fired", text, detail=decision.timer)]
        case dc.Ended():
            outcome = decision.outcome.value
            tokens = f": {decision.tokens_in} tokens in, {decision.tokens_out} out."
            text = f"It ended as {outcome}{tokens if decision.attempts else ' before any engine took it.'}"
            return [Moment(at_ms, "ended", text, decision.pool_id, decision.replica_id, detail=outcome)]
        case _:
            # What is about pools has other keys.
            return []


def _admitted(decision: dc.Admitted) -> Moment:
    text = (
        f"It was admitted to pool {decision.pool_id} at position {decision.queue_position}, to start in about "
        f"{decision.predicted_start_ms} ms; {decision.cost_tokens} tokens were expected."
    )
    return Moment(decision.at_ms, "admitted", text, decision.pool_id)
