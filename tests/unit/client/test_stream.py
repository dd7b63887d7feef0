from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.client import AsyncClient, ReconnectPolicy, TaskStream
from orchqueue.client.errors import (
    ConnectFailed,
    NotFound,
    ProtocolBroken,
    ReceiptMismatch,
    StreamBroken,
    StreamMismatch,
    TaskFailed,
)
from orchqueue.client.types import End, ErrorEvent, Event, Metrics, Started, Token
from orchqueue.schema.data import TaskRequest
from tests.unit.client.scripted_server import (
    TASK_ID,
    Asked,
    Reply,
    Script,
    end_data,
    envelope,
    frame,
    json_reply,
    position_of,
    resume_bytes,
    serving,
    started_frame,
    stream_reply,
    transcript,
)

pytestmark = pytest.mark.req("ORCH-4039")
QUICK = ReconnectPolicy(patience_ms=10_000, idle_ms=10_000, first_backoff_ms=1)
TEXTS = ["Why", " is", " the sky", " 蓝色", "? 🙂", " Because."]
WHOLE = "".join(TEXTS)


async def follow(
    script: Script, *, last_event_id: str | None = None, policy: ReconnectPolicy = QUICK
) -> tuple[list[Event], list[Asked]]:
    async with serving(script) as server, AsyncClient(server.url, reconnect=policy) as client:
        async with client.stream(TASK_ID, last_event_id) as stream:
            events = [event async for event in stream]
        return events, server.asked


def text_of(events: list[Event]) -> str:
    return "".join(event.t for event in events if isinstance(event, Token))


@pytest.mark.req("ORCH-4097")
async def test_a_whole_stream_arrives_typed_and_in_order() -> None:
    """Started, tokens, metrics and end come as their types, and the receipt is checked."""
    body = transcript(TEXTS, with_end=False) + b": hb\n\n" + frame("metrics", {"tokens_per_s": 12.5})
    body += frame("end", end_data(WHOLE), f"{position_of(WHOLE)}:end")
    events, asked = await follow(lambda _: stream_reply(body))
    assert isinstance(events[0], Started)
    assert isinstance(events[-2], Metrics)
    assert isinstance(events[-1], End)
    assert text_of(events) == WHOLE
    assert [a.target for a in asked] == [f"/v1/tasks/{TASK_ID}/stream"]
    assert asked[0].headers["accept"] == "text/event-stream"
    assert "last-event-id" not in asked[0].headers


@pytest.mark.req("ORCH-4040", "ORCH-4039")
async def test_a_task_runs_in_one_exchange_and_resumes_like_any_other() -> None:
    """The answer to the post is the stream; once it is cut, the rest is read by position and nothing is posted again."""
    whole = transcript(TEXTS)

    def script(asked: Asked) -> Reply:
        if asked.method == "POST":
            return stream_reply(whole[: whole.index("蓝".encode()) + 1], ending="cut")
        return stream_reply(transcript(TEXTS, after_bytes=resume_bytes(asked)))

    async with serving(script) as server, AsyncClient(server.url, reconnect=QUICK) as client:
        stream = await client.run_at_once(TaskRequest(task_id=TASK_ID, prompt="hi"))
        result = await stream.result()
    assert result.text == WHOLE
    assert [(asked.method, asked.headers["accept"]) for asked in server.asked] == [
        ("POST", "text/event-stream"),
        ("GET", "text/event-stream"),
    ]
    assert server.asked[0].json == {"task_id": TASK_ID, "prompt": "hi"}


@pytest.mark.req("ORCH-4040")
async def test_a_task_that_failed_before_its_stream_is_not_asked_again() -> None:
    """A 503 that names a task tells of its end: it is raised as the task's failure, however patient the client is."""
    failed = json_reply(503, envelope("REPLICA_EXHAUSTED"), {"retry-after": "1", "x-task-id": TASK_ID})
    async with serving(lambda _: failed) as server, AsyncClient(server.url) as client:
        with pytest.raises(TaskFailed, match="REPLICA_EXHAUSTED"):
            await client.run_at_once(TaskRequest(task_id=TASK_ID, prompt="hi"))
    assert len(server.asked) == 1


@pytest.mark.req("ORCH-4227")
async def test_a_refused_post_for_a_stream_is_asked_again_when_the_server_says() -> None:
    """429 is waited out as with any post, and then the stream comes."""
    busy = json_reply(429, envelope("ADMISSION_REJECT", retry_after_ms=2), {"retry-after": "1", "x-backoff-ms": "2"})
    replies = iter([busy, stream_reply(transcript(TEXTS))])
    async with serving(lambda _: next(replies)) as server, AsyncClient(server.url) as client:
        assert (await (await client.run_at_once("hi")).result()).text == WHOLE
    assert len({asked.body for asked in server.asked}) == 1


async def test_a_stream_that_is_never_read_closes_its_connection() -> None:
    """Leaving the block of a stream that came with the post hangs up, read or not."""
    async with (
        serving(lambda _: stream_reply(b": hb\n\n", ending="silence")) as server,
        AsyncClient(server.url) as client,
    ):
        async with await client.run_at_once("hi"):
            pass
        await server.client_left.wait()


async def test_a_cut_inside_a_frame_resumes_after_the_last_whole_token() -> None:
    """A connection cut in the middle of an event is resumed by position, without gap or duplicate."""
    whole = transcript(TEXTS)

    def script(asked: Asked) -> Reply:
        if "last-event-id" not in asked.headers:
            return stream_reply(whole[: whole.index("蓝".encode()) + 1], ending="cut")
        return stream_reply(transcript(TEXTS, after_bytes=resume_bytes(asked)))

    events, asked = await follow(script)
    assert text_of(events) == WHOLE
    assert asked[1].headers["last-event-id"] == position_of("Why is the sky")
    assert sum(isinstance(event, Started) for event in events) == 1


async def test_an_answer_that_ends_early_but_properly_is_resumed_too() -> None:
    """A proxy that closes a stream politely does not end it."""

    def script(asked: Asked) -> Reply:
        have = resume_bytes(asked)
        return stream_reply(transcript(TEXTS, after_bytes=have, with_end=have > 0))

    events, asked = await follow(script)
    assert text_of(events) == WHOLE
    assert isinstance(events[-1], End)
    assert len(asked) == 2


async def test_a_server_that_starts_over_does_no_harm() -> None:
    """Where Last-Event-ID got lost on the way, repeated events are checked and dropped."""
    first = transcript(TEXTS[:3], with_end=False)
    replies = iter([stream_reply(first, ending="cut"), stream_reply(transcript(TEXTS))])
    events, _ = await follow(lambda _: next(replies))
    assert text_of(events) == WHOLE
    assert sum(isinstance(event, Started) for event in events) == 1


async def test_a_cut_before_the_first_token_does_not_ask_for_started_again() -> None:
    """Once `started` was seen the client resumes from its position, and a server that repeats it does no harm."""
    replies = iter([stream_reply(started_frame(), ending="cut"), stream_reply(transcript(TEXTS))])
    events, asked = await follow(lambda _: next(replies))
    assert asked[1].headers["last-event-id"] == "0:00000000"
    assert [type(event) for event in events[:2]] == [Started, Token]
    assert text_of(events) == WHOLE


@pytest.mark.req("ORCH-4312")
async def test_silence_is_a_broken_connection() -> None:
    """When not even heartbeats come, the client hangs up and resumes."""
    quick = ReconnectPolicy(idle_ms=50, first_backoff_ms=1)

    def script(asked: Asked) -> Reply:
        if "last-event-id" not in asked.headers:
            return stream_reply(transcript(TEXTS[:2], with_end=False), ending="silence")
        return stream_reply(transcript(TEXTS, after_bytes=resume_bytes(asked)))

    async with serving(script) as server, AsyncClient(server.url, reconnect=quick) as client:
        stream = client.stream(TASK_ID)
        result = await stream.result()
        await server.client_left.wait()
    assert (result.text, result.verified, stream.reconnects >= 1) == (WHOLE, True, True)  # a late answer is silence too


async def test_a_conflict_on_resuming_is_a_mismatch() -> None:
    """409 means that our text is not the server's: nothing is spliced."""

    def script(asked: Asked) -> Reply:
        if "last-event-id" in asked.headers:
            return json_reply(409, envelope("INVALID_PARAMS", "other bytes", retriable=False))
        return stream_reply(transcript(TEXTS[:2], with_end=False), ending="cut")

    with pytest.raises(StreamMismatch, match="other bytes"):
        await follow(script)


async def test_a_wrong_checksum_is_never_passed_on() -> None:
    """A token whose id does not fit our text raises, and the token is not yielded."""
    bad = frame("token", {"t": "Why", "i": 0}, "3:00000000")
    seen: list[Event] = []

    async def collect(stream: TaskStream) -> None:
        async for event in stream:
            seen.append(event)  # noqa: PERF401 - what came before the failure is what the test is about

    async with (
        serving(lambda _: stream_reply(started_frame() + bad)) as server,
        AsyncClient(server.url) as client,
    ):
        with pytest.raises(StreamMismatch, match="checksum"):
            await collect(client.stream(TASK_ID))
    assert [type(event) for event in seen] == [Started]


@pytest.mark.req("ORCH-4229")
async def test_a_receipt_of_another_text_is_refused() -> None:
    """The digest of the receipt must be that of the text received."""
    body = transcript(TEXTS, with_end=False)
    body += frame("end", end_data(WHOLE, digest="0" * 64), f"{position_of(WHOLE)}:end")
    with pytest.raises(ReceiptMismatch):
        await follow(lambda _: stream_reply(body))


async def test_an_end_that_swallows_text_is_a_mismatch() -> None:
    """An end at another position than our text's is not accepted."""
    body = transcript(TEXTS[:2], with_end=False) + frame("end", end_data(WHOLE), f"{position_of(WHOLE)}:end")
    with pytest.raises(StreamMismatch, match="ended at"):
        await follow(lambda _: stream_reply(body))


async def test_nothing_follows_a_terminal_position() -> None:
    """204 ends the stream at once."""
    events, asked = await follow(lambda _: Reply(204), last_event_id=f"{position_of(WHOLE)}:end")
    assert events == []
    assert asked[0].headers["last-event-id"].endswith(":end")


async def test_a_reader_may_begin_in_the_middle() -> None:
    """A given position is sent, and the rest is checked against it; the digest cannot be."""
    begin = position_of("Why is")

    def script(asked: Asked) -> Reply:
        return stream_reply(transcript(TEXTS, after_bytes=resume_bytes(asked)))

    async with serving(script) as server, AsyncClient(server.url) as client:
        result = await client.stream(TASK_ID, begin).result()
    assert (result.text, result.verified) == (WHOLE.removeprefix("Why is"), False)


@pytest.mark.req("ORCH-4099")
async def test_an_error_event_is_the_last_and_result_raises_it() -> None:
    """The in-stream error is yielded as an event, and `result` turns it into TaskFailed with the text so far."""
    error = envelope("WORKER_RESET", "engine lost", task_id=TASK_ID)
    body = transcript(TEXTS[:2], with_end=False) + frame("error", error, f"{position_of('Why is')}:end")
    events, asked = await follow(lambda _: stream_reply(body))
    assert isinstance(events[-1], ErrorEvent)
    assert len(asked) == 1
    async with serving(lambda _: stream_reply(body)) as server, AsyncClient(server.url) as client:
        with pytest.raises(TaskFailed, match="WORKER_RESET: engine lost") as failed:
            await client.stream(TASK_ID).result()
    assert failed.value.text == "Why is"


async def test_reconnects_are_bounded_and_tell_where_to_go_on() -> None:
    """When patience is used up without news the client gives up and names the position."""
    replies = iter([stream_reply(transcript(TEXTS[:2], with_end=False), ending="cut")])

    def script(_: Asked) -> Reply:
        return next(replies, Reply(ending="no_answer"))

    short = ReconnectPolicy(patience_ms=20, first_backoff_ms=1)
    async with serving(script) as server, AsyncClient(server.url, reconnect=short) as client:
        stream = client.stream(TASK_ID)
        with pytest.raises(StreamBroken, match=r"could not be had again in .* tries, last because") as broken:
            await stream.result()
    assert broken.value.last_event_id == position_of("Why is")


async def test_news_makes_patience_whole_again() -> None:
    """A stream that breaks for longer than the patience, with news each time, goes on."""
    texts = [str(n) for n in range(10)]

    def script(asked: Asked) -> Reply:
        have = resume_bytes(asked)
        last = have + 1 == len(texts)
        return stream_reply(
            transcript(texts[: have + 1], after_bytes=have, with_end=last), ending="finish" if last else "cut"
        )

    events, asked = await follow(script)
    assert text_of(events) == "0123456789"
    assert len(asked) == 10


async def test_a_busy_server_is_asked_again_after_its_hint() -> None:
    """503 and 429 on the stream are waited out."""
    replies = iter(
        [
            json_reply(503, envelope("POOL_UNREADY", retry_after_ms=1), {"retry-after": "1", "x-backoff-ms": "1"}),
            json_reply(429, envelope("ADMISSION_REJECT", retry_after_ms=1), {"retry-after": "1", "x-backoff-ms": "1"}),
            stream_reply(transcript(TEXTS)),
        ]
    )
    events, asked = await follow(lambda _: next(replies))
    assert text_of(events) == WHOLE
    assert len(asked) == 3


async def test_an_unknown_task_is_told_at_once() -> None:
    """404 is not retried and carries the envelope."""
    with pytest.raises(NotFound, match="no such task") as caught:
        await follow(lambda _: json_reply(404, envelope("INVALID_PARAMS", "no such task", retriable=False)))
    assert (caught.value.status, caught.value.code, caught.value.retriable) == (404, "INVALID_PARAMS", False)


async def test_a_server_never_reached_is_told_at_once() -> None:
    """Reconnecting is for streams that stood once; a wrong address is said directly."""
    async with serving(lambda _: Reply()) as server:
        url = server.url
    async with AsyncClient(url) as client:
        with pytest.raises(ConnectFailed, match="nobody listens"):
            await client.stream(TASK_ID).result()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, {"content-type": "text/html"}, b"<p>hello"),
        stream_reply(frame("token", {"t": "x", "i": 0})),
        stream_reply(frame("token", {"t": "x", "i": 0}, "nonsense")),
        stream_reply(frame("token", {"text": "x"}, position_of("x"))),
    ],
)
async def test_what_is_not_our_stream_is_called_so(reply: Reply) -> None:
    """Another content type, a token without or with a foreign id, or other data raise ProtocolBroken."""
    with pytest.raises(ProtocolBroken):
        await follow(lambda _: reply)


def test_a_malformed_position_is_refused_before_anything_is_sent() -> None:
    """The caller's own mistake is a ValueError."""

    async def scenario() -> None:
        async with AsyncClient("http://127.0.0.1:9") as client:
            client.stream(TASK_ID, "twelve")

    with pytest.raises(ValueError, match="BYTES:CRC32"):
        asyncio.run(scenario())


def unreliable(texts: list[str], recut: list[str], plan: list[tuple[int, int]]) -> Callable[[Asked], Reply]:
    """Serve `texts`, sometimes cut as `recut`, each connection dying after so many bytes, in pieces of some size."""
    turns = iter(plan)

    def script(asked: Asked) -> Reply:
        have = resume_bytes(asked)
        dies_after, piece_bytes = next(turns, (1_000_000, 64))
        body = transcript(recut if dies_after % 2 else texts, after_bytes=have)
        ending: Literal["finish", "cut"] = "finish"
        if dies_after < len(body):
            body, ending = body[:dies_after], "cut"
        pieces = (body[i : i + piece_bytes] for i in range(0, len(body), piece_bytes))
        return stream_reply(*pieces, ending=ending)

    return script


@settings(max_examples=60)
@given(
    st.text(alphabet="aé蓝🙂\n ", min_size=1, max_size=24),
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 400)), max_size=7),
)
def test_any_chunking_and_any_cuts_give_the_text_once(
    text: str, cut: list[int], recut: list[int], plan: list[tuple[int, int]]
) -> None:
    """Whatever the pieces, however often it breaks, wherever another run cuts: the exact text arrives once."""

    def split(sizes: list[int]) -> list[str]:
        pieces: list[str] = []
        at = 0
        while at < len(text):
            size = sizes[len(pieces) % len(sizes)]
            pieces.append(text[at : at + size])
            at += size
        return pieces

    async def scenario() -> None:
        patient = ReconnectPolicy(first_backoff_ms=0)
        events, _ = await follow(unreliable(split(cut), split(recut), plan), policy=patient)
        assert text_of(events) == text
        assert sum(isinstance(event, Started) for event in events) == 1
        assert sum(isinstance(event, End) for event in events) == 1

    asyncio.run(scenario())
