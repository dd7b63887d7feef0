"""What usage and explanations look like to a client.

Req: ORCH-4004
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from msgspec import UNSET, UnsetType

from orchqueue.core.decisions import Dropped
from orchqueue.core.explanation import Explanation, Moment, Try, Waiting
from orchqueue.core.ledger import QuotaUse
from orchqueue.core.outcome import MEANINGS, Refusal
from orchqueue.core.records import Ended
from orchqueue.core.usage import UsagePicture, UsageRow
from orchqueue.http.days import day_name
from orchqueue.http.problems import unset
from orchqueue.schema import data

State = Literal["queued", "running", "succeeded", "failed", "canceled", "refused"]
Priority = Literal["interactive", "batch"]


def usage(picture: UsagePicture, limits: Sequence[QuotaUse]) -> data.Usage:
    """Tell a tenant what it used, and its limits with what is in use."""
    return data.Usage(
        from_day=day_name(picture.from_day),
        to_day=day_name(picture.to_day),
        since_ms=picture.since_ms,
        complete=picture.complete,
        rows=[_row(row) for row in picture.rows],
        limits=[
            data.QuotaUse(scope=one.scope, quota=one.quota, limit=one.limit, in_use=one.in_use, burst=_some(one.burst))
            for one in limits
        ],
    )


def _row(row: UsageRow) -> data.UsageRow:
    amounts = row.amounts
    return data.UsageRow(
        day=day_name(row.day),
        key_id=row.account.key_id or UNSET,
        model=row.account.model_ref,
        accepted=amounts.accepted,
        succeeded=amounts.succeeded,
        failed=amounts.failed,
        canceled=amounts.canceled,
        tokens_in=amounts.tokens_in,
        tokens_out=amounts.tokens_out,
        decode_ms=amounts.decode_ms,
    )


def explanation(found: Explanation) -> data.Explanation:
    """Tell a client why its task is where it is.

    Req: ORCH-4003
    """
    return data.Explanation(
        task_id=found.task_id,
        state=cast("State", found.state),
        story=list(found.story),
        pool_id=unset(found.pool_id),
        waiting=UNSET if found.waiting is None else _waiting(found.waiting),
        candidates=[
            data.Candidate(pool_id=one.pool_id, standing=one.standing, load=one.load, slots=one.slots)
            for one in found.candidates
        ],
        attempts=[_attempt(one) for one in found.attempts],
        attempts_total=found.attempts_total,
        queue_time_ms=_some(found.queue_time_ms),
        timers=[
            data.Timer(
                name=one.name,
                limit_ms=one.limit_ms,
                fired=one.fired,
                due_at_ms=_some(one.due_at_ms),
                fired_at_ms=_some(one.fired_at_ms),
            )
            for one in found.timers
        ],
        outcome=_outcome(found),
        dropped=UNSET if found.dropped is None else _drop(found.dropped),
        displaced=UNSET if found.displaced is None else cast("Priority", found.displaced),
        timeline=[_moment(one) for one in found.timeline],
        complete=found.complete,
    )


def _attempt(one: Try) -> data.Attempt:
    return data.Attempt(
        pool_id=one.pool_id,
        replica_id=one.replica_id,
        started_at_ms=one.started_at_ms,
        choice=one.choice,
        free_replicas=one.free_replicas,
        failed_at_ms=_some(one.failed_at_ms),
        failure=UNSET if one.failure is None else one.failure,
        decided=UNSET if one.failure is None else "retry" if one.verdict is None else one.verdict.value,
        turn=cast("Priority", one.turn),
        shares=[
            data.Share(
                priority=cast("Priority", share.priority),
                weight=share.weight,
                waiting=share.waiting,
                tag=_some(share.tag),
            )
            for share in one.shares
        ],
        candidates=[
            data.ReplicaCandidate(
                replica_id=replica.replica_id,
                standing=replica.standing,
                ready=replica.ready,
                busy=replica.busy,
                slots=replica.slots,
                vram_free_bytes=replica.vram_free_bytes or UNSET,
                warm=replica.warm or UNSET,
                score=_some(replica.score),
            )
            for replica in one.candidates
        ],
    )


def _drop(dropped: Dropped) -> data.Drop:
    return data.Drop(policy=dropped.policy, by_priority=cast("Priority", dropped.by_priority), at_ms=dropped.at_ms)


def _moment(one: Moment) -> data.Moment:
    return data.Moment(
        at_ms=one.at_ms,
        kind=one.kind,
        text=one.text,
        pool_id=unset(one.pool_id),
        replica_id=unset(one.replica_id),
        attempt=_some(one.attempt),
        detail=unset(one.detail),
    )


def _waiting(waiting: Waiting) -> data.Waiting:
    return data.Waiting(
        waits_for=waiting.waits_for,
        queue_position=waiting.queue_position,
        predicted_start_ms=waiting.predicted_start_ms,
        basis=waiting.basis,
        waited_ms=waiting.waited_ms,
        slots_total=waiting.slots_total,
        slots_busy=waiting.slots_busy,
        ahead=[
            data.Ahead(priority=cast("Priority", one.priority), own=one.own, others=one.others) for one in waiting.ahead
        ],
    )


def _outcome(found: Explanation) -> data.ExplainedOutcome | UnsetType:
    if found.ended is not None:
        return _described(found.ended, found.ended.ended_at_ms)
    if found.refusal is None:
        return UNSET
    faults = [data.Fault(pointer=fault.pointer, message=fault.message) for fault in found.refusal.faults]
    return _described(found.refusal, found.refused_at_ms or 0, MEANINGS[found.refusal.outcome].status, faults)


def _described(
    what: Ended | Refusal, at_ms: int, status: int | None = None, faults: list[data.Fault] | None = None
) -> data.ExplainedOutcome:
    meaning = MEANINGS[what.outcome]
    return data.ExplainedOutcome(
        name=what.outcome.value,
        code=UNSET if meaning.code is None else meaning.code,
        status=_some(status),
        retriable=meaning.retriable,
        message=what.message,
        at_ms=at_ms,
        retry_after_ms=what.retry_after_ms or UNSET,
        policy_label=unset(meaning.policy_label),
        faults=faults or UNSET,
    )


def _some(value: int | None) -> int | UnsetType:
    return UNSET if value is None else value
