from __future__ import annotations

import random

import pytest

from orchqueue.client import NO_RETRY, AsyncClient, ReconnectPolicy, RetryPolicy
from orchqueue.client.errors import (
    AnswerLost,
    ApiError,
    BadSetting,
    Conflict,
    ConnectFailed,
    Forbidden,
    InvalidRequest,
    ProtocolBroken,
    Refused,
    ServerFault,
    Unauthorized,
    Unavailable,
)
from orchqueue.schema.data import Message, TaskRequest
from tests.unit.client.scripted_server import (
    SESSION_ID,
    TASK_ID,
    Asked,
    Reply,
    admission,
    envelope,
    json_reply,
    serving,
    stream_reply,
    transcript,
)

QUICK = RetryPolicy(max_wait_ms=10_000, first_backoff_ms=1)
SOON = ReconnectPolicy(first_backoff_ms=1)
ACCEPTED = json_reply(202, admission())
BUSY = json_reply(
    429,
    envelope("ADMISSION_REJECT", "the queue is full", policy_label="reject", retry_after_ms=2),
    {"retry-after": "1", "x-backoff-ms": "2"},
)


@pytest.mark.req("ORCH-4228")
async def test_a_prompt_a_chat_and_a_request_are_posted_as_the_contract_says() -> None:
    """What is left out is not sent, and every body carries an id made here unless it has one."""
    async with serving(lambda _: ACCEPTED) as server, AsyncClient(server.url, "k-1") as client:
        promise = await client.submit("hi")
        await client.submit([Message(role="user", content="hi")])
        await client.submit(TaskRequest(prompt="hi", task_id=TASK_ID, max_tokens=5))
    prompt, chat, full = (asked.json for asked in server.asked)
    assert prompt.keys() == {"task_id", "prompt"}
    assert chat["messages"] == [{"role": "user", "content": "hi"}]
    assert prompt["task_id"] != chat["task_id"]
    assert full == {"task_id": TASK_ID, "prompt": "hi", "max_tokens": 5}
    assert (promise.queue_position, promise.predicted_start_ms, promise.seed) == (3, 1840, 1001)
    assert all(asked.headers["authorization"] == "Bearer k-1" for asked in server.asked)
    assert all(asked.headers["content-type"] == "application/json" for asked in server.asked)


@pytest.mark.req("ORCH-4227")
async def test_a_refused_task_is_asked_again_under_the_same_id() -> None:
    """429 and 503 are waited out, the listener is told, and the body stays byte for byte the same."""
    unready = json_reply(503, envelope("POOL_UNREADY", retry_after_ms=3), {"retry-after": "1", "x-backoff-ms": "3"})
    replies = iter([BUSY, unready, ACCEPTED])
    told: list[tuple[int, int | None, int]] = []
    async with serving(lambda _: next(replies)) as server, AsyncClient(server.url, retry=QUICK) as client:
        await client.submit("hi", on_refusal=lambda e, wait_ms: told.append((e.status, e.retry_after_ms, wait_ms)))
    assert len({asked.body for asked in server.asked}) == 1
    assert [(status, hint) for status, hint, _ in told] == [(429, 2), (503, 3)]
    assert all(hint is not None and hint <= wait_ms <= hint * 1.25 for _, hint, wait_ms in told)


@pytest.mark.req("ORCH-4227")
async def test_without_patience_the_refusal_is_told_at_once_with_its_numbers() -> None:
    """NO_RETRY asks once, and the exception carries the whole envelope."""
    async with serving(lambda _: BUSY) as server, AsyncClient(server.url) as client:
        with pytest.raises(Refused, match="the queue is full") as refused:
            await client.submit("hi", retry=NO_RETRY)
    error = refused.value
    assert (error.code, error.status, error.retriable) == ("ADMISSION_REJECT", 429, True)
    assert (error.retry_after_ms, error.policy_label, error.correlation_id) == (2, "reject", "c-1")
    assert len(server.asked) == 1


@pytest.mark.req("ORCH-4227")
async def test_patience_ends_before_a_wait_that_is_too_long() -> None:
    """A hint beyond the policy's limit is not waited for."""
    late = json_reply(503, envelope("POOL_UNAVAILABLE"), {"retry-after": "3600"})
    async with serving(lambda _: late) as server, AsyncClient(server.url, retry=QUICK) as client:
        with pytest.raises(Unavailable) as refused:
            await client.submit("hi")
    assert refused.value.retry_after_ms == 3_600_000
    assert len(server.asked) == 1


@pytest.mark.req("ORCH-4228")
async def test_a_lost_answer_is_asked_for_again_under_the_same_id() -> None:
    """When the connection dies after the request, the same request is repeated, within the patience."""
    replies = iter([Reply(ending="no_answer"), Reply(pieces=[b"{"], ending="cut"), ACCEPTED])
    async with serving(lambda _: next(replies)) as server, AsyncClient(server.url, reconnect=SOON) as client:
        await client.submit("hi", retry=NO_RETRY)
    assert len(server.asked) == 3
    assert len({asked.body for asked in server.asked}) == 1
    async with (
        serving(lambda _: Reply(ending="no_answer")) as server,
        AsyncClient(server.url, reconnect=SOON) as client,
    ):
        with pytest.raises(AnswerLost, match="https://"):
            await client.cancel(TASK_ID)
    assert len(server.asked) == 4, "where nobody ever answered, a few tries must do"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidRequest), (409, Conflict), (413, InvalidRequest), (415, InvalidRequest), (500, ServerFault)],
)
async def test_each_status_has_its_exception(status: int, kind: type[ApiError]) -> None:
    """A status maps to one class, which carries code and faults."""
    faults = [{"pointer": "/max_tokens", "message": "must be >= 1, got 0"}]
    body = envelope("INVALID_PARAMS", "1 fault", retriable=False, faults=faults)
    async with serving(lambda _: json_reply(status, body)) as server, AsyncClient(server.url) as client:
        with pytest.raises(kind) as caught:
            await client.submit("hi")
    assert type(caught.value) is kind
    assert [(fault.pointer, fault.message) for fault in caught.value.faults] == [("/max_tokens", "must be >= 1, got 0")]


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden)])
async def test_credentials_refused_have_no_code(status: int, kind: type[ApiError]) -> None:
    """401 and 403 have their own body, and the message says what to do."""
    body = {"message": "no", "correlation_id": "c-1"}
    async with serving(lambda _: json_reply(status, body)) as server, AsyncClient(server.url) as client:
        with pytest.raises(kind, match=r"no \((give a key|the key lacks)") as caught:
            await client.task(TASK_ID)
    assert (caught.value.code, caught.value.retriable, caught.value.correlation_id) == (None, False, "c-1")


async def test_answers_of_others_are_told_apart() -> None:
    """A proxy's error page, a redirect and a foreign success are not taken for ours."""
    html = {"content-type": "text/html"}
    page = Reply(502, html, b"<h1>Bad gateway")
    async with serving(lambda _: page) as server, AsyncClient(server.url) as client:
        with pytest.raises(ServerFault, match="a proxy in between"):
            await client.task(TASK_ID)
    moved = Reply(301, {"location": "https://elsewhere/"})
    async with serving(lambda _: moved) as server, AsyncClient(server.url) as client:
        with pytest.raises(ProtocolBroken, match="to https://elsewhere/"):
            await client.task(TASK_ID)
    async with serving(lambda _: Reply(200, html, b"hello")) as server, AsyncClient(server.url) as client:
        with pytest.raises(ProtocolBroken, match="Is it an orchestratord"):
            await client.task(TASK_ID)


@pytest.mark.req("ORCH-4283")
async def test_tasks_are_fetched_page_by_page() -> None:
    """The iterator follows next_cursor with the same filters until it is absent."""

    def page(number: int, **more: str) -> Reply:
        task = {
            "task_id": f"0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e{number:02}",
            "state": "running",
            "priority": "batch",
            "pool_id": "default",
            "created_at_ms": 1764000000000,
            "seed": 1001,
            "determinism": "strict",
            "sampler_profile_version": "v1",
            "tokens_out": 0,
        }
        return json_reply(200, {"tasks": [task], **more})

    replies = iter([page(1, next_cursor="n-2"), page(2)])
    async with serving(lambda _: next(replies)) as server, AsyncClient(server.url) as client:
        ids = [task.task_id[-2:] async for task in client.tasks(state="running", priority="batch", page_size=1)]
    assert ids == ["01", "02"]
    assert [asked.target for asked in server.asked] == [
        "/v1/tasks?state=running&priority=batch&limit=1",
        "/v1/tasks?state=running&priority=batch&limit=1&cursor=n-2",
    ]


@pytest.mark.req("ORCH-4283")
async def test_cancel_and_sessions_use_their_paths() -> None:
    """Ids are quoted, so that a strange one cannot reach another path."""
    info = {"ttl_ms_remaining": 421000, "turns": 3, "kv_bytes": 7340032, "kv_warmth": True}

    def script(asked: Asked) -> Reply:
        return json_reply(200, info) if asked.method == "GET" else Reply(204)

    async with serving(script) as server, AsyncClient(server.url) as client:
        await client.cancel("a/../b?c")
        assert (await client.session(SESSION_ID)).turns == 3
        await client.delete_session(SESSION_ID)
    assert [(asked.method, asked.target) for asked in server.asked] == [
        ("POST", "/v1/tasks/a%2F..%2Fb%3Fc/cancel"),
        ("GET", f"/v1/sessions/{SESSION_ID}"),
        ("DELETE", f"/v1/sessions/{SESSION_ID}"),
    ]


@pytest.mark.req("ORCH-4283")
async def test_run_is_submit_and_stream() -> None:
    """One call posts and follows; the promise is on the stream."""

    def script(asked: Asked) -> Reply:
        return ACCEPTED if asked.method == "POST" else stream_reply(transcript(["It", " scatters."]))

    async with serving(script) as server, AsyncClient(server.url) as client:
        stream = await client.run("Why is the sky blue?")
        assert stream.admission is not None
        result = await stream.result()
    assert (result.text, result.verified, result.end.tokens_out) == ("It scatters.", True, 7)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:8080", "http://HOST:PORT"),
        ("ftp://host", "http://HOST:PORT"),
        ("http://", "http://HOST:PORT"),
        ("http://user:pw@host", "leave them out"),
        ("http://host/?q=1", "leave them out"),
        ("http://host:99999", "http://HOST:PORT"),
    ],
)
def test_an_address_that_cannot_work_is_explained(url: str, why: str) -> None:
    """The message shows the right form and never repeats a password."""
    with pytest.raises(BadSetting, match=why) as caught:
        AsyncClient(url)
    assert "pw" not in str(caught.value)


def test_a_key_with_a_line_end_is_explained_without_showing_it() -> None:
    """A copied line end in a key is named; the key is not."""
    with pytest.raises(BadSetting, match="line end") as caught:
        AsyncClient("http://127.0.0.1:8080", "secret-key\n")
    assert "secret" not in str(caught.value)
    with pytest.raises(BadSetting, match=r"no-such\.pem"):
        AsyncClient("https://127.0.0.1", ca_file="no-such.pem")


async def test_nobody_listening_and_plain_http_behind_https_are_explained() -> None:
    """Connection failures say what to try."""
    async with serving(lambda _: ACCEPTED) as server, AsyncClient(server.url.replace("http:", "https:")) as client:
        with pytest.raises(ConnectFailed, match="does not speak TLS; try http:"):
            await client.task(TASK_ID)
    async with AsyncClient(server.url) as client:
        with pytest.raises(ConnectFailed, match=r"nobody listens at .*orchestratord serve"):
            await client.submit("hi")


@pytest.mark.req("ORCH-4227")
def test_waits_are_spread_but_never_shorter_than_the_hint() -> None:
    """Jitter only adds, the backoff doubles, and the limit holds."""
    policy = RetryPolicy(max_wait_ms=1_000)
    waits = [policy.wait_ms(0, 400, 0, random.Random(seed)) for seed in range(50)]
    assert all(wait is not None and 400 <= wait <= 500 for wait in waits)
    assert len(set(waits)) > 10
    assert policy.wait_ms(0, 400, 700, random.Random(1)) is None
    assert policy.wait_ms(1, None, 0, random.Random(1)) in range(500, 626)
