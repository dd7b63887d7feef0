"""What the client learns of tasks that were accepted and then failed: as the answer to a post, or in the stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import pytest
from pact import match

from orchqueue.client import AsyncClient, TaskRequest
from orchqueue.client.errors import TaskFailed
from tests.contract.consumer import shapes
from tests.contract.consumer.insight_interactions import CANDIDATE, TIMELINE
from tests.contract.consumer.recording import Interaction, Use
from tests.contract.consumer.shapes import CORRELATION, POOL_ID, TASK_ID, TEXTS
from tests.contract.consumer.submission_interactions import (
    SMALL,
    SMALL_BATCH,
    SMALL_BATCH_BODY,
    STREAM_WANTED,
    submission,
)

_STREAM = f"/v1/tasks/{TASK_ID}/stream"
_DROPPED: dict[str, dict[str, object]] = {"a task that was dropped for another": {"task_id": TASK_ID}}
_FAILED_ID = {"X-Task-Id": TASK_ID}
_IN_PART = TEXTS[:2]


def _failed_before_text(code: str) -> dict[str, dict[str, object]]:
    return {"a task that failed before its first token": {"task_id": TASK_ID, "code": code}}


def _failed_after_text(code: str) -> dict[str, dict[str, object]]:
    return {"a task that failed after some text": {"task_id": TASK_ID, "code": code, "texts": list(_IN_PART)}}


def _ends_with(code: str, text: str, read: Callable[[AsyncClient], Awaitable[object]]) -> Use:
    async def use(client: AsyncClient) -> None:
        with pytest.raises(TaskFailed) as failed:
            await read(client)
        assert (failed.value.envelope.code, failed.value.text) == (code, text)
        assert failed.value.envelope.task_id == TASK_ID

    return use


def _followed(client: AsyncClient) -> Awaitable[object]:
    return client.stream(TASK_ID).result()


def _posted(work: TaskRequest) -> Callable[[AsyncClient], Awaitable[object]]:
    async def read(client: AsyncClient) -> object:
        return await (await client.run_at_once(work)).result()

    return read


def _post_of_failed(
    description: str, code: str, status: int, states: Mapping[str, Mapping[str, object]], **more: object
) -> Interaction:
    comes_back = status in (429, 503)
    headers = {**CORRELATION, **_FAILED_ID, **(shapes.BACKOFF if comes_back else {})}
    wait = {"retry_after_ms": match.integer(2400)} if comes_back else {}
    parts: dict[str, object] = {
        "req": ("ORCH-2006", "ORCH-4040"),
        "request_headers": STREAM_WANTED,
        "use": _ends_with(code, "", _posted(SMALL)),
        "retriable": True,
        **more,
    }
    retriable = parts.pop("retriable")
    body = shapes.envelope(code, "it failed before its first token", retriable=True, task_id=TASK_ID, **wait)
    return submission(
        description,
        {name: dict(parameters) for name, parameters in states.items()},
        status=status,
        headers=headers,
        body={**body, "retriable": retriable},
        **parts,
    )


def _stream_of_failed(
    description: str, code: str, states: dict[str, dict[str, object]], texts: tuple[str, ...], message: str, *req: str
) -> Interaction:
    return Interaction(
        description,
        states,
        "GET",
        _STREAM,
        200,
        _ends_with(code, "".join(texts), _followed),
        req=("ORCH-4099", "ORCH-2006", *req),
        request_headers={"Accept": "text/event-stream"},
        headers={**CORRELATION, **shapes.STREAM_HEADERS},
        text=shapes.failed_stream(code, message, texts),
        text_pattern=(shapes.FAILED_AFTER_TEXT if texts else shapes.FAILED_WITHOUT_TEXT).replace("{code}", code),
    )


POSTS = (
    _post_of_failed(
        "a post, for its stream, of a task that took too long to begin",
        "DECODE_TIMEOUT",
        500,
        _failed_before_text("DECODE_TIMEOUT"),
    ),
    _post_of_failed(
        "a post, for its stream, of a task that no replica survived",
        "WORKER_RESET",
        500,
        _failed_before_text("WORKER_RESET"),
        retriable=match.boolean(False),
    ),
    _post_of_failed(
        "a post, for its stream, of a task that was tried on every replica",
        "REPLICA_EXHAUSTED",
        503,
        _failed_before_text("REPLICA_EXHAUSTED"),
    ),
    _post_of_failed(
        "a post, for its stream, of a task whose pool went away",
        "POOL_UNAVAILABLE",
        503,
        _failed_before_text("POOL_UNAVAILABLE"),
    ),
    _post_of_failed(
        "a post, for its stream, of a task that was dropped for another",
        "QUEUE_FULL_DROP_LRU",
        429,
        _DROPPED,
        request_body=SMALL_BATCH_BODY,
        use=_ends_with("QUEUE_FULL_DROP_LRU", "", _posted(SMALL_BATCH)),
    ),
)

STREAMS = (
    _stream_of_failed(
        "the stream of a task whose engine was lost",
        "WORKER_RESET",
        _failed_after_text("WORKER_RESET"),
        _IN_PART,
        "the engine was lost and the stream could not be continued",
        "ORCH-4177",
    ),
    _stream_of_failed(
        "the stream of a task that took too long",
        "DECODE_TIMEOUT",
        _failed_after_text("DECODE_TIMEOUT"),
        _IN_PART,
        "no token within idle_ms 5000",
        "ORCH-3016",
    ),
    _stream_of_failed(
        "the stream of a task that was dropped for another",
        "QUEUE_FULL_DROP_LRU",
        _DROPPED,
        (),
        "it was dropped for a newer task",
        "ORCH-3007",
    ),
    _stream_of_failed(
        "the stream of a task that was tried on every replica",
        "REPLICA_EXHAUSTED",
        _failed_before_text("REPLICA_EXHAUSTED"),
        (),
        "every replica was tried for this task",
    ),
)


async def _look_at_failed(client: AsyncClient) -> None:
    task = await client.task(TASK_ID)
    assert task.error
    assert (task.state, task.text, task.error.code) == ("failed", "", "DECODE_TIMEOUT")


async def _explain_refused(client: AsyncClient) -> None:
    found = await client.explain(TASK_ID)
    assert found.outcome
    assert (found.state, found.outcome.name, found.outcome.status) == ("refused", "rejected_full", 429)
    assert found.outcome.policy_label == "reject"


LOOKS = (
    Interaction(
        "the state of a task that failed",
        _failed_before_text("DECODE_TIMEOUT"),
        "GET",
        f"/v1/tasks/{TASK_ID}",
        200,
        _look_at_failed,
        req=("ORCH-2006", "ORCH-4002"),
        headers=CORRELATION,
        body={
            "task_id": TASK_ID,
            "state": "failed",
            "priority": "interactive",
            "pool_id": POOL_ID,
            "created_at_ms": match.integer(1764000000000),
            "ended_at_ms": match.integer(1764000002620),
            "seed": match.integer(77),
            "determinism": shapes.one_of("strict", "best_effort"),
            "sampler_profile_version": match.like("v1"),
            "tokens_out": 0,
            "text": "",
            "error": shapes.envelope("DECODE_TIMEOUT", "it took too long", retriable=True, task_id=TASK_ID),
        },
    ),
    Interaction(
        "why a task was refused",
        {"a task that was refused": {"task_id": TASK_ID}},
        "GET",
        f"/v1/tasks/{TASK_ID}/explain",
        200,
        _explain_refused,
        req=("ORCH-3006", "ORCH-4087"),
        headers=CORRELATION,
        body={
            "task_id": TASK_ID,
            "state": "refused",
            "story": match.each_like("It was refused because the queue was full.", min=1),
            "pool_id": POOL_ID,
            "candidates": match.each_like(CANDIDATE, min=1),
            "attempts": [],
            "attempts_total": 0,
            "timers": [],
            "timeline": TIMELINE,
            "complete": True,
            "outcome": {
                "name": "rejected_full",
                "code": "ADMISSION_REJECT",
                "status": 429,
                "retriable": True,
                "message": match.like("the queue is full"),
                "at_ms": match.integer(1764000000000),
                "retry_after_ms": match.integer(2400),
                "policy_label": "reject",
            },
        },
    ),
)

FAILURES: tuple[Interaction, ...] = (*POSTS, *STREAMS, *LOOKS)
