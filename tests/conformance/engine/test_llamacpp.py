"""What is llama.cpp's own: slots that are hidden or late, templates that refuse, and what comes in one read."""

import asyncio

import pytest

from orchqueue.adapters.engines.attempt import EngineAttempt
from orchqueue.adapters.engines.conformance.listening import begin, decode
from orchqueue.adapters.engines.connection import parse_endpoint, request
from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.core.request import Message, Sampling, TaskSpec
from orchqueue.ports.errors import EngineError
from tests.conformance.engine.conftest import StartSimulated
from tests.waiting import until_async

SPEC = TaskSpec(prompt="Tell me", seed=3, max_tokens=60, sampling=Sampling(ignore_eos=True))
LONG = TaskSpec(prompt="Tell me", seed=3, max_tokens=2000, sampling=Sampling(ignore_eos=True))


@pytest.fixture
def engine() -> str:
    """Simulate llama.cpp."""
    return "llamacpp"


async def test_a_server_without_slots_is_given_time(simulate: StartSimulated) -> None:
    """Where slots are hidden an abort still closes, and the self-test proves nothing."""
    engine = await simulate("--faults", '{"hide_slots": true}')
    run = begin(engine.replica(), LONG, on_first=lambda handle: handle.abort())
    await run.closed_event.wait()
    facts = await engine.replica().self_test()
    assert not facts.strict_proven
    assert "slots" in facts.selftest_note


async def test_a_template_that_refuses_is_the_callers_fault(simulate: StartSimulated) -> None:
    """A chat that the template does not take is rejected, and cannot be counted."""
    engine = await simulate("--faults", '{"template_fails": true}')
    spec = TaskSpec(messages=(Message("user", "a"), Message("user", "b")), seed=1)
    run = await decode(engine.replica(), spec)
    assert run.failure is not None
    assert run.failure[0] == "rejected"
    with pytest.raises(EngineError, match="alternate"):
        await engine.replica().count_prompt(spec)


async def test_answers_are_bounded(simulate: StartSimulated) -> None:
    """A plain request to a streaming route fails instead of waiting for ever."""
    engine = await simulate()
    with pytest.raises(EngineError, match="event stream"):
        await request(parse_endpoint(engine.url), "POST", "/completion", b'{"prompt":"x","n_predict":3}')


@pytest.mark.req("ORCH-3017", "ORCH-4213")
async def test_a_request_on_its_way_to_a_slot_is_waited_for(simulate: StartSimulated) -> None:
    """An abort before the request reached a slot closes only when it has come there and gone."""
    engine = await simulate()
    await engine.set_faults(queue_ms=300)
    replica = engine.replica()
    run = begin(replica, LONG)
    assert run.handle is not None
    attempt = run.handle
    assert isinstance(attempt, EngineAttempt)
    await until_async(lambda: attempt.sent, what="the request to be sent")
    attempt.abort()
    await run.closed_event.wait()
    figures = await request(parse_endpoint(engine.url), "GET", "/metrics")
    assert b"simulated_requests_begun_total 1" in figures.body
    assert await replica.is_idle() is not False


@pytest.mark.req("ORCH-3017")
async def test_nothing_follows_an_abort_in_the_same_read() -> None:
    """When text and end come in one read, an abort inside the text leaves out the end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        if path == b"/completion":
            events = b'data: {"content":"a"}\n\ndata: {"content":"b","stop":true,"stop_type":"eos"}\n\n'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    replica = LlamacppReplica(parse_endpoint(f"http://127.0.0.1:{port}"))
    whole = await decode(replica, SPEC)
    assert (whole.text, whole.completion is not None) == ("ab", True)
    run = begin(replica, SPEC, on_first=lambda handle: handle.abort())
    await run.closed_event.wait()
    assert run.reads == [("a", "b")]
    assert run.completion is None
    server.close()
    await server.wait_closed()
