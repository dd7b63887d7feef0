"""Engines for the conformance suite: a simulated and a real llama.cpp server, each in a process of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from orchqueue.adapters.engines.connection import Answer, parse_endpoint, request
from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.adapters.models import ModelStore
from orchqueue.adapters.processes.host import LlamacppSpawnHost
from orchqueue.adapters.processes.llamacpp_launch import SpawnSettings
from orchqueue.core.events import AttemptFailure
from orchqueue.core.ids import ReplicaId
from orchqueue.core.request import TaskSpec
from orchqueue.ports.engine import AttemptHandle, AttemptSink, Completion

MODEL = "bundled:smollm2-135m-instruct-q4_1"


class Listener(AttemptSink):
    """Records an attempt, and fails the test where the port's order of calls is broken."""

    def __init__(self, on_first: Callable[[AttemptHandle], None] | None = None) -> None:
        self.reads: list[tuple[str, ...]] = []
        self.counts: list[int] = []
        self.completion: Completion | None = None
        self.failure: tuple[AttemptFailure, str] | None = None
        self.first_text = asyncio.Event()
        self.closed_event = asyncio.Event()
        self.handle: AttemptHandle | None = None
        self._on_first = on_first
        self._over = False

    @property
    def text(self) -> str:
        """Give all text so far."""
        return "".join(text for read in self.reads for text in read)

    def chunks(self, texts: tuple[str, ...], tokens_out: int) -> None:
        """Take text."""
        assert not self._over, "text after the end"
        assert texts
        assert all(texts), "an empty piece"
        assert not self.counts or tokens_out >= self.counts[-1], "the count went back"
        self.reads.append(texts)
        self.counts.append(tokens_out)
        if not self.first_text.is_set():
            self.first_text.set()
            if self._on_first is not None and self.handle is not None:
                self._on_first(self.handle)

    def completed(self, completion: Completion) -> None:
        """Take the end."""
        assert not self._over, "two ends"
        self._over = True
        self.completion = completion

    def failed(self, failure: AttemptFailure, detail: str) -> None:
        """Take a failure."""
        assert not self._over, "two ends"
        self._over = True
        self.failure = (failure, detail)

    def closed(self) -> None:
        """Take the close."""
        assert not self.closed_event.is_set(), "closed twice"
        self._over = True
        self.closed_event.set()


def begin(
    replica: LlamacppReplica, spec: TaskSpec, *, profile: str = "v1", cache_prompt: bool = False,
    on_first: Callable[[AttemptHandle], None] | None = None,
) -> Listener:  # fmt: skip
    """Start an attempt."""
    listener = Listener(on_first)
    listener.handle = replica.start(spec, profile, cache_prompt, listener)
    return listener


async def decode(replica: LlamacppReplica, spec: TaskSpec, *, profile: str = "v1") -> Listener:
    """Run an attempt to its close."""
    listener = begin(replica, spec, profile=profile)
    await listener.closed_event.wait()
    return listener


async def idle(replica: LlamacppReplica) -> bool:
    """Tell whether no slot works."""
    slots = await replica.slots()
    assert slots is not None
    return not any(slot.is_processing for slot in slots)


class SimulatedEngine:
    """A simulated server's process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    def replica(self) -> LlamacppReplica:
        """Connect."""
        return LlamacppReplica(parse_endpoint(self.url), allow_simulated=True)

    async def set_faults(self, **faults: object) -> None:
        """Replace what goes wrong."""
        answer: Answer = await request(parse_endpoint(self.url), "POST", "/sim/faults", msgspec.json.encode(faults))
        assert answer.status == 200, answer.body

    async def end(self) -> None:
        """Kill it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


StartSimulated = Callable[..., Awaitable[SimulatedEngine]]


async def start_simulated(*flags: str) -> SimulatedEngine:
    """Start a simulated server and wait until it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchqueue_sim.main", "engine", "llamacpp", *flags, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("listening on "), line
    return SimulatedEngine(process, line.removeprefix("listening on ").strip())


@pytest_asyncio.fixture
async def simulate() -> AsyncIterator[StartSimulated]:
    """Start simulated servers that end with the test."""
    started: list[SimulatedEngine] = []

    async def start(*flags: str) -> SimulatedEngine:
        engine = await start_simulated(*flags)
        started.append(engine)
        return engine

    yield start
    for engine in started:
        await engine.end()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["simulated", pytest.param("real", marks=pytest.mark.real_engine)]
)
async def replica(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LlamacppReplica]:
    """Give a connected replica of either kind."""
    if request.param == "simulated":
        engine = await start_simulated("--tokens-per-s", "150")
        yield engine.replica()
        await engine.end()
        return
    directory: Path = tmp_path_factory.mktemp("replicas")
    settings = SpawnSettings("pool", 2048, allow_cpu=True, replicas=2)
    host = LlamacppSpawnHost(settings, directory, ModelStore(), orphan_grace_s=1.0)
    running = await host.launch(ReplicaId("pool-0"), MODEL, lambda *_: None)
    yield running.replica
    await running.stop()
