"""What is Triton's own: the simulated server held to what a real one answered, ensembles, dead models, inputs that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from orchqueue.adapters.engines.conformance.listening import Listener, begin, complete, decode
from orchqueue.adapters.engines.connection import parse_endpoint
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.engines.triton import TritonReplica
from orchqueue.core.request import Sampling, TaskSpec
from orchqueue.ports.errors import EngineError
from tests.conformance.engine.beds import SimulatedEngine
from tests.conformance.engine.conftest import StartSimulated
from tests.conformance.engine.triton_wire import EXCHANGES, RECORDED, Parsed, exchange, parse, recorded

SPEC = TaskSpec(prompt="Tell me", seed=3, max_tokens=40, sampling=Sampling(ignore_eos=True))
BLS = "tensorrt_llm_bls"
TAKEN_BY_HAND = {"stream_fails_midway", "stream_model_died"}


@pytest.fixture
def engine() -> str:
    """Simulate Triton."""
    return "triton"


def of_model(engine: SimulatedEngine, model: str) -> TritonReplica:
    """Connect to one of its models."""
    url = engine.url.replace("/?", f"/v2/models/{model}?")
    return TritonReplica(parse_endpoint(url), Description(), allow_simulated=True)


def form(answer: Parsed) -> tuple[int, str, set[tuple[str, ...]]]:
    """Give what two answers must agree in: the status, the kind of content, and the members of every event."""
    members = {tuple(sorted(event)) for event in answer.events}
    return answer.status, answer.content_type.partition(";")[0], members


@pytest.mark.parametrize("name", sorted(EXCHANGES))
@pytest.mark.req("ORCH-4222", "ORCH-4461")
async def test_the_simulated_server_answers_as_the_real_one_did(simulate: StartSimulated, name: str) -> None:
    """Its answers have the form of the recorded ones; where it says less, it says nothing that the real one does not."""
    engine = await simulate("--tokens-per-s", "1000")
    what, real = EXCHANGES[name], parse(recorded(name))
    url = f"http://127.0.0.1:{of_model(engine, BLS).metrics.port}" if what.metrics else engine.url
    answer = parse(await asyncio.to_thread(exchange, url, what))
    assert form(answer) == form(real)
    if real.events:
        assert answer.chunked
    elif what.metrics:
        told, known = [
            {line.partition(b"{")[0] for line in one.body.split(b"\n") if b"{" in line} for one in (answer, real)
        ]
        assert told <= known
    elif real.body.startswith(b"{"):
        assert set(msgspec.json.decode(answer.body)) <= set(msgspec.json.decode(real.body))


@pytest.mark.req("ORCH-4222")
def test_every_recording_belongs_to_an_exchange() -> None:
    """Nothing lies there that no test looks at."""
    assert {path.stem for path in RECORDED.glob("*.http")} == set(EXCHANGES) | TAKEN_BY_HAND


@pytest.mark.req("ORCH-4215", "ORCH-4222")
async def test_all_text_so_far_and_pieces_are_the_same_text(simulate: StartSimulated) -> None:
    """A model that accumulates and one that does not give the same text and counts."""
    engine = await simulate("--tokens-per-s", "1000")
    pieces, accumulated = [await complete(of_model(engine, model), SPEC) for model in ("ensemble", BLS)]
    assert pieces[0] == accumulated[0]
    assert pieces[1].tokens_out == accumulated[1].tokens_out == 40


@pytest.mark.req("ORCH-4213")
async def test_a_server_without_gauges_is_given_time(simulate: StartSimulated) -> None:
    """Where nothing shows what is active an abort still closes, and the self-test proves nothing."""
    engine = await simulate("--faults", '{"hide_slots": true}')
    run = begin(engine.replica(), SPEC, on_first=lambda handle: handle.abort())
    await run.closed_event.wait()
    facts = await engine.replica().self_test()
    assert not facts.strict_proven
    assert "slots" in facts.selftest_note


@pytest.mark.req("ORCH-4213")
async def test_metrics_that_nobody_serves_are_not_a_dead_engine(simulate: StartSimulated) -> None:
    """A wrong port of the metrics shows as no gauge; a dead server as an error."""
    engine = await simulate()
    replica = TritonReplica(parse_endpoint(f"{engine.url.partition('?')[0]}?metrics_port=1"), allow_simulated=True)
    assert await replica.is_idle() is None
    await engine.end()
    with pytest.raises(EngineError):
        await replica.is_idle()


@pytest.mark.req("ORCH-4222")
async def test_several_attempts_are_told_apart_by_their_number(simulate: StartSimulated) -> None:
    """An abort beside an attempt that goes on is over when one is left, and not before."""
    # So slowly that the attempt that stays outlasts the test.
    engine = await simulate("--slots", "2", "--tokens-per-s", "10")
    await engine.set_faults(ignore_abort_ms=300)
    replica = engine.replica(slots=2)
    stays = begin(replica, msgspec.structs.replace(SPEC, max_tokens=2000))
    await stays.first_text.wait()
    goes = begin(replica, msgspec.structs.replace(SPEC, max_tokens=2000), on_first=lambda handle: handle.abort())
    await goes.first_text.wait()
    assert not goes.closed_event.is_set()
    await goes.closed_event.wait()
    assert not stays.closed_event.is_set()
    await replica.close()


class Canned:
    """A server that gives each path its answer; who is asked for what is not there gets 404."""

    def __init__(self, answers: dict[str, tuple[int, bytes]]) -> None:
        self.answers = answers
        self.server: asyncio.Server | None = None

    async def __aenter__(self) -> Canned:
        """Listen."""
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        assert self.server is not None
        self.server.close()
        await self.server.wait_closed()

    def replica(self, model: str = BLS) -> TritonReplica:
        """Connect."""
        assert self.server is not None
        port = self.server.sockets[0].getsockname()[1]
        return TritonReplica(parse_endpoint(f"http://127.0.0.1:{port}/v2/models/{model}?metrics_port={port}"))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        status, body = self.answers.get(path, (404, b'{"error":"Not Found"}'))
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


def canned(change: Callable[[bytes], bytes] = lambda config: config) -> dict[str, tuple[int, bytes]]:
    """Give the recorded answers, the model's configuration changed."""
    ready = dict.fromkeys(("/v2/health/ready", "/v2/health/live", f"/v2/models/{BLS}/ready"), (200, b""))
    return {
        **ready,
        "/v2": (200, parse(recorded("server")).body),
        f"/v2/models/{BLS}/config": (200, change(parse(recorded("config")).body)),
        "/metrics": (200, parse(recorded("metrics")).body),
    }


@pytest.mark.req("ORCH-4222", "ORCH-4464")
async def test_properties_are_what_the_server_says() -> None:
    """The version names Triton's and the backend; where the configuration tells TensorRT-LLM's version, that one."""
    async with Canned(canned()) as server:
        told = await server.replica().properties()
        assert (told.engine_version, told.ctx, told.slots_total) == ("triton-2.51.0+trtllm-python", 2048, 1)
        assert told.not_strict == ""
        assert await server.replica().health()

    def say(config: bytes) -> bytes:
        settings = b'"parameters":{"tensorrt_llm_version":{"string_value":"0.20.0"},"enable_kv_cache_reuse":{"string_value":"True"},'
        return config.replace(b'"parameters":{', settings)

    async with Canned(canned(say)) as server:
        told = await server.replica().properties()
        assert told.engine_version == "triton-2.51.0+trtllm-0.20.0"
        assert "enable_kv_cache_reuse" in told.not_strict


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"decoupled":true', b'"decoupled":false', "not decoupled"),
        (b'"name":"text_output"', b'"name":"OUTPUT_0"', "text_output"),
        (b'{"name":"tensorrt_llm_bls"', b'{"nom":"tensorrt_llm_bls"', "something else than triton"),
    ],
)
@pytest.mark.req("ORCH-4464")
async def test_a_model_that_cannot_stream_text_is_refused(old: bytes, new: bytes, told: str) -> None:
    """The self-test says what is wrong with it."""
    async with Canned(canned(lambda config: config.replace(old, new))) as server:
        with pytest.raises(EngineError, match=told):
            await server.replica().self_test()


@pytest.mark.req("ORCH-4462")
async def test_an_input_that_is_not_declared_is_not_sent() -> None:
    """A model without the seed's input is not asked for a sampled text: the attempt is rejected, and says why."""
    rename = b'"name":"random_seed"', b'"name":"some_seed"'
    async with Canned(canned(lambda config: config.replace(*rename))) as server:
        run = await decode(server.replica(), SPEC)
    assert run.failure is not None
    assert run.failure[0] == "rejected"
    assert "random_seed" in run.failure[1]


@pytest.mark.req("ORCH-4463")
async def test_a_dead_model_makes_its_replica_unhealthy_until_it_answers() -> None:
    """Triton says ready all the while; the attempt is lost, and health asks the model itself from then on."""
    died = parse(recorded("stream_model_died"))
    generate = f"/v2/models/{BLS}/generate"
    answers = canned() | {f"{generate}_stream": (400, died.body), generate: (400, died.body)}
    async with Canned(answers) as server:
        replica = server.replica()
        run: Listener = await decode(replica, SPEC)
        assert run.failure is not None
        assert run.failure[0] == "lost"
        assert not await replica.health()
        server.answers[generate] = (200, parse(recorded("generate_several")).body)
        assert await replica.health()


@pytest.mark.req("ORCH-4222")
async def test_a_server_that_loads_is_not_healthy_yet(simulate: StartSimulated) -> None:
    """Neither is one whose model is missing, and a strange answer is an error."""
    engine = await simulate("--faults", '{"unhealthy": true}')
    replica = engine.replica()
    assert not await replica.health()
    await engine.set_faults()
    assert await replica.health()
    assert not await of_model(engine, "nope").health()
    async with Canned({"/v2/health/ready": (401, b"")}) as server:
        with pytest.raises(EngineError, match="401"):
            await server.replica().health()
