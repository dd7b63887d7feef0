"""A server that goes away and comes back is waited for, by streams and calls, and nobody notices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.client import NO_RETRY, AsyncClient, ReconnectPolicy, Timeouts
from orchqueue.client.errors import (
    AnswerLost,
    ConnectFailed,
    NotFound,
    Refused,
    ServerFault,
    StreamBroken,
    StreamMismatch,
    TaskFailed,
    Unavailable,
)
from orchqueue.client.patience import Patience
from orchqueue.client.types import End, Event, Started, Token
from tests.unit.client.restarting_server import Address, address
from tests.unit.client.scripted_server import (
    SESSION_ID,
    TASK_ID,
    Asked,
    Reply,
    Script,
    admission,
    envelope,
    frame,
    json_reply,
    position_of,
    resume_bytes,
    serving,
    stream_reply,
    transcript,
)
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4310")
SOON = ReconnectPolicy(first_backoff_ms=1, longest_backoff_ms=5)
SHORT = ReconnectPolicy(patience_ms=30, first_backoff_ms=1, longest_backoff_ms=5)
TEXTS = ["Why", " is", " the sky", " 蓝色", "? 🙂", " Because."]
WHOLE = "".join(TEXTS)
RECOVERING = json_reply(503, envelope("POOL_UNREADY", retry_after_ms=1), {"retry-after": "1", "x-backoff-ms": "1"})


def life(*, texts: int = len(TEXTS), resumed: int | None = None) -> Script:
    """Accept and stream, but cut every stream after so many texts, unless it is resumed (then after `resumed`)."""

    def script(asked: Asked) -> Reply:
        if asked.method == "POST":
            return json_reply(202, admission(str(asked.json["task_id"])))
        have = resume_bytes(asked)
        end = texts if resumed is None or not have else resumed
        whole = end == len(TEXTS)
        return stream_reply(
            transcript(TEXTS[:end], after_bytes=have, with_end=whole), ending="finish" if whole else "cut"
        )

    return script


def then(*replies: Reply | None, last: Script) -> Script:
    """Give these answers first; None leaves one to `last`."""
    left = iter(replies)
    return lambda asked: next(left, None) or last(asked)


async def test_a_stream_outlives_the_death_and_the_recovery_of_its_server() -> None:
    """Cut, refused for a while, 503 while it recovers, served: one stream, each byte once, and one post."""
    breaks: list[tuple[type[Exception], int]] = []
    refused = asyncio.Event()

    def on_break(failure: Exception, wait_ms: int) -> None:
        breaks.append((type(failure), wait_ms))
        if len(breaks) > 4:
            refused.set()

    async with address() as server, AsyncClient(server.url, reconnect=SOON, on_break=on_break) as client:
        await server.live(life(texts=3))
        stream = await client.run("Why?")
        events = [await anext(stream) for _ in range(4)]
        await server.die()
        rest = asyncio.create_task(_collect(stream))
        await refused.wait()
        await server.live(then(RECOVERING, RECOVERING, last=life()))
        events += await rest
        asked = server.asked
    assert [type(event) for event in events] == [Started, *[Token] * 6, End]
    assert "".join(event.t for event in events if isinstance(event, Token)) == WHOLE
    assert stream.is_verified
    assert [one.method for one in asked].count("POST") == 1
    assert {one.headers["last-event-id"] for one in asked[2:]} == {position_of("Why is the sky")}
    kinds = [kind for kind, _ in breaks]
    assert kinds.count(Unavailable) == 2
    assert ConnectFailed in kinds
    assert all(wait_ms >= 1 for kind, wait_ms in breaks if kind is Unavailable)


async def _collect(events: object) -> list[Event]:
    return [event async for event in events]  # type: ignore[attr-defined]


@pytest.mark.req("ORCH-4228")
async def test_a_post_that_a_death_swallowed_is_sent_again_and_attached_to() -> None:
    """The answer is lost, the server is gone, then there again: the same bytes are posted, and the stream is whole."""
    gone = asyncio.Event()
    async with address() as server:

        def on_break(failure: Exception, _: int) -> None:
            if type(failure) is ConnectFailed:
                gone.set()

        await server.live(lambda _: Reply(ending="no_answer"))
        async with AsyncClient(server.url, retry=NO_RETRY, reconnect=SOON, on_break=on_break) as client:
            running = asyncio.create_task(_run(client))
            await until_async(lambda: server.asked)
            await server.die()
            await gone.wait()
            await server.live(life())
            assert await running == WHOLE
        posts = [asked for asked in server.asked if asked.method == "POST"]
    assert len(posts) > 1
    assert len({asked.body for asked in posts}) == 1


async def _run(client: AsyncClient) -> str:
    return (await (await client.run("Why?")).result()).text


@pytest.mark.req("ORCH-4228", "ORCH-4312")
async def test_a_connection_that_falls_silent_is_not_waited_for_for_ever() -> None:
    """A half-open connection answers neither the post nor the stream: both are begun anew on another one."""
    silent = {
        "POST": Reply(pieces=[b"{"], ending="silence"),
        "GET": stream_reply(transcript(TEXTS[:2], with_end=False), ending="silence"),
    }
    # By what is asked and not by its number: on a busy machine an answer that is given may be too late as well.
    impatient, timeouts = ReconnectPolicy(idle_ms=100, first_backoff_ms=1), Timeouts(answer_ms=100)
    async with (
        serving(lambda asked: silent.pop(asked.method, None) or life()(asked)) as server,
        AsyncClient(server.url, reconnect=impatient, timeouts=timeouts) as client,
    ):
        assert await _run(client) == WHOLE
    methods = [asked.method for asked in server.asked]
    assert methods.count("POST") > 1
    assert methods.count("GET") > 1
    assert len({asked.body for asked in server.asked if asked.method == "POST"}) == 1


CALLS: dict[str, Callable[[AsyncClient], Awaitable[object]]] = {
    "task": lambda client: client.task(TASK_ID),
    "cancel": lambda client: client.cancel(TASK_ID),
    "explain": lambda client: client.explain(TASK_ID),
    "tasks": lambda client: client.tasks_page(),
    "usage": lambda client: client.usage(),
    "session": lambda client: client.session(SESSION_ID),
    "delete_session": lambda client: client.delete_session(SESSION_ID),
}


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_about_tasks_waits_for_a_restart(name: str) -> None:
    """Lost answers, refused connections, a proxy that speaks alone and 503 are waited out; the last answer counts."""
    down = asyncio.Event()
    unknown = json_reply(404, envelope("INVALID_PARAMS", "unknown", retriable=False))
    bad_gateway = Reply(502, {"content-type": "text/html"}, b"<h1>Bad gateway")
    told: list[Exception] = []

    def on_break(failure: Exception, _: int) -> None:
        told.append(failure)
        if type(failure) is ConnectFailed:
            down.set()

    async with address() as server, AsyncClient(server.url, reconnect=SOON, on_break=on_break) as client:
        await server.live(life())
        await client.submit("hi")
        await server.die()
        call = asyncio.ensure_future(CALLS[name](client))
        await down.wait()
        replies = (Reply(ending="no_answer"), bad_gateway, RECOVERING)
        await server.live(then(*replies, last=lambda _: unknown))
        with pytest.raises(NotFound):
            await call
    assert [type(failure) for failure in told[-3:]] == [AnswerLost, ServerFault, Unavailable]


async def test_calls_give_up_when_patience_is_over() -> None:
    """A server that stays away is told as what it is."""
    async with address() as server, AsyncClient(server.url, reconnect=SHORT) as client:
        await server.live(life(texts=2))
        stream = await client.run("hi")
        await anext(stream)
        await server.die()
        with pytest.raises(ConnectFailed, match="nobody listens"):
            await client.cancel(TASK_ID)
        with pytest.raises(StreamBroken, match="nobody listens") as broken:
            await stream.result()
    assert broken.value.last_event_id == position_of("Why is")
    async with AsyncClient(server.url, reconnect=SOON) as client:
        with pytest.raises(ConnectFailed, match="nobody listens"):
            await client.task(TASK_ID)


async def test_patience_counts_tries_in_vain_and_not_the_time_of_a_connection() -> None:
    """Waits and failed tries use patience up, what stands does not, and news makes it whole again."""
    policy = ReconnectPolicy(patience_ms=1_000, first_backoff_ms=100, longest_backoff_ms=400)
    patience = Patience(policy, random.Random(3))
    waits: list[int] = []
    while (wait_ms := patience.wait_ms(None)) is not None:
        waits.append(wait_ms)
    assert 3 <= len(waits) <= 6
    assert waits[0] <= 20
    assert all(50 <= wait_ms <= 600 for wait_ms in waits[1:])
    assert sum(waits) == patience.tried_ms < 1_000
    patience.renew()
    assert patience.wait_ms(900) in range(900, 1_126)
    assert patience.wait_ms(900) is None
    patience.renew()
    assert patience.wait_ms(2_000) is None, "a hint beyond the patience is not waited for"
    assert Patience(ReconnectPolicy(patience_ms=0), random.Random(3)).wait_ms(None) is None


async def test_a_task_that_is_gone_is_told_at_once() -> None:
    """404 after a restart is the server's word: it kept nothing, and waiting would not bring it back."""
    unknown = json_reply(404, envelope("INVALID_PARAMS", "unknown", retriable=False))
    async with address() as server, AsyncClient(server.url, reconnect=SOON) as client:
        await server.live(life(texts=2))
        stream = await client.run("hi")
        await anext(stream)
        await server.die()
        await server.live(lambda _: unknown)
        with pytest.raises(NotFound, match="unknown"):
            await stream.result()


@pytest.mark.req("ORCH-4099")
async def test_worker_reset_is_typed_after_a_restart_too() -> None:
    """An error event ends the stream with its code, also for a reader who has more text than the server kept."""
    error = envelope("WORKER_RESET", "the text differs", task_id=TASK_ID)
    for kept in ("Why", "Why is the sky"):
        failed = stream_reply(frame("error", error, f"{position_of(kept)}:end"))
        replies = then(stream_reply(transcript(TEXTS[:3], with_end=False), ending="cut"), last=lambda _, f=failed: f)  # type: ignore[misc]
        async with serving(replies) as server, AsyncClient(server.url, reconnect=SOON) as client:
            with pytest.raises(TaskFailed, match="differs") as caught:
                await client.stream(TASK_ID).result()
        assert (caught.value.code, caught.value.retriable, caught.value.text) == (
            "WORKER_RESET",
            True,
            "Why is the sky",
        )


async def test_an_error_that_swallows_text_is_a_mismatch() -> None:
    """An error that stands behind text which never came leaves a byte out, so it is not passed on."""
    error = frame("error", envelope("WORKER_RESET", task_id=TASK_ID), f"{position_of(WHOLE)}:end")
    body = transcript(TEXTS[:2], with_end=False) + error
    async with serving(lambda _: stream_reply(body)) as server, AsyncClient(server.url, reconnect=SOON) as client:
        with pytest.raises(StreamMismatch, match="ended at"):
            await client.stream(TASK_ID).result()


@pytest.mark.req("ORCH-4228")
async def test_a_server_that_is_starting_cannot_tell_yet_what_became_of_a_lost_post() -> None:
    """503 after a lost answer is waited out even without patience for refusals; before any loss it is a refusal."""
    script = then(Reply(ending="no_answer"), RECOVERING, RECOVERING, last=life())
    async with serving(script) as server, AsyncClient(server.url, retry=NO_RETRY, reconnect=SOON) as client:
        await client.submit("hi")
    assert len(server.asked) == 4
    async with serving(lambda _: RECOVERING) as server, AsyncClient(server.url, retry=NO_RETRY) as client:
        with pytest.raises(Unavailable):
            await client.submit("hi")
    assert len(server.asked) == 1


async def test_a_refusal_after_a_lost_post_is_still_the_callers_to_see() -> None:
    """Patience with an absent server does not change patience with a refusal."""
    busy = json_reply(429, envelope("ADMISSION_REJECT"), {"x-backoff-ms": "1"})
    script = then(Reply(ending="no_answer"), last=lambda _: busy)
    async with serving(script) as server, AsyncClient(server.url, retry=NO_RETRY, reconnect=SOON) as client:
        with pytest.raises(Refused):
            await client.submit("hi")
    assert len(server.asked) == 2


MISFORTUNES = st.lists(
    st.sampled_from(["cut", "no_answer", "503", "429", "500", "restart", "polite"]), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None)
@given(MISFORTUNES, st.lists(st.integers(0, 900), min_size=8, max_size=8))
def test_any_order_of_misfortunes_gives_one_stream(misfortunes: list[str], cuts: list[int]) -> None:
    """Own disconnects, deaths, refusals and recoveries in any order: the iterator sees one uninterrupted stream."""

    async def scenario() -> None:
        async with address() as server:
            restart = asyncio.Event()
            left = list(zip(misfortunes, cuts, strict=False))

            def script(asked: Asked) -> Reply:
                if not left:
                    return life()(asked)
                kind, cut = left.pop(0)
                if kind in ("503", "429", "500"):
                    return json_reply(int(kind), envelope("POOL_UNREADY"), {"x-backoff-ms": "1"})
                body = transcript(TEXTS, after_bytes=resume_bytes(asked))[:cut]
                if kind == "restart":
                    restart.set()
                if kind in ("no_answer", "restart"):
                    return Reply(ending="no_answer")
                return stream_reply(body, ending="finish" if kind == "polite" else "cut")

            await server.live(life())
            async with AsyncClient(server.url, reconnect=SOON) as client:
                stream = client.stream((await client.submit("Why?")).task_id)
                await server.die()
                await server.live(script)
                reading = asyncio.create_task(_collect(stream))
                restarting = asyncio.create_task(_restart_whenever(server, script, restart))
                try:
                    events = await reading
                finally:
                    restarting.cancel()
                    await asyncio.gather(restarting, return_exceptions=True)
            assert "".join(event.t for event in events if isinstance(event, Token)) == WHOLE
            assert sum(isinstance(event, Started) for event in events) == 1
            assert isinstance(events[-1], End)
            assert stream.is_verified

    asyncio.run(scenario())


async def _restart_whenever(server: Address, script: Script, asked_for: asyncio.Event) -> None:
    while True:
        await asked_for.wait()
        asked_for.clear()
        await server.die()
        await server.live(script)
