"""What the core's pictures look like to a client of the data plane.

Req: ORCH-4001
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from orchqueue.core.effects import Accept
from orchqueue.core.ids import TaskId, task_id_of, task_key
from orchqueue.core.outcome import MEANINGS
from orchqueue.core.records import Ended
from orchqueue.core.snapshots import SessionPicture, TaskPicture
from orchqueue.http.problems import unset
from orchqueue.runtime.streams import Streams
from orchqueue.schema import data

TaskState = Literal["queued", "running", "succeeded", "failed", "canceled"]


def links_of(task_id: TaskId) -> data.Links:
    """Say where to go on with a task."""
    own = f"/v1/tasks/{task_id}"
    return data.Links(self=own, stream=f"{own}/stream", cancel=f"{own}/cancel")


def admission(accept: Accept) -> data.AdmissionResponse:
    """Tell a client what to expect of its accepted task.

    Req: ORCH-4050
    """
    task_id = task_id_of(accept.key)
    return data.AdmissionResponse(
        task_id=task_id,
        queue_position=accept.queue_position,
        predicted_start_ms=accept.predicted_start_ms,
        predicted_end_ms=accept.predicted_end_ms,
        backoff_ms=0,
        seed=accept.seed,
        determinism=accept.determinism,
        pool_id=accept.pool_id,
        links=links_of(task_id),
        basis=accept.basis,
        prompt_tokens=accept.prompt_tokens,
        prompt_tokens_basis=cast("Literal['bytes_bound', 'tokenizer', 'estimate']", accept.prompt_tokens_basis),
    )


def task_summary(picture: TaskPicture, streams: Streams) -> dict[str, object]:
    """Tell how a task stands, without its text; what is not known is left out."""
    accepted, ended = picture.accepted, picture.ended
    key = task_key(accepted.tenant, accepted.task_id)
    fields: dict[str, object | None] = {
        "task_id": accepted.task_id,
        "state": picture.state,
        "priority": accepted.spec.priority,
        "pool_id": ended.pool_id if ended is not None and ended.pool_id is not None else accepted.pool_id,
        "replica_id": picture.replica_id,
        "session_id": accepted.spec.session_id,
        "queue_position": picture.queue_position,
        "predicted_start_ms": picture.predicted_start_ms,
        "predicted_end_ms": picture.predicted_end_ms,
        "created_at_ms": accepted.accepted_at_ms,
        "started_at_ms": picture.started_at_ms,
        "seed": accepted.spec.seed,
        "determinism": "strict" if accepted.strict else "best_effort",
        "sampler_profile_version": accepted.profile,
        "tokens_out": picture.tokens_out,
    }
    if ended is not None:
        fields |= {
            "replica_id": ended.replica_id or picture.replica_id,
            "started_at_ms": ended.started_at_ms,
            "ended_at_ms": ended.ended_at_ms,
            "tokens_in": ended.tokens_in,
            "tokens_out": ended.tokens_out,
            "decode_ms": ended.decode_ms,
        }
        if MEANINGS[ended.outcome].code is None:
            fields["finish_reason"] = "canceled" if picture.state == "canceled" else ended.finish_reason
        else:
            fields["error"] = task_error(ended, streams.correlation_id(key))
        fields["receipt"] = streams.receipt(key)
    return {name: value for name, value in fields.items() if value is not None}


def task_info(picture: TaskPicture, streams: Streams) -> dict[str, object]:
    """Tell how a task stands, with its text so far.

    Req: ORCH-4002
    """
    key = task_key(picture.accepted.tenant, picture.accepted.task_id)
    return {**task_summary(picture, streams), "text": streams.text(key)}


def task_error(ended: Ended, correlation_id: str) -> data.ErrorEnvelope:
    """Tell how a task failed."""
    meaning = MEANINGS[ended.outcome]
    return data.ErrorEnvelope(
        code=meaning.code or "INTERNAL",
        message=ended.message or f"task {ended.task_id}: {ended.outcome.value}",
        retriable=meaning.retriable,
        correlation_id=correlation_id,
        engine=unset(ended.engine),
        pool_id=unset(ended.pool_id),
        task_id=ended.task_id,
        retry_after_ms=_some(ended.retry_after_ms),
        policy_label=unset(meaning.policy_label),
    )


def session_info(picture: SessionPicture) -> data.SessionInfo:
    """Tell how a session stands."""
    return data.SessionInfo(
        ttl_ms_remaining=picture.ttl_ms_remaining,
        turns=picture.turns,
        kv_bytes=picture.kv_bytes,
        kv_warmth=picture.kv_warmth,
    )


def _some(value: int | None) -> int | UnsetType:
    return UNSET if value is None else value


def encode(value: object) -> bytes:
    """Write an answer as JSON."""
    return msgspec.json.encode(value)
