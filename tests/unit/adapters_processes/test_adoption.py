"""A real engine of a dead owner serves on where it is what would be launched, and works; else a fresh one takes its place."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from orchqueue.adapters.engines.conformance.listening import decode
from orchqueue.adapters.engines.connection import Endpoint
from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.adapters.engines.llamacpp_messages import Slot
from orchqueue.adapters.engines.llamacpp_server import ServerSettings
from orchqueue.adapters.models import ModelStore
from orchqueue.adapters.processes import adoption, host
from orchqueue.adapters.processes.adoption import AdoptedReplica
from orchqueue.adapters.processes.host import LlamacppSpawnHost, SpawnedReplica
from orchqueue.adapters.processes.identity import ProcessId, lives
from orchqueue.adapters.processes.leftovers import Leftovers
from orchqueue.adapters.processes.llamacpp_launch import SpawnSettings, difference, fingerprint_of, server_settings
from orchqueue.core.events import CrashCause
from orchqueue.core.ids import ReplicaId
from orchqueue.core.request import Sampling, TaskSpec
from orchqueue.ports.errors import EngineError, ProcessError
from tests.conformance.engine.beds import MODEL
from tests.unit.adapters_processes.conftest import glob, halt, pin
from tests.waiting import until_async

pytestmark = [pytest.mark.req("ORCH-4140"), pytest.mark.timeout(180)]

REPLICA = ReplicaId("pool-0")
SETTINGS = SpawnSettings("pool", 512, allow_cpu=True, replicas=2)
ENDLESS = TaskSpec(prompt="Tell me everything", seed=1, max_tokens=400, sampling=Sampling(ignore_eos=True))

OWNER = """
import asyncio, sys
from pathlib import Path
from orchqueue.adapters.models import ModelStore
from orchqueue.adapters.processes.host import LlamacppSpawnHost
from orchqueue.adapters.engines.conformance.listening import begin
from tests.conformance.engine.beds import MODEL
from tests.unit.adapters_processes.test_adoption import ENDLESS, REPLICA, SETTINGS

async def main():
    host = LlamacppSpawnHost(SETTINGS, Path(sys.argv[1]), ModelStore())
    running = await host.launch(REPLICA, MODEL, lambda *_: None)
    attempt = begin(running.replica, ENDLESS)
    await attempt.first_text.wait()
    print(running.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def orphan(tmp_path: Path) -> ProcessId:
    """Leave an engine whose owner was killed while it decoded."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path / "replicas"), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    engine = pin(int(await owner.stdout.readline()))
    owner.kill()
    await owner.wait()
    return engine


class Life:
    """The next daemon's host, with what it tells: event and detail."""

    def __init__(self, directory: Path, settings: SpawnSettings) -> None:
        self.said: list[tuple[str, str]] = []
        self.exits: list[tuple[CrashCause, str]] = []
        self.running: SpawnedReplica | None = None

        def tell(_level: str, event: str, fields: object) -> None:
            assert isinstance(fields, dict)
            self.said.append((event, str(fields.get("detail", fields["pid"]))))

        self.leftovers = Leftovers(directory, tell, answer_within_s=30.0)
        self.host = LlamacppSpawnHost(settings, directory, ModelStore(), orphan_grace_s=1.0, leftovers=self.leftovers)

    async def launch(self, model: str = MODEL) -> SpawnedReplica:
        """Look at what is left, and launch."""
        await self.leftovers.begin([REPLICA])
        self.running = await self.host.launch(REPLICA, model, lambda *said: self.exits.append(said))
        return self.running


Begin = Callable[..., Life]


@pytest_asyncio.fixture
async def begin_life(tmp_path: Path) -> AsyncIterator[Begin]:
    """Make daemons' hosts; their engines end with the test, and nothing is left."""
    lives_begun: list[Life] = []

    def make(settings: SpawnSettings = SETTINGS) -> Life:
        lives_begun.append(Life(tmp_path / "replicas", settings))
        return lives_begun[-1]

    yield make
    for life in lives_begun:
        if life.running is not None:
            await life.running.stop()
        await life.leftovers.close()
    assert {path.suffix for path in glob(tmp_path / "replicas", "*")} <= {".log"}


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4381", "ORCH-4141")
async def test_an_engine_of_a_dead_owner_serves_on(orphan: ProcessId, begin_life: Begin) -> None:
    """The same process proves itself anew, answers to its key, decodes, and its end is told with its cause."""
    life = begin_life()
    running = await life.launch()
    assert running.pid == orphan.pid
    assert life.said == [("engine_adopted", str(orphan.pid))]
    assert await running.replica.is_idle() is True
    proven = await running.replica.self_test()
    assert proven.strict_proven, proven.selftest_note
    again = await running.replica.self_test()
    assert (again.known_answer, again.ctx) == (proven.known_answer, 512)
    assert again is not proven
    attempt = await decode(running.replica, TaskSpec(prompt="Why?", seed=1, max_tokens=4))
    assert attempt.completion is not None
    os.kill(orphan.pid, signal.SIGKILL)
    await until_async(lambda: life.exits, what="the exit to be told")
    assert life.exits[0][0] == "signal"


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4380")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ctx": 256}, "flags"),
        ({"args": {"n_batch": 16}}, "flags"),
        ({"env": {"SOME": "thing"}}, "environment"),
    ],
)
async def test_one_that_was_launched_otherwise_is_ended(
    orphan: ProcessId, begin_life: Begin, change: dict[str, object], told: str
) -> None:
    """After a change of the launch the old engine ends, with a line that says why, and a fresh one serves."""
    life = begin_life(msgspec.structs.replace(SETTINGS, **change))
    running = await life.launch()
    assert running.pid != orphan.pid
    assert not lives(orphan)
    [(event, detail)] = life.said
    assert event == "leftover_engine"
    assert detail.endswith(f"it was launched with another {told}")


async def fail(self: object) -> None:
    """Fail to be proven."""
    raise EngineError(f"{type(self).__name__} lies")


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4381")
@pytest.mark.parametrize("how", ["hangs", "fails its test", "ends meanwhile"])
async def test_one_that_does_not_prove_itself_is_ended(
    orphan: ProcessId, begin_life: Begin, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """An engine that hangs, fails its self-test, or ends during it is followed by a fresh one, without a loss being told."""

    async def die(self: AdoptedReplica) -> None:
        os.kill(orphan.pid, signal.SIGKILL)
        await asyncio.Event().wait()

    told = {"hangs": "was not healthy", "fails its test": "lies", "ends meanwhile": "ended before"}
    if how == "hangs":
        monkeypatch.setattr(host, "CONNECT_TIMEOUT_S", 0.2)
        halt(orphan.pid)
    else:
        monkeypatch.setattr(AdoptedReplica, "prove", die if how == "ends meanwhile" else fail)
    life = begin_life()
    await life.leftovers.begin([REPLICA])
    process = await life.leftovers.take(REPLICA)
    assert process is not None
    plan = await life.host._plan(REPLICA, MODEL)
    assert await life.host._adopt(process, plan, lambda *said: life.exits.append(said)) is None
    assert not lives(orphan)
    monkeypatch.undo()
    running = await life.launch()
    assert running.pid not in {None, orphan.pid}
    [(event, detail)] = life.said
    assert event == "leftover_engine"
    assert told[how] in detail
    assert not life.exits


@pytest.mark.real_engine
async def test_one_whose_replica_cannot_start_is_ended(orphan: ProcessId, begin_life: Begin) -> None:
    """Where the model is not there any more, the engine that has it ends."""
    life = begin_life()
    with pytest.raises(ProcessError, match="no/such"):
        await life.launch("file:/no/such.gguf")
    assert not lives(orphan)
    assert "cannot start" in life.said[0][1]


@pytest.mark.real_engine
async def test_a_launch_that_is_called_off_ends_what_it_had(
    orphan: ProcessId, begin_life: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adoption that is cancelled leaves no engine behind."""
    proving = asyncio.Event()

    async def prove(self: AdoptedReplica) -> None:
        proving.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AdoptedReplica, "prove", prove)
    launching = asyncio.create_task(begin_life().launch())
    await proving.wait()
    launching.cancel()
    assert await asyncio.gather(launching, return_exceptions=True)
    assert not lives(orphan)


class Busy(AdoptedReplica):
    """A replica that shows what the test says."""

    def __init__(self, *shown: list[Slot] | None) -> None:
        self.shown = list(shown)
        self.tested = 0
        self.endpoint = Endpoint("127.0.0.1", 1)

    async def slots(self) -> list[Slot] | None:
        """Show the next, the last again and again."""
        return self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]


@pytest.mark.req("ORCH-4381")
async def test_an_engine_must_be_seen_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What still runs for the dead owner is waited for before and after the test, and not for ever."""

    async def self_test(self: Busy) -> str:
        self.tested += 1
        return "facts"

    monkeypatch.setattr(LlamacppReplica, "self_test", self_test)
    at_work, idle = [Slot(is_processing=True), Slot()], [Slot(), Slot()]
    late = Busy(at_work, at_work, idle, at_work, idle)
    await late.prove()
    assert (len(late.shown), late.tested) == (1, 1)
    assert await late.self_test() == "facts"  # type: ignore[comparison-overlap]
    assert late.tested == 1
    await late.self_test()
    assert late.tested == 2
    monkeypatch.setattr(adoption, "IDLE_WITHIN_S", 0.0)
    never = Busy(at_work)
    with pytest.raises(EngineError, match="at work"):
        await never.prove()
    assert not never.tested
    with pytest.raises(EngineError, match="cannot be seen idle"):
        await Busy(None).prove()


@pytest.mark.req("ORCH-4380")
def test_every_part_of_a_launch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flag, device, variable and version changes the fingerprint and is named; key, path and the rest do not."""
    versions = {"engine": "1", "model": "a"}

    def prints(server: ServerSettings, settings: SpawnSettings = SETTINGS, gpus: tuple[int, ...] = ()) -> str:
        return fingerprint_of(settings, server, list(gpus), versions, ["python", "-m", "server"])

    server = server_settings(SETTINGS, "/a/model", "key", 0)
    usual = prints(server)
    assert difference(usual, prints(msgspec.structs.replace(server, api_key="other", model_path="/b"))) == ""
    other = ServerSettings("", "", 1, 3, 2, (0.5, 0.5), 77, 99, 98, 97, True, 0, "rerank", "last")
    for name in ServerSettings.__struct_fields__:
        if name not in {"api_key", "model_path", "port"}:
            changed = msgspec.structs.replace(server, **{name: getattr(other, name)})
            assert difference(usual, prints(changed)) == "flags", name
    lax = msgspec.structs.replace(SETTINGS, strict=False)
    assert difference(usual, prints(server, lax)) == "flags"
    assert difference(usual, prints(server, gpus=(0, 1))) == "devices"
    assert difference(prints(server, gpus=(1, 0)), prints(server, gpus=(0, 1))) == "devices"
    loud = msgspec.structs.replace(SETTINGS, env={"TOKEN": "hunter2"})
    assert difference(usual, prints(server, loud)) == "environment"
    assert "hunter2" not in prints(server, loud)
    versions |= {"engine": "2", "model": "b"}
    assert difference(usual, prints(server)) == "engine, model"
    versions |= {"engine": "1", "model": "a"}
    monkeypatch.setenv("INVOCATION_ID", "new with each start")
    assert prints(server) == usual
    monkeypatch.setenv("LD_PRELOAD", "other.so")
    assert difference(usual, prints(server)) == "environment"
    assert difference(usual, "") == "devices, engine, environment, flags, model, program"
