"""What is TGI's own, against its simulator: refusals inside of streams, chats that begin once, stop strings that it misses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from orchqueue.adapters.engines.conformance.listening import begin, complete, decode
from orchqueue.adapters.engines.connection import Answer, parse_endpoint, request
from orchqueue.adapters.engines.tgi import TgiReplica
from orchqueue.core.request import Message, Sampling, TaskSpec
from orchqueue.ports.errors import EngineError
from orchqueue_sim.engine_faults import UNTIL_TOLD
from orchqueue_sim.engine_tgi_rules import GenerateRequest, Parameters, complaint, is_no_request, tokenize
from tests.conformance.engine.beds import SimulatedEngine
from tests.conformance.engine.conftest import StartSimulated
from tests.waiting import until_async

SPEC = TaskSpec(prompt="Tell me", seed=3, max_tokens=60)
LONG = TaskSpec(prompt="Tell me", seed=2, max_tokens=2000)
SOME_TOKENS = 40
"""Fewer than the long text has, and so many that some of them were shown, whatever the router holds back by chance."""
CHAT = (Message("system", "be brief"), Message("user", "hi there"))


@pytest.fixture
def engine() -> str:
    """Simulate TGI."""
    return "tgi"


async def ask(engine: SimulatedEngine, path: str, body: object | None = None, api_key: str = "") -> Answer:
    """Ask the router for a plain answer."""
    method, data = ("GET", None) if body is None else ("POST", msgspec.json.encode(body))
    return await request(parse_endpoint(engine.url, api_key), method, path, data)


async def raw_stream(engine: SimulatedEngine, body: bytes) -> bytes:
    """Give the whole response to a stream's request as it came."""
    endpoint = parse_endpoint(engine.url)
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    head = f"POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@asynccontextmanager
async def stub(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[TgiReplica]:
    """Connect to a server of this process that answers just so; at the end each of its connections has been closed.

    Who gives up before it has asked is no concern of the test.
    """
    at_work: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        at_work.add(task)
        try:
            with suppress(asyncio.IncompleteReadError):
                await answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield TgiReplica(parse_endpoint(f"http://127.0.0.1:{port}"))
        await asyncio.gather(*at_work)


@pytest.mark.req("ORCH-4450", "ORCH-4036")
async def test_a_chat_begins_once(simulate: StartSimulated) -> None:
    """The template's beginning-of-sequence token is taken off where the router adds its own, so that the model gets one."""
    engine = await simulate("--tokens-per-s", "1000")
    rendered = json.loads((await ask(engine, "/chat_tokenize", {"messages": CHAT})).body)
    as_rendered = len(rendered["tokenize_response"])
    text, completion = await complete(engine.replica(), TaskSpec(messages=CHAT, seed=5, max_tokens=8))
    assert completion.tokens_in == as_rendered
    assert await engine.replica().count_prompt(TaskSpec(messages=CHAT)) == as_rendered
    doubled = TaskSpec(prompt=rendered["templated_text"], seed=5, max_tokens=8)
    other, more = await complete(engine.replica(), doubled)
    assert more.tokens_in == as_rendered + 1
    assert other != text


@pytest.mark.req("ORCH-4450")
@pytest.mark.parametrize(
    ("added", "chat", "inputs", "count"),
    [
        ([{"id": 1}, {"id": 9, "stop": 1}], [(1, 0, 3), (7, 3, 5)], "hi", 2),
        ([{"id": 1}, {"id": 9, "stop": 1}], [(1, 0, 0), (1, 0, 3), (7, 3, 5)], "hi", 2),
        ([{"id": 1}, {"id": 9, "stop": 1}], [(7, 0, 5)], "<s>hi", 2),
        ([{"id": 9, "stop": 1}], [(1, 0, 3), (7, 3, 5)], "<s>hi", 2),
        ([{"id": 1}, {"id": 9}], [(1, 0, 0), (7, 0, 0)], "<s>hi", 3),
        ([], [], "<s>hi", 0),
    ],
    ids=["both begin", "an old router adds here too", "only the tokenizer", "only the template", "no places told", "no tokens"],
)  # fmt: skip
async def test_whatever_template_and_tokenizer_begin_with(
    added: list[dict[str, int]], chat: list[tuple[int, int, int]], inputs: str, count: int
) -> None:
    """What is sent, and its count, for each way in which tokenizer and template begin."""
    sent: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = await reader.readexactly(int(head.lower().partition("content-length: ")[2].partition("\r\n")[0]))
        told: object = added
        if "/chat_tokenize" in head:
            tokens = [{"id": number, "text": "", "start": start, "stop": stop} for number, start, stop in chat]
            told = {"tokenize_response": tokens, "templated_text": "<s>hi"}
        elif "/generate_stream" in head:
            sent.append(json.loads(body))
        data = msgspec.json.encode(told)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await writer.drain()

    async with stub(answer) as replica:
        assert await replica.count_prompt(TaskSpec(messages=CHAT)) == count
        await decode(replica, TaskSpec(messages=CHAT, seed=1))
    assert [one["inputs"] for one in sent] == [inputs]


@pytest.mark.req("ORCH-4451", "ORCH-4062")
async def test_a_stop_inside_of_a_token_ends_the_attempt(simulate: StartSimulated) -> None:
    """The router misses it and goes on; the attempt ends there, tells the prompt's tokens, and the router is stopped."""
    engine = await simulate("--tokens-per-s", "1000")
    replica = engine.replica()
    whole, told = await complete(replica, LONG)
    word = next(word for word in whole.split()[3:] if len(word) > 3)
    stop = word[:2]
    spec = msgspec.structs.replace(LONG, sampling=Sampling(stop=(stop,)))
    # It stays at work until it is stopped, however late that is.
    await engine.set_faults(silent_after=SOME_TOKENS)
    text, completion = await complete(replica, spec)
    assert text == whole[: whole.index(stop)]
    assert completion.finish_reason == "stop"
    assert completion.tokens_in == told.tokens_in
    assert 0 < completion.tokens_out < told.tokens_out
    assert await replica.is_idle()
    assert b"tgi_request_success 1\n" in (await ask(engine, "/metrics")).body, "the router was left to go on"


@pytest.mark.req("ORCH-4451", "ORCH-4062")
async def test_more_stop_strings_than_the_router_takes(simulate: StartSimulated) -> None:
    """Those above its limit are looked for here, so each of six ends the text; it would refuse the six itself."""
    engine = await simulate("--tokens-per-s", "1000")
    replica = engine.replica()
    whole, _ = await complete(replica, LONG)
    last = whole.split()[5]
    stops = ("never 1", "never 2", "never 3", "never 4", "never 5", last)
    text, _ = await complete(replica, msgspec.structs.replace(LONG, sampling=Sampling(stop=stops)))
    assert text == whole[: whole.index(last)]
    asked = {"inputs": "x", "parameters": {"stop": stops}}
    assert b'"error_type": "validation"' in await raw_stream(engine, msgspec.json.encode(asked))


@pytest.mark.req("ORCH-4452", "ORCH-4216")
async def test_an_overloaded_router_says_so_in_its_stream(simulate: StartSimulated) -> None:
    """One request too many is told by an event of a response that began well, and means overloaded."""
    engine = await simulate("--max-requests", "1")
    await engine.set_faults(silent_after=SOME_TOKENS, times=1)
    replica = engine.replica()
    first = begin(replica, LONG)
    await first.first_text.wait()
    answer = await raw_stream(engine, b'{"inputs":"x"}')
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"error_type": "overloaded"' in answer
    second = await decode(replica, SPEC)
    assert second.failure is not None
    assert second.failure[0] == "overloaded"
    await replica.close()


@pytest.mark.req("ORCH-4452", "ORCH-4216")
async def test_what_the_router_refuses_is_rejected_in_its_words(simulate: StartSimulated) -> None:
    """A prompt that leaves no room for its answer is refused inside of the stream, before any text."""
    engine = await simulate("--ctx", "64")
    run = await decode(engine.replica(), TaskSpec(prompt="word " * 40, seed=1, max_tokens=30))
    assert run.failure is not None
    assert run.failure[0] == "rejected"
    assert "64" in run.failure[1]
    assert run.reads == []


@pytest.mark.req("ORCH-4219")
async def test_the_router_asks_for_its_key_where_it_works(simulate: StartSimulated) -> None:
    """Generating and tokenizing want the key, and a wrong one gets an empty 401; what probes read is open."""
    engine = await simulate("--api-key", "k3y")
    for path in ("/health", "/info", "/metrics"):
        assert (await ask(engine, path)).status == 200
    assert await ask(engine, "/tokenize", {"inputs": "x"}, api_key="other") == Answer(401, b"")
    assert (await ask(engine, "/tokenize", {"inputs": "x"}, api_key="k3y")).status == 200
    assert (await decode(engine.replica("k3y"), SPEC)).completion is not None


@pytest.mark.req("ORCH-4221", "ORCH-4035")
async def test_what_a_router_says_of_itself(simulate: StartSimulated) -> None:
    """Version and model are told, other models have other digests, and a simulated router says so in two places."""
    engine, other = await simulate(), await simulate("--model", "other/words", "--max-requests", "2")
    told, of_other = await engine.replica().properties(), await other.replica(slots=8).properties()
    assert told.engine_version.startswith("tgi-")
    assert "simulated" in told.engine_version
    assert told.model_digest != of_other.model_digest
    assert of_other.slots_total == 2
    assert b"-simulated" in await raw_stream(engine, b"{}")
    with pytest.raises(EngineError, match="simulated"):
        await TgiReplica(parse_endpoint(engine.url)).properties()


@pytest.mark.req("ORCH-4453", "ORCH-4135")
async def test_a_router_without_figures_is_given_time(simulate: StartSimulated) -> None:
    """Where `/metrics` is hidden an abort still closes, no KV share is told, and the self-test proves nothing."""
    engine = await simulate("--faults", '{"hide_slots": true}')
    replica = engine.replica()
    run = begin(replica, LONG, on_first=lambda handle: handle.abort())
    await run.closed_event.wait()
    assert await replica.is_idle() is None
    assert (await replica.scrape()).kv_usage_ratio is None
    facts = await replica.self_test()
    assert not facts.strict_proven


@pytest.mark.req("ORCH-4453", "ORCH-3017")
async def test_a_prompt_that_is_read_is_waited_for(simulate: StartSimulated) -> None:
    """While the model reads a prompt neither queue nor batch show it; an abort closes only when that run has ended."""
    engine = await simulate()
    await engine.set_faults(first_token_delay_ms=86_400_000, ignore_abort_ms=UNTIL_TOLD)
    replica = engine.replica()
    run = begin(replica, LONG)

    async def reads() -> bool:
        return b'tgi_batch_inference_count{method="prefill"} 1' in (await ask(engine, "/metrics")).body

    await until_async(reads, what="the prompt to be read")
    figures = (await ask(engine, "/metrics")).body
    assert b"tgi_queue_size 0" in figures
    assert b"tgi_batch_current_size 0" in figures
    assert run.handle is not None
    run.handle.abort()
    assert await replica.is_idle() is False
    assert not run.closed_event.is_set()
    await engine.set_faults()
    await run.closed_event.wait()
    assert await replica.is_idle()


@pytest.mark.req("ORCH-4453", "ORCH-3017")
async def test_one_quiet_look_is_not_enough() -> None:
    """Between queue and model a request is in no figure, so the router must be quiet twice in a row."""
    quiet, busy = b"tgi_queue_size 0\n", b"tgi_batch_current_size 1\n"
    looks = [quiet, busy, quiet, quiet]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/metrics" in head:
            data = looks.pop(0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            writer.write(b'data:{"index":1,"token":{"id":1,"text":"a","logprob":0,"special":false}}\n\n')
            await writer.drain()
            await reader.read()

    async with stub(answer) as replica:
        run = begin(replica, SPEC, on_first=lambda handle: handle.abort())
        await run.end()
    assert looks == []


@pytest.mark.req("ORCH-4455")
async def test_a_model_that_reads_a_long_prompt_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers no health poll meanwhile: it is well while it works and was well lately, and else it is not."""
    figures = b"tgi_batch_current_size 1\n"
    silent = False

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/health" in head and silent:
            await reader.read()
        else:
            data = figures if b"/metrics" in head else b""
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()

    monkeypatch.setattr("orchqueue.adapters.engines.replica.HEALTH_TIMEOUT_S", 0.05)
    async with stub(answer) as replica:
        silent = True
        with pytest.raises(EngineError, match="no answer"):
            await replica.health()
        silent = False
        # A slow machine may take longer than the short timeout to answer at all.
        monkeypatch.setattr("orchqueue.adapters.engines.replica.HEALTH_TIMEOUT_S", 10.0)
        assert await replica.health()
        silent = True
        monkeypatch.setattr("orchqueue.adapters.engines.replica.HEALTH_TIMEOUT_S", 0.05)
        assert await replica.health()
        figures = b"tgi_batch_current_size 0\n"
        with pytest.raises(EngineError, match="no answer"):
            await replica.health()
        figures = b"tgi_batch_current_size 1\n"
        monkeypatch.setattr("orchqueue.adapters.engines.tgi.WORKING_SILENTLY_S", 0.0)
        with pytest.raises(EngineError, match="no answer"):
            await replica.health()


@pytest.mark.req("ORCH-4217")
async def test_a_router_that_answers_something_else(simulate: StartSimulated) -> None:
    """A template that refuses is the caller's fault; another server, or one that is not well, is an EngineError."""
    engine = await simulate("--faults", '{"template_fails": true}')
    run = await decode(engine.replica(), TaskSpec(messages=CHAT, seed=1))
    assert run.failure is not None
    assert run.failure[0] == "rejected"
    lost = TgiReplica(parse_endpoint(engine.url + "/elsewhere"))
    with pytest.raises(EngineError, match="404"):
        await lost.health()
    with pytest.raises(EngineError, match="404"):
        await lost.properties()
    old = await decode(lost, TaskSpec(messages=CHAT, seed=1))
    assert old.failure is not None
    assert old.failure[0] == "rejected"
    assert "/chat_tokenize" in old.failure[1]
    await engine.set_faults(unhealthy=True)
    assert not await engine.replica().health()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"temperature": 0}, "temperature"), ({"top_p": 1.0}, "top_p"), ({"top_k": 0}, "top_k"), ({"typical_p": 1}, "typical_p"),
     ({"repetition_penalty": 0}, "repetition_penalty"), ({"frequency_penalty": 3}, "frequency_penalty"),
     ({"max_new_tokens": 0}, "max_new_tokens"), ({"stop": list("abcde")}, "stop"), ({"best_of": 2}, "best_of"),
     ({"decoder_input_details": True}, "decoder_input_details"), ({"truncate": 0}, "truncate"),
     ({"max_new_tokens": 500}, "more than"), ({"grammar": {"type": "json", "value": {"type": "object"}}}, "properties"),
     ({"grammar": {"type": "json", "value": "{"}}, "JSON"), ({"grammar": {"type": "regex", "value": "a"}}, "only")],
)  # fmt: skip
@pytest.mark.req("ORCH-4454")
def test_the_simulator_refuses_what_the_router_refuses(wrong: dict[str, Any], told: str) -> None:
    """Each limit of the published interface is kept, so that a request which breaks one is noticed here."""
    good = GenerateRequest("x", Parameters())
    assert complaint(good, 2, 300) == ""
    assert told in complaint(GenerateRequest("x", msgspec.convert(wrong, Parameters)), 2, 300)


@pytest.mark.req("ORCH-4454")
async def test_the_simulator_reads_requests_as_the_router_does(simulate: StartSimulated) -> None:
    """No JSON, JSON of another form, numbers without room and empty inputs are each refused in the router's way."""
    engine = await simulate()
    assert (await raw_stream(engine, b"{")).startswith(b"HTTP/1.1 400 ")
    for body in (b"{}", b'{"inputs":3}', b'{"inputs":"x","parameters":{"seed":-1}}'):
        answer = await raw_stream(engine, body)
        assert answer.startswith(b"HTTP/1.1 422 ")
        assert b"text/plain" in answer
    assert b'"error_type": "validation"' in await raw_stream(engine, b'{"inputs":""}')
    assert is_no_request(Parameters(seed=2**64))
    stream = await raw_stream(engine, b'{"inputs":"x","parameters":{"max_new_tokens":2,"details":true}}')
    assert b'\ndata:{"index": 1' in stream
    assert b'"finish_reason": "length"' in stream


@pytest.mark.req("ORCH-4454")
def test_the_simulators_tokens_stand_where_they_say() -> None:
    """Special tokens are read out of the text, and every token's place gives its text."""
    text = "<s>naïve 🌍<|im_end|>\n</s>"
    tokens = tokenize(text, add_special=True)
    assert all(text[token.start : token.stop] == token.text for token in tokens)
    assert "".join(token.text for token in tokens) == text
    assert tokens[0] == (1, "", 0, 0)
    assert tokens[1].number == 1
