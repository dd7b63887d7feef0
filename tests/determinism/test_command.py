"""`orchq verify determinism` against live deployments: what it finds, refuses, and leaves behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchqueue.client import AsyncClient
from orchqueue.verify.snapshot import parse
from tests.daemon import Daemon, running
from tests.simulated import SimulatedEngine, pool_text, serving, simulated_engine
from tests.unit.cli.running import on_terminal, orchq, start
from tests.waiting import until_async

pytestmark = pytest.mark.timeout(120)
FAST = ("--tokens-per-s", "2000")


def pair(folder: Path, pools: str) -> Iterator[Daemon]:
    """Run a daemon over these pools."""
    config = folder / "orchqueue.yaml"
    config.write_text(f"pools:\n{pools}")
    with running(folder / "data", config) as daemon:
        daemon.wait_all_replicas()
        yield daemon


@pytest.fixture
def engines() -> Iterator[tuple[SimulatedEngine, SimulatedEngine]]:
    """Run two simulated engines."""
    with simulated_engine(*FAST) as one, simulated_engine(*FAST) as other:
        yield one, other


@pytest.fixture
def one_pool(engines: tuple[SimulatedEngine, SimulatedEngine], tmp_path: Path) -> Iterator[Daemon]:
    """Run one pool of two replicas."""
    yield from pair(tmp_path, pool_text(*engines))


@pytest.mark.req("ORCH-4231", "ORCH-4402")
async def test_one_pool_with_two_replicas(one_pool: Daemon) -> None:
    """Every seed runs on both, though a task can only be pinned to their pool; the report names them and the status is 0."""
    ran = await orchq("verify", "determinism", url=one_pool.url)
    assert (ran.status, ran.out.splitlines()[-1][:24]) == (0, "64/64 seeds byte-exact (")
    assert "compared: sim-0 (" in ran.out
    assert "128/128 runs; sim-0 " in ran.err
    assert len(ran.err.splitlines()) <= 10


@pytest.mark.req("ORCH-4231")
async def test_two_pools_of_one_replica_set(engines: tuple[SimulatedEngine, SimulatedEngine], tmp_path: Path) -> None:
    """Two pools that promise equal bytes to each other are compared with each other; --json gives the whole report."""
    for daemon in pair(tmp_path, pool_text(engines[0], pool_id="first") + pool_text(engines[1], pool_id="second")):
        ran = await orchq("verify", "determinism", "--seeds", "8", "--json", "-q", url=daemon.url)
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert (report["verdict"], report["seeds_equal"], report["compared"]) == ("equal", 8, "replicas")
    assert [(one["replica_id"], one["pool_id"]) for one in report["replicas"]] == [
        ("first-0", "first"),
        ("second-0", "second"),
    ]


@pytest.mark.req("ORCH-4231", "ORCH-4287", "ORCH-4404")
async def test_an_engine_that_lies_is_caught(
    one_pool: Daemon, engines: tuple[SimulatedEngine, SimulatedEngine], tmp_path: Path
) -> None:
    """An engine that passed its self-test and then gives other texts is told by its token, with both runs as files."""
    engines[1].set_faults(not_deterministic=True)
    ran = await orchq("verify", "determinism", "--seeds", "8", "--out", str(tmp_path / "runs"), url=one_pool.url)
    assert ran.status == 7
    assert "DIFFERENT: 8 of 8 seeds gave two texts: seeds 1001-1008" in ran.out
    assert "part at token 0, byte 0" in ran.out
    assert "log-probabilities    none" in ran.out
    assert "… and " in ran.out
    runs = {one: parse((tmp_path / "runs" / f"{one}.jsonl").read_text()) for one in ("sim-0", "sim-1")}
    texts = {name: {run.seed: run.text for run in found} for name, found in runs.items()}
    assert texts["sim-0"].keys() == texts["sim-1"].keys() == set(range(1001, 1009))
    assert (tmp_path / "runs" / "divergences.txt").read_text().count("part at token") >= 8


@pytest.mark.req("ORCH-4402", "ORCH-4403")
async def test_while_other_things_happen(one_pool: Daemon) -> None:
    """Load, sessions and cancels together leave the texts as they are, and nothing of them is left running."""
    options = [word for one in ("load", "sessions", "cancels") for word in ("--under", one)]
    ran = await orchq("verify", "determinism", "--seeds", "4", *options, url=one_pool.url)
    assert ran.status == 0, ran.out
    assert "meanwhile: load, sessions, cancels" in ran.out
    async with AsyncClient(one_pool.url) as client:
        assert [task.task_id async for task in client.tasks(state="running")] == []
        assert [task.task_id async for task in client.tasks(state="queued")] == []


@pytest.mark.req("ORCH-4402")
async def test_one_replica_alone_is_compared_with_itself(one_pool: Daemon) -> None:
    """Each seed runs twice on it, also when an idle neighbour stands before it, and no more is claimed."""
    ran = await orchq("verify", "determinism", "--seeds", "4", "--replicas", "sim-1", url=one_pool.url)
    assert ran.status == 0
    assert ran.out.startswith("compared with itself, for there is no second replica: sim-1 (")


@pytest.mark.req("ORCH-4231")
@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (("--pool", "nowhere"), 4, "there is no pool nowhere that completes texts; those here: sim"),
        (("--replicas", "sim-7"), 4, "replica sim-7 cannot be compared"),
        (("--replicas", ","), 2, "--replicas names no replica"),
        (("--seeds", "65"), 2, "--seeds takes 1 to 64"),
        (("--max-tokens", "0"), 2, "--max-tokens takes"),
        (("--retry-for", "-1"), 2, "--retry-for takes"),
        (("--max-tokens", "9999"), 2, "above ctx 2048"),
    ],
)
async def test_wrong_wishes_are_refused(one_pool: Daemon, options: tuple[str, ...], status: int, told: str) -> None:
    """What cannot be done is told with the right status, before or at the first task."""
    ran = await orchq("verify", "determinism", *options, url=one_pool.url)
    assert ran.status == status
    assert told in ran.err


@pytest.mark.req("ORCH-4231", "ORCH-4400")
async def test_a_pool_that_promises_nothing_is_refused_and_can_be_measured(tmp_path: Path) -> None:
    """Two slots: no promise, so status 7 and the reason; --best-effort counts instead and has status 0."""
    more = "    slots: 2\n"
    with serving(tmp_path, "", *FAST, "--slots", "2", more=more) as daemon:
        ran = await orchq("verify", "determinism", url=daemon.url)
        assert ran.status == 7
        assert "no strict determinism is promised by sim" in ran.err
        assert "it decodes several tasks at a time" in ran.err
        ran = await orchq("verify", "determinism", "--best-effort", "--seeds", "4", url=daemon.url)
    assert ran.status == 0
    assert "best_effort, 40 tokens a stream" in ran.out


@pytest.mark.req("ORCH-4400")
async def test_the_self_test_decides_who_is_strict(
    engines: tuple[SimulatedEngine, SimulatedEngine], tmp_path: Path
) -> None:
    """A replica that gives the same prompt two texts at its start makes no strict pool, and its note says so to the user."""
    engines[0].set_faults(not_deterministic=True)
    for daemon in pair(tmp_path, pool_text(engines[0])):
        ran = await orchq("verify", "determinism", url=daemon.url)
    assert ran.status == 7
    assert "the self-test disproved it (sim-0: the same prompt and seed gave 3 different texts)" in ran.err


@pytest.mark.req("ORCH-4231")
async def test_the_bar_is_drawn_on_a_terminal(one_pool: Daemon) -> None:
    """A terminal sees one line that is rewritten, up to the whole."""
    status, out, err = await on_terminal("verify", "determinism", "--seeds", "3", url=one_pool.url)
    assert status == 0
    assert "3/3 seeds byte-exact" in out
    assert err.count("\r\x1b[2K[") >= 6
    assert "[############################] 6/6 runs" in err


@pytest.mark.req("ORCH-4402", "ORCH-4224")
async def test_ctrl_c_cancels_and_tells_what_was_compared(
    one_pool: Daemon, engines: tuple[SimulatedEngine, SimulatedEngine]
) -> None:
    """Stopped in its middle it leaves no task behind, says how far it was, and calls nothing verified."""
    # However late it is stopped, no text has ended.
    for engine in engines:
        engine.set_faults(silent_after=5)
    process = await start("verify", "determinism", url=one_pool.url)
    async with AsyncClient(one_pool.url) as client:

        async def running_tasks() -> list[str]:
            return [task.task_id async for task in client.tasks(state="running")]

        await until_async(running_tasks, what="a running task")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert await running_tasks() == []
    assert process.returncode == 130
    assert "stopped; the running tasks are canceled. Until then:" in err.decode()
    assert "NOT VERIFIED: 0/64 seeds were compared, and were equal" in out.decode()


@pytest.mark.req("ORCH-4402")
async def test_no_server_is_no_success() -> None:
    """Where nobody answers nothing was verified, and the status is that of a lost server."""
    ran = await orchq("verify", "determinism", url="http://127.0.0.1:9")
    assert (ran.status, ran.out) == (6, "")


@pytest.mark.real_engine
@pytest.mark.timeout(600)
@pytest.mark.req("ORCH-4404", "ORCH-4405")
async def test_a_daemon_that_calls_two_slots_strict_is_caught(tmp_path: Path) -> None:
    """Real engine, two slots, the rule and the self-test switched off: under load the texts differ and the command says so."""
    config = tmp_path / "orchqueue.yaml"
    config.write_text(
        "pools:\n  - id: liar\n    engine: llamacpp\n    model: bundled:smollm2-135m-instruct-q4_1\n    ctx: 512\n"
        "    allow_cpu: true\n    slots: 2\n    launch: {args: {threads: 1}}\n"
    )
    daemon = Daemon(tmp_path / "data", config, entry=(sys.executable, "-m", "tests.determinism.planted_daemon"))
    try:
        daemon.wait_all_replicas()
        ran = await orchq("verify", "determinism", "--seeds", "8", "--under", "load", url=daemon.url)
    finally:
        await asyncio.to_thread(daemon.stop)
    assert ran.status == 7, ran.out
    assert "DIFFERENT" in ran.out
