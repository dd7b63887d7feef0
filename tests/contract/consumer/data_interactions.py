"""What the client asks of the data plane about tasks and sessions that exist, or do not."""

from __future__ import annotations

import pytest
from pact import match

from orchqueue.client import AsyncClient
from orchqueue.client.errors import NotFound, StreamMismatch
from orchqueue.client.types import End, Metrics, Started, Token
from tests.contract.consumer import shapes
from tests.contract.consumer.recording import Interaction, failing
from tests.contract.consumer.shapes import CORRELATION, OTHER_TASK_ID, SESSION_ID, TASK_ID, TEXTS, WHOLE
from tests.contract.consumer.submission_interactions import SUBMISSIONS
from tests.unit.client.scripted_server import position_of

_READY: dict[str, dict[str, object]] = {"a ready pool": {}}
_TASK = f"/v1/tasks/{TASK_ID}"
_ENDED: dict[str, dict[str, object]] = {"a task that succeeded": {"task_id": TASK_ID, "texts": list(TEXTS)}}


async def _follow(client: AsyncClient) -> None:
    result = await client.stream(TASK_ID).result()
    assert (result.text, result.verified) == (WHOLE, True)
    assert result.started is not None


async def _follow_running(client: AsyncClient) -> None:
    kinds = [type(event) async for event in client.stream(TASK_ID)]
    assert (kinds[0], kinds[-1]) == (Started, End)
    assert {Token, Metrics} <= set(kinds)


async def _resume(client: AsyncClient) -> None:
    result = await client.stream(TASK_ID, position_of(TEXTS[0])).result()
    assert result.text == "".join(TEXTS[1:])


async def _resume_at_end(client: AsyncClient) -> None:
    assert [event async for event in client.stream(TASK_ID, f"{position_of(WHOLE)}:end")] == []


async def _resume_foreign(client: AsyncClient) -> None:
    with pytest.raises(StreamMismatch):
        await client.stream(TASK_ID, "7:00000000").result()


async def _follow_canceled(client: AsyncClient) -> None:
    result = await client.stream(TASK_ID).result()
    assert (result.text, result.end.canceled, result.end.finish_reason) == ("", True, "canceled")


async def _look(client: AsyncClient) -> None:
    task = await client.task(TASK_ID)
    assert (task.state, task.text) == ("succeeded", WHOLE)


async def _list(client: AsyncClient) -> None:
    assert [task.task_id async for task in client.tasks(state="succeeded")] == [TASK_ID]


async def _session(client: AsyncClient) -> None:
    assert (await client.session(SESSION_ID)).turns == 3


STREAMS = (
    Interaction(
        "the stream of a task",
        _ENDED,
        "GET",
        f"{_TASK}/stream",
        200,
        _follow,
        req=("ORCH-2002", "ORCH-2052", "ORCH-4091", "ORCH-4092", "ORCH-4093", "ORCH-4097", "ORCH-4098"),
        request_headers={"Accept": "text/event-stream"},
        headers={**CORRELATION, **shapes.STREAM_HEADERS},
        text=shapes.whole_stream(),
        text_pattern=shapes.STREAM,
    ),
    Interaction(
        "the stream of a task that runs for a while",
        {"a task that is running": {"task_id": TASK_ID, "remaining_ms": 2500}},
        "GET",
        f"{_TASK}/stream",
        200,
        _follow_running,
        req=("ORCH-2002", "ORCH-4095"),
        request_headers={"Accept": "text/event-stream"},
        headers={**CORRELATION, **shapes.STREAM_HEADERS},
        text=shapes.measured_stream(),
        text_pattern=shapes.MEASURED_STREAM,
    ),
    Interaction(
        "the rest of a stream after a known position",
        _ENDED,
        "GET",
        f"{_TASK}/stream",
        200,
        _resume,
        req=("ORCH-4101",),
        request_headers={"Accept": "text/event-stream", "Last-Event-ID": position_of(TEXTS[0])},
        headers={**CORRELATION, **shapes.STREAM_HEADERS},
        text=shapes.rest_of_stream(),
        text_pattern=shapes.REST,
    ),
    Interaction(
        "the rest of a stream after its end",
        _ENDED,
        "GET",
        f"{_TASK}/stream",
        204,
        _resume_at_end,
        req=("ORCH-4103",),
        request_headers={"Last-Event-ID": f"{position_of(WHOLE)}:end"},
        headers={**CORRELATION, "X-Task-Id": TASK_ID},
    ),
    Interaction(
        "the rest of a stream after a position that is not its own",
        _ENDED,
        "GET",
        f"{_TASK}/stream",
        409,
        _resume_foreign,
        req=("ORCH-2006", "ORCH-4102"),
        request_headers={"Last-Event-ID": "7:00000000"},
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "the position is not of this text", retriable=False),
    ),
    Interaction(
        "the stream of a task that was canceled while it waited",
        {"a task that was canceled while it waited": {"task_id": TASK_ID}},
        "GET",
        f"{_TASK}/stream",
        200,
        _follow_canceled,
        req=("ORCH-4111",),
        request_headers={"Accept": "text/event-stream"},
        headers={**CORRELATION, **shapes.STREAM_HEADERS},
        text=shapes.canceled_stream(),
        text_pattern=r'^(?=[\s\S]*event: end\n)(?=[\s\S]*"canceled":\s?true)(?![\s\S]*event: token\n)[\s\S]*$',
    ),
    Interaction(
        "the stream of an unknown task",
        _READY,
        "GET",
        f"/v1/tasks/{OTHER_TASK_ID}/stream",
        404,
        lambda client: _unknown(client.stream(OTHER_TASK_ID).result()),
        req=("ORCH-2002", "ORCH-2006"),
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "no such task", retriable=False),
    ),
)


async def _unknown(call: object) -> None:
    await failing(call, NotFound, "INVALID_PARAMS")  # type: ignore[arg-type]


TASKS = (
    Interaction(
        "a task that succeeded",
        _ENDED,
        "GET",
        _TASK,
        200,
        _look,
        req=("ORCH-4002", "ORCH-4098"),
        headers=CORRELATION,
        body={**shapes.task_summary(), "text": WHOLE},
    ),
    Interaction(
        "an unknown task",
        _READY,
        "GET",
        f"/v1/tasks/{OTHER_TASK_ID}",
        404,
        lambda client: _unknown(client.task(OTHER_TASK_ID)),
        req=("ORCH-4002", "ORCH-2006"),
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "no such task", retriable=False),
    ),
    Interaction(
        "one's own tasks that succeeded",
        _ENDED,
        "GET",
        "/v1/tasks",
        200,
        _list,
        req=("ORCH-4001", "ORCH-4082"),
        query={"state": "succeeded", "limit": "50"},
        headers=CORRELATION,
        body={"tasks": [shapes.task_summary()]},
    ),
    Interaction(
        "the cancel of a waiting task",
        {"a task that waits": {"task_id": TASK_ID}},
        "POST",
        f"{_TASK}/cancel",
        204,
        lambda client: client.cancel(TASK_ID),
        req=("ORCH-2003",),
        headers=CORRELATION,
    ),
    Interaction(
        "the cancel of a task that has ended",
        _ENDED,
        "POST",
        f"{_TASK}/cancel",
        204,
        lambda client: client.cancel(TASK_ID),
        req=("ORCH-4110",),
        headers=CORRELATION,
    ),
    Interaction(
        "the cancel of an unknown task",
        _READY,
        "POST",
        f"/v1/tasks/{OTHER_TASK_ID}/cancel",
        404,
        lambda client: _unknown(client.cancel(OTHER_TASK_ID)),
        req=("ORCH-2003", "ORCH-2006"),
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "no such task", retriable=False),
    ),
)

SESSIONS = (
    Interaction(
        "a session",
        {"a session": {"session_id": SESSION_ID, "turns": 3}},
        "GET",
        f"/v1/sessions/{SESSION_ID}",
        200,
        _session,
        req=("ORCH-2004", "ORCH-3022", "ORCH-4253", "ORCH-4254"),
        headers=CORRELATION,
        body={
            "ttl_ms_remaining": match.integer(421000),
            "turns": 3,
            "kv_bytes": match.integer(7340032),
            "kv_warmth": match.boolean(True),
        },
    ),
    Interaction(
        "an unknown session",
        _READY,
        "GET",
        f"/v1/sessions/{SESSION_ID}",
        404,
        lambda client: _unknown(client.session(SESSION_ID)),
        req=("ORCH-2004", "ORCH-2006"),
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "no such session", retriable=False),
    ),
    Interaction(
        "the deletion of a session",
        {"a session": {"session_id": SESSION_ID, "turns": 3}},
        "DELETE",
        f"/v1/sessions/{SESSION_ID}",
        204,
        lambda client: client.delete_session(SESSION_ID),
        req=("ORCH-2005",),
        headers=CORRELATION,
    ),
    Interaction(
        "the deletion of an unknown session",
        _READY,
        "DELETE",
        f"/v1/sessions/{SESSION_ID}",
        204,
        lambda client: client.delete_session(SESSION_ID),
        req=("ORCH-2005",),
        headers=CORRELATION,
    ),
)

DATA: tuple[Interaction, ...] = (*SUBMISSIONS, *STREAMS, *TASKS, *SESSIONS)
