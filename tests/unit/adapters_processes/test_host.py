"""Replicas brought up for real: spawned llama.cpp servers, and servers found at a URL."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from orchqueue.adapters.engines.conformance.listening import begin
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.model_file import look_at_file
from orchqueue.adapters.models import Look, ModelFile, ModelStore
from orchqueue.adapters.processes import external, fit, host, launched, polled
from orchqueue.adapters.processes.external import ExternalHost
from orchqueue.adapters.processes.host import LlamacppSpawnHost, SpawnedReplica
from orchqueue.adapters.processes.llamacpp_launch import SpawnSettings
from orchqueue.core.events import CrashCause
from orchqueue.core.ids import ReplicaId
from orchqueue.core.request import Sampling, TaskSpec
from orchqueue.ports.errors import EngineError, ProcessError
from orchqueue.ports.process import OnExit
from tests.conformance.engine.beds import MODEL
from tests.conformance.engine.conftest import StartSimulated
from tests.model_files import copy_of_bundled, small
from tests.waiting import until_async

pytestmark = pytest.mark.timeout(180)

REPLICA = ReplicaId("pool-0")
ENDLESS = Sampling(ignore_eos=True)


class Exits(list[tuple[CrashCause, str]]):
    """Collects what a host tells of a replica's end."""

    def __call__(self, cause: CrashCause, detail: str) -> None:
        self.append((cause, detail))


BringUp = Callable[..., Awaitable[SpawnedReplica]]


@pytest_asyncio.fixture
async def bring_up(tmp_path: Path) -> AsyncIterator[BringUp]:
    """Launch real engines that end with the test."""
    started: list[SpawnedReplica] = []

    async def start(settings: SpawnSettings, model: str = MODEL, exits: OnExit | None = None) -> SpawnedReplica:
        started.append(await spawn_host(tmp_path, settings).launch(REPLICA, model, Exits() if exits is None else exits))
        return started[-1]

    yield start
    for running in started:
        await running.stop()


def spawn_host(tmp_path: Path, settings: SpawnSettings) -> LlamacppSpawnHost:
    """Make a host in a fresh directory."""
    return LlamacppSpawnHost(settings, tmp_path / "replicas", ModelStore(), orphan_grace_s=1.0)


@pytest.mark.real_engine
@pytest.mark.req("ORCH-3001", "ORCH-3038")
async def test_a_real_engine_is_killed_under_load(bring_up: BringUp, tmp_path: Path) -> None:
    """A kill -9 of the real engine loses its attempt, is told with its cause, and leaves nothing behind."""
    exits = Exits()
    running = await bring_up(SpawnSettings("pool", 1024, allow_cpu=True, replicas=2), exits=exits)
    facts = await running.replica.self_test()
    assert facts.strict_proven, facts.selftest_note
    assert facts.kv_bytes_per_token == 23_040
    assert facts.engine_version.startswith("xllamacpp-")
    assert facts.ctx == 1024
    attempt = begin(running.replica, TaskSpec(prompt="Tell me everything", seed=1, max_tokens=900, sampling=ENDLESS))
    await attempt.first_text.wait()
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    await attempt.closed_event.wait()
    assert attempt.failure is not None
    assert attempt.failure[0] == "lost"
    await until_async(lambda: exits, what="the exit to be told")
    assert exits[0][0] == "signal"
    await running.stop()
    assert len(exits) == 1
    assert {path.suffix for path in await asyncio.to_thread(lambda: list((tmp_path / "replicas").iterdir()))} == {
        ".log"
    }


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4141")
async def test_strangers_cannot_use_a_spawned_engine(bring_up: BringUp) -> None:
    """A spawned engine answers only to the key that its host made."""
    running = await bring_up(SpawnSettings("pool", 256, allow_cpu=True))
    outside = ExternalHost("llamacpp", {REPLICA: running.url})
    stranger = await outside.launch(REPLICA, MODEL, Exits())
    attempt = begin(stranger.replica, TaskSpec(prompt="hi", seed=1, max_tokens=2))
    await attempt.closed_event.wait()
    assert attempt.failure is not None
    assert "401" in attempt.failure[1]
    await stranger.stop()


@pytest.mark.req("ORCH-3049")
async def test_what_cannot_fit_is_never_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that needs more memory than is free fails with the reason, and no process is started."""
    monkeypatch.setattr(host, "host_available_bytes", lambda: fit.OVERHEAD_BYTES)
    with pytest.raises(ProcessError) as caught:
        await spawn_host(tmp_path, SpawnSettings("pool", 2048, allow_cpu=True)).launch(REPLICA, MODEL, Exits())
    assert caught.value.cause == "cannot_fit"
    assert not (tmp_path / "replicas").exists()


@pytest.mark.req("ORCH-3002")
async def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    """A file that llama.cpp cannot load is refused before a process is started."""
    model = tmp_path / "m.gguf"
    await asyncio.to_thread(model.write_bytes, b"nothing")
    with pytest.raises(ProcessError, match="not a GGUF"):
        await spawn_host(tmp_path, SpawnSettings("pool", 2048, allow_cpu=True)).launch(
            REPLICA, f"file:{model}", Exits()
        )


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4429")
async def test_a_model_that_the_engine_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    """A whole file of an architecture that llama.cpp does not know, or without its tensors, ends with the engine's reason."""
    model = tmp_path / "m.gguf"
    for data, said in (
        (small(general__architecture="lllma"), "unknown model architecture: 'lllma'; use a newer engine"),
        (small(), "make or fetch it again"),
    ):
        await asyncio.to_thread(model.write_bytes, data)
        with pytest.raises(ProcessError) as caught:
            await spawn_host(tmp_path, SpawnSettings("pool", 256, allow_cpu=True)).launch(
                REPLICA, f"file:{model}", Exits()
            )
        assert caught.value.cause == "model_file"
        assert f"model file {model} is refused by the engine: " in str(caught.value)
        assert said in str(caught.value)
    assert not await asyncio.to_thread(lambda: list((tmp_path / "replicas").glob("*.sock")))


class Swapped(ModelStore):
    """Replaces a model's file as soon as its checksum was compared, by one with the same bytes."""

    async def verify(self, model_ref: str, expected_sha256: str | None = None, look: Look = look_at_file) -> ModelFile:
        """Verify, then replace."""
        found = await super().verify(model_ref, expected_sha256, look)
        await asyncio.to_thread(shutil.copy, found.path, f"{found.path}.new")
        os.replace(f"{found.path}.new", found.path)
        return found


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4423")
async def test_a_file_that_is_replaced_between_checksum_and_load_serves_nobody(tmp_path: Path) -> None:
    """The engine came up with a file that nobody had verified, and is ended."""
    model = tmp_path / "m.gguf"
    await asyncio.to_thread(copy_of_bundled, model)
    swapping = LlamacppSpawnHost(
        SpawnSettings("pool", 256, allow_cpu=True), tmp_path / "replicas", Swapped(), orphan_grace_s=1.0
    )
    with pytest.raises(ProcessError, match="changed while the engine loaded it") as caught:
        await swapping.launch(REPLICA, f"file:{model}", Exits())
    assert caught.value.cause == "checksum"
    assert not await asyncio.to_thread(lambda: list((tmp_path / "replicas").glob("*.sock")))


async def test_flags_are_checked_when_the_host_is_made(tmp_path: Path) -> None:
    """A flag that does not exist stops the daemon's start."""
    with pytest.raises(ProcessError, match="bananas"):
        spawn_host(tmp_path, SpawnSettings("pool", 2048, args={"bananas": 1}))


@pytest.mark.req("ORCH-3038")
async def test_three_failed_health_polls_are_a_loss(simulate: StartSimulated) -> None:
    """An external engine that stops answering is told as lost, once; an engine that recovers in time is not."""
    engine = await simulate()
    exits = Exits()
    outside = ExternalHost("llamacpp", {REPLICA: engine.url}, allow_simulated=True, health_interval_s=0.02)
    running = await outside.launch(REPLICA, "repo:x/y", exits)
    assert (running.pid, running.url) == (None, engine.url)
    await engine.set_faults(unhealthy=True)
    await until_async(lambda: exits, what="the loss to be told")
    await running.stop()
    assert [cause for cause, _ in exits] == ["health"]
    assert "loading" in exits[0][1]


class Killed:
    """Stands for the launched process and for its engine: nobody answers, and the launcher tells of the exit a moment later."""

    def __init__(self) -> None:
        self.exited: asyncio.Future[launched.Exit] = asyncio.get_running_loop().create_future()
        self.asked = 0

    async def health(self) -> bool:
        """Fail as a connection to a killed engine does."""
        self.asked += 1
        raise EngineError("connection reset by peer")

    def tail(self) -> str:
        """Give no last words."""
        return ""

    async def close(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""


@pytest.mark.req("ORCH-4142")
async def test_an_exit_says_more_than_failed_health_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned engine that was killed is lost by its signal, though health polls noticed first."""
    monkeypatch.setattr(host, "EXIT_TOLD_WITHIN_S", 60.0)
    exits, killed = Exits(), Killed()
    running = SpawnedReplica(killed, killed, exits, 0.001, 0)  # type: ignore[arg-type]
    await until_async(lambda: killed.asked >= polled.HEALTH_FAILURES, what="the polls to fail")
    for _ in range(10):
        await asyncio.sleep(0)
    killed.exited.set_result(launched.Exit(-signal.SIGKILL, asked=False))
    await until_async(lambda: exits, what="the loss to be told")
    await running.stop()
    assert [cause for cause, _ in exits] == ["signal"]


class Alive(Killed):
    """Stands for an engine that answers its health polls and has said something in its log."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    async def health(self) -> bool:
        """Answer."""
        self.asked += 1
        return True

    def tail(self) -> str:
        """Give what it said."""
        return self.said


@pytest.mark.req("ORCH-4292")
@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("slot released\nCUDA error: an illegal memory access was encountered\n  current device: 0\n", "cuda"),
        ("ggml_cuda_compute_forward: MUL_MAT failed\n", "cuda"),
        ("CUDA error: out of memory\n", "vram_oom"),
    ],
)
async def test_a_living_engine_whose_device_failed_is_lost(said: str, cause: str) -> None:
    """An engine that answers but has told of a device error is told as lost, with what it said."""
    exits, alive = Exits(), Alive(said)
    running = SpawnedReplica(alive, alive, exits, 0.001, 0)  # type: ignore[arg-type]
    await until_async(lambda: exits, what="the loss to be told")
    await running.stop()
    [(told, detail)] = exits
    assert told == cause
    assert detail.removeprefix("the device failed: ") in said


@pytest.mark.req("ORCH-4292")
async def test_what_a_client_sent_ends_no_replica() -> None:
    """Device errors that stand inside other lines of the log, as a prompt may put them there, are not taken for real."""
    exits, alive = Exits(), Alive("prompt: 'CUDA error: out of memory'\n request: cudaMalloc failed\n")
    running = SpawnedReplica(alive, alive, exits, 0.001, 0)  # type: ignore[arg-type]
    await until_async(lambda: alive.asked > 5, what="some polls")
    await running.stop()
    assert not exits


async def test_a_stop_that_was_asked_for_is_not_a_loss(simulate: StartSimulated) -> None:
    """After stop nothing is told."""
    engine = await simulate()
    exits = Exits()
    running = await ExternalHost("llamacpp", {REPLICA: engine.url}, health_interval_s=0.01).launch(REPLICA, "x", exits)
    await running.stop()
    await engine.end()
    assert not exits


async def test_an_endpoint_that_never_answers_is_told(
    simulate: StartSimulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody at the URL: never ready, with the URL and the reason."""
    monkeypatch.setattr(external, "UNREACHABLE_S", 0.2)
    engine = await simulate()
    await engine.end()
    with pytest.raises(ProcessError, match=engine.url) as caught:
        await ExternalHost("llamacpp", {REPLICA: engine.url}).launch(REPLICA, "x", Exits())
    assert caught.value.cause == "never_ready"


async def test_a_loading_engine_is_waited_for(simulate: StartSimulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that still loads is healthy later, though it takes longer than one that does not answer may."""
    monkeypatch.setattr(external, "UNREACHABLE_S", 0.0)
    engine = await simulate("--loading-ms", "300")
    running = await ExternalHost("llamacpp", {REPLICA: engine.url}).launch(REPLICA, "x", Exits())
    assert await running.replica.health()
    await running.stop()


@pytest.mark.real_engine
async def test_a_real_engine_with_two_slots(bring_up: BringUp) -> None:
    """Two slots have the whole ctx each, decode at once, and are not strict."""
    running = await bring_up(SpawnSettings("pool", 2048, slots=2, strict=False, allow_cpu=True, args={"threads": 1}))
    facts = await running.replica.self_test()
    assert (facts.slots_total, facts.ctx, facts.strict_proven) == (2, 2048, False)
    # Texts as long as a slot has room for, so that neither ends while the other is waited for.
    runs = [
        begin(running.replica, TaskSpec(prompt="Tell me more", seed=seed, max_tokens=2000, sampling=ENDLESS))
        for seed in (1, 2)
    ]
    for run in runs:
        await run.first_text.wait()
    assert (await running.replica.scrape()).cached_tokens is None
    assert not any(run.closed_event.is_set() for run in runs)
    for run in runs:
        assert run.handle is not None
        run.handle.abort()
        await run.closed_event.wait()


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4255")
async def test_the_only_slot_tells_what_it_holds(bring_up: BringUp) -> None:
    """The engine's figure is prompt and text, less the last token, which it never had to read."""
    running = await bring_up(SpawnSettings("pool", 256, strict=False, allow_cpu=True, args={"threads": 1}))
    run = begin(running.replica, TaskSpec(prompt="Once upon a time", seed=1, max_tokens=6, sampling=ENDLESS))
    await run.closed_event.wait()
    assert run.completion is not None
    held = run.completion.tokens_in + run.completion.tokens_out - 1
    assert (await running.replica.scrape()).cached_tokens == held


@pytest.mark.real_engine
@pytest.mark.req("ORCH-4137")
async def test_a_context_beyond_the_models_is_refused(bring_up: BringUp) -> None:
    """A ctx that the engine cuts down to what the model was made for does not pass for the whole."""
    running = await bring_up(SpawnSettings("pool", 16_384, allow_cpu=True))
    with pytest.raises(EngineError, match="promises 16384"):
        await running.replica.self_test()


@pytest.mark.req("ORCH-2102", "ORCH-3037")
async def test_a_reloads_model_is_looked_at_before_anything_stops(tmp_path: Path) -> None:
    """A file that is no model is refused while it is only verified; the configured checksum binds the configured model alone."""
    rubbish = tmp_path / "rubbish.gguf"
    rubbish.write_bytes(b"not a model")
    pinned = spawn_host(
        tmp_path, SpawnSettings("pool", 512, allow_cpu=True, model_ref="file:/old", model_sha256="0" * 64)
    )
    with pytest.raises(ProcessError, match="is not a GGUF file"):
        await pinned.verify_model(f"file:{rubbish}")
    assert len(await pinned.verify_model(MODEL)) == 64
    strict = spawn_host(tmp_path, SpawnSettings("pool", 512, allow_cpu=True, model_ref=MODEL, model_sha256="0" * 64))
    with pytest.raises(ProcessError) as refused:
        await strict.verify_model(MODEL)
    assert refused.value.cause == "checksum"


@pytest.mark.req("ORCH-2102")
async def test_external_engines_cannot_be_given_another_model() -> None:
    """A reload of an external pool with another model is refused; with its own it only connects anew."""
    described = Description(model_ref="repo:a/b", model_digest="1" * 64)
    outside = ExternalHost("llamacpp", {REPLICA: "http://127.0.0.1:9"}, described)
    assert await outside.verify_model("repo:a/b") == "1" * 64
    with pytest.raises(ProcessError, match="run elsewhere"):
        await outside.verify_model("repo:c/d")
