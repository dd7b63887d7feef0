"""Every effect about a replica is answered by exactly one event, and lives of a replica never overlap."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchqueue.core.events import (
    AnyEvent,
    CrashCause,
    ModelVerified,
    PromptCounted,
    ReplicaFacts,
    ReplicaHealthy,
    ReplicaLost,
    ReplicaReady,
    ReplicaScraped,
    ReplicaStopped,
)
from orchqueue.core.ids import PoolId, ReplicaId, TaskKey, Tenant
from orchqueue.core.request import TaskSpec
from orchqueue.ports.engine import AttemptHandle, AttemptSink, Scrape
from orchqueue.ports.errors import EngineError, ProcessError
from orchqueue.ports.process import OnExit
from orchqueue.runtime import supervision
from orchqueue.runtime.supervision import Supervision
from tests.waiting import until_async

ID = ReplicaId("pool-0")
POOL = PoolId("pool")
FACTS = ReplicaFacts("v", "d", 1, 2048, True, 1, 1)
KEY = TaskKey("t/1")


class Engine:
    """An engine that answers what the test sets."""

    def __init__(self) -> None:
        self.healthy: bool | EngineError = True
        self.tested: EngineError | None = None
        self.tokens: int | None = 7
        self.evicted: list[str] = []
        self.never = False
        self.asked = 0

    async def health(self) -> bool:
        """Answer or raise."""
        self.asked += 1
        if isinstance(self.healthy, EngineError):
            raise self.healthy
        return self.healthy

    async def self_test(self) -> ReplicaFacts:
        """Pass, fail, or never end."""
        if self.never:
            await asyncio.Event().wait()
        if self.tested is not None:
            raise self.tested
        return FACTS

    async def count_prompt(self, spec: TaskSpec) -> int | None:
        """Count, or never end."""
        if self.never:
            await asyncio.Event().wait()
        return self.tokens

    async def scrape(self) -> Scrape:
        """Give a figure."""
        return Scrape(kv_usage_ratio=0.5)

    def start(
        self, spec: TaskSpec, profile: str, cache_prompt: bool, sink: AttemptSink, said: str = ""
    ) -> AttemptHandle:
        """Start nothing."""
        raise NotImplementedError

    async def evict_session(self, session: str) -> None:
        """Note it."""
        self.evicted.append(session)

    async def close(self) -> None:
        """Do nothing."""


class Running:
    """A launched fake."""

    def __init__(self, world: "World", on_exit: OnExit) -> None:
        self.world = world
        self.on_exit = on_exit
        self.replica = world.engine
        self.pid: int | None = 42
        self.url = "http://fake"

    async def stop(self) -> None:
        """Take some turns of the loop."""
        await self.world.may_stop.wait()
        await asyncio.sleep(0)
        self.world.alive.remove(self)


class World:
    """A host whose replicas the test can watch."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.alive: list[Running] = []
        self.most_alive = 0
        self.launches: list[str] = []
        self.problem: ProcessError | None = None
        self.never = False
        self.may_stop = asyncio.Event()
        self.may_stop.set()

    async def launch(self, replica_id: ReplicaId, model_ref: str, on_exit: OnExit) -> Running:
        """Start a fake."""
        self.launches.append(model_ref)
        if self.never:
            await asyncio.Event().wait()
        if self.problem is not None:
            raise self.problem
        running = Running(self, on_exit)
        self.alive.append(running)
        self.most_alive = max(self.most_alive, len(self.alive))
        await asyncio.sleep(0)
        return running

    async def verify_model(self, model_ref: str) -> str:
        """Answer or raise."""
        if self.problem is not None:
            raise self.problem
        return "digest"

    def crash(self, cause: CrashCause = "signal") -> None:
        """End the last fake."""
        self.alive[-1].on_exit(cause, "it fell over")


class Bench:
    """A supervision over such a world, and all it said."""

    def __init__(self) -> None:
        self.world = World()
        self.events: list[AnyEvent] = []
        self.supervision = Supervision({POOL: self.world}, {ID: POOL}, self.events.append, scrape_interval_s=0.01)

    def said(self, *kinds: type[AnyEvent]) -> list[AnyEvent]:
        """Pick events, scrapes left out unless asked for."""
        return [
            event
            for event in self.events
            if (isinstance(event, kinds) if kinds else not isinstance(event, ReplicaScraped))
        ]

    async def start(self) -> None:
        """Bring the replica up."""
        self.supervision.start(ID, "m")
        await until_async(lambda: self.said(ReplicaReady), what="the replica to be ready")


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """Make one that is closed afterwards."""
    made = Bench()
    yield made
    await made.supervision.close()
    assert not made.world.alive


@pytest.mark.req("ORCH-3002")
async def test_a_replica_is_ready_after_its_self_test(bench: Bench) -> None:
    """The engine is given out only when the self-test has passed; then its figures come."""
    bench.supervision.start(ID, "m")
    assert bench.supervision.engine_of(ID) is None
    await until_async(lambda: bench.said(ReplicaScraped))
    assert bench.supervision.engine_of(ID) is bench.world.engine
    (ready,) = bench.said()
    assert isinstance(ready, ReplicaReady)
    assert (ready.facts.pid, ready.facts.url) == (42, "http://fake")


@pytest.mark.req("ORCH-3003")
async def test_a_failed_self_test_loses_the_replica(bench: Bench) -> None:
    """A replica that fails its self-test is told as lost and its process is stopped."""
    bench.world.engine.tested = EngineError("it lies")
    bench.supervision.start(ID, "m")
    await until_async(lambda: bench.said() and not bench.world.alive)
    assert bench.said() == [ReplicaLost(ID, "selftest", "it lies")]


async def test_a_crash_under_the_self_test_tells_its_own_cause(bench: Bench) -> None:
    """A process that dies while it is tested is lost once, for its own reason."""
    bench.world.engine.never = True
    bench.supervision.start(ID, "m")
    await until_async(lambda: bench.world.alive)
    await asyncio.sleep(0)
    bench.world.crash("vram_oom")
    await until_async(lambda: not bench.world.alive)
    assert bench.said() == [ReplicaLost(ID, "vram_oom", "it fell over")]


@pytest.mark.req("ORCH-3049")
async def test_a_launch_that_fails_tells_the_cause(bench: Bench) -> None:
    """The host's reason reaches the core."""
    bench.world.problem = ProcessError("cannot_fit", "too big")
    bench.supervision.start(ID, "m")
    await until_async(bench.said)
    assert bench.said() == [ReplicaLost(ID, "cannot_fit", "too big")]


@pytest.mark.req("ORCH-3038")
async def test_a_crash_is_told_once_and_cleaned_up(bench: Bench) -> None:
    """A crash gives one event, the engine is no longer given out, and the next life waits for the old process."""
    await bench.start()
    bench.world.may_stop.clear()
    bench.world.crash()
    bench.world.crash()
    assert bench.supervision.engine_of(ID) is None
    bench.supervision.start(ID, "again")
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.world.launches == ["m"]
    bench.world.may_stop.set()
    await until_async(lambda: len(bench.said(ReplicaReady)) == 2)
    assert bench.world.launches == ["m", "again"]
    assert bench.world.most_alive == 1
    assert bench.said(ReplicaLost) == [ReplicaLost(ID, "signal", "it fell over")]


async def test_a_start_while_it_runs_replaces_it(bench: Bench) -> None:
    """A second start takes the first life down without a word, then begins anew."""
    await bench.start()
    bench.supervision.start(ID, "n")
    await until_async(lambda: len(bench.said(ReplicaReady)) == 2)
    assert bench.world.most_alive == 1
    assert not bench.said(ReplicaLost, ReplicaStopped)


@pytest.mark.parametrize("when", ["up", "launching", "testing", "down"])
async def test_stop_in_every_phase(bench: Bench, when: str) -> None:
    """A stop is answered once, when nothing runs any more, whatever was going on."""
    bench.world.never = when == "launching"
    bench.world.engine.never = when == "testing"
    if when == "up":
        await bench.start()
    elif when != "down":
        bench.supervision.start(ID, "m")
        await until_async(lambda: bench.world.launches)
    bench.supervision.stop(ID)
    await until_async(lambda: bench.said(ReplicaStopped))
    assert bench.said(ReplicaStopped, ReplicaLost) == [ReplicaStopped(ID)]
    assert not bench.world.alive


@pytest.mark.req("ORCH-4143")
async def test_a_probe_that_finds_life(bench: Bench) -> None:
    """A suspect that answers is healthy."""
    await bench.start()
    bench.supervision.probe(ID)
    await until_async(lambda: bench.said(ReplicaHealthy))
    assert bench.supervision.engine_of(ID) is not None


@pytest.mark.parametrize("answer", [False, EngineError("refused")], ids=["loading", "refused"])
@pytest.mark.req("ORCH-4143")
async def test_a_probe_that_finds_none(bench: Bench, answer: bool | EngineError) -> None:
    """A suspect that does not answer is lost and its process ended."""
    await bench.start()
    bench.world.engine.healthy = answer
    bench.supervision.probe(ID)
    await until_async(lambda: not bench.world.alive)
    (lost,) = bench.said(ReplicaLost, ReplicaHealthy)
    assert isinstance(lost, ReplicaLost)
    assert lost.cause == "health"


@pytest.mark.req("ORCH-4142")
async def test_the_exit_of_a_probed_replica_is_the_cause(bench: Bench) -> None:
    """A probe that fails because the process was killed leaves it to the exit to say why, though it comes later."""
    await bench.start()
    bench.world.engine.healthy = EngineError("connection reset")
    bench.supervision.probe(ID)
    await until_async(lambda: bench.world.engine.asked)
    bench.world.crash()
    await until_async(lambda: not bench.world.alive)
    assert bench.said(ReplicaLost, ReplicaHealthy) == [ReplicaLost(ID, "signal", "it fell over")]


@pytest.mark.req("ORCH-3038")
async def test_an_endpoint_has_no_exit_to_wait_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a replica that is no process of ours is told at once."""
    monkeypatch.setattr(supervision, "EXIT_TOLD_WITHIN_S", 3600)
    await bench.start()
    bench.world.alive[-1].pid = None
    bench.world.engine.healthy = EngineError("connection refused")
    bench.supervision.probe(ID)
    await until_async(lambda: bench.said(ReplicaLost))
    assert bench.said(ReplicaLost) == [ReplicaLost(ID, "health", "connection refused")]


async def test_a_model_is_verified(bench: Bench) -> None:
    """The answer names the problem, or nothing."""
    bench.supervision.verify_model(POOL, "m")
    await until_async(bench.said)
    bench.world.problem = ProcessError("checksum", "wrong")
    bench.supervision.verify_model(POOL, "n")
    await until_async(lambda: len(bench.said()) == 2)
    assert bench.said() == [ModelVerified(POOL, "m", ""), ModelVerified(POOL, "n", "wrong")]


@pytest.mark.req("ORCH-4053", "ORCH-4148")
async def test_prompts_are_counted_in_time(bench: Bench) -> None:
    """A count comes, or None: when the replica is down, or does not answer in time."""
    spec = TaskSpec(prompt="x")
    bench.supervision.count_prompt(KEY, ID, spec, 1000)
    await until_async(lambda: len(bench.said(PromptCounted)) == 1)
    await bench.start()
    bench.supervision.count_prompt(KEY, ID, spec, 1000)
    await until_async(lambda: len(bench.said(PromptCounted)) == 2)
    bench.world.engine.never = True
    bench.supervision.count_prompt(KEY, ID, spec, 10)
    await until_async(lambda: len(bench.said(PromptCounted)) == 3)
    assert bench.said(PromptCounted) == [PromptCounted(KEY, None), PromptCounted(KEY, 7), PromptCounted(KEY, None)]


@pytest.mark.req("ORCH-4249")
async def test_sessions_are_evicted_where_the_replica_is_up(bench: Bench) -> None:
    """An eviction reaches the engine, and is nothing while it is down."""
    session = (Tenant("acme"), "s1")
    bench.supervision.evict_session(ID, session)
    await bench.start()
    bench.supervision.evict_session(ID, session)
    await until_async(lambda: bench.world.engine.evicted)
    assert bench.world.engine.evicted == ["acme/s1"]


@pytest.mark.req("ORCH-4210")
async def test_close_takes_everything_down(bench: Bench) -> None:
    """After close nothing runs, and a start is refused by an event."""
    await bench.start()
    await bench.supervision.close()
    assert not bench.world.alive
    bench.supervision.start(ID, "m")
    (lost,) = bench.said(ReplicaLost)
    assert isinstance(lost, ReplicaLost)
    assert "shutting down" in lost.detail


@pytest.mark.req("ORCH-3038")
async def test_a_bug_in_an_adapter_still_gets_every_effect_its_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no port may raise is told as a loss or a problem, so that nothing waits for ever."""

    async def explode(*_args: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(bench.world.engine, "self_test", explode)
    bench.supervision.start(ID, "m")
    await until_async(lambda: bench.said(ReplicaLost))
    monkeypatch.undo()
    await bench.start()
    for name in ("health", "count_prompt"):
        monkeypatch.setattr(bench.world.engine, name, explode)
    monkeypatch.setattr(bench.world, "verify_model", explode)
    bench.supervision.count_prompt(KEY, ID, TaskSpec(prompt="x"), 1_000)
    bench.supervision.verify_model(POOL, "m")
    await until_async(lambda: len(bench.said(PromptCounted, ModelVerified)) == 2)
    bench.supervision.probe(ID)
    await until_async(lambda: len(bench.said(ReplicaLost)) == 2)
    lost = [event.detail for event in bench.said(ReplicaLost) if isinstance(event, ReplicaLost)]
    assert all("ValueError: planted" in detail for detail in lost)
    assert [e.tokens for e in bench.said(PromptCounted) if isinstance(e, PromptCounted)] == [None]


async def test_a_stop_that_fails_unexpectedly_does_not_keep_the_replica_down(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica counts as stopped and can be started again."""
    await bench.start()
    running = bench.world.alive[-1]

    async def explode() -> None:
        bench.world.alive.remove(running)
        raise ProcessLookupError("planted")

    monkeypatch.setattr(running, "stop", explode)
    bench.supervision.stop(ID)
    await until_async(lambda: bench.said(ReplicaStopped))
    bench.supervision.start(ID, "m")
    await until_async(lambda: len(bench.said(ReplicaReady)) == 2)
