"""Engines of a killed daemon serve its successor, where that would launch them just so."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil
import pytest

from orchqueue.adapters.processes.identity import start_ticks_of
from orchqueue.client import AsyncClient
from orchqueue.schema.data import Sampling, TaskRequest
from tests.daemon import Daemon
from tests.waiting import until

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(240), pytest.mark.req("ORCH-4140")]

CONFIG = """
pools:
  - id: p
    engine: llamacpp
    model: bundled:smollm2-135m-instruct-q4_1
    ctx: 512
    replicas: 2
    allow_cpu: true
    launch: {args: {n_batch: %d}}
    timeouts: {wall_ms: 300000, idle_ms: 60000}
"""


class Lives:
    """One daemon after the other on the same data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._daemons: list[Daemon] = []

    def begin(self, n_batch: int = 8) -> Daemon:
        """Start one, and wait for its replicas."""
        config = self._directory / "config.yaml"
        config.write_text(CONFIG % n_batch)
        self._daemons.append(Daemon(self._directory / "data", config))
        self._daemons[-1].wait_all_replicas()
        return self._daemons[-1]

    def end(self) -> None:
        """Stop the last one."""
        if self._daemons and self._daemons[-1].process.poll() is None:
            self._daemons[-1].stop()


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Lives]:
    """Start daemons that end with the test."""
    lives = Lives(tmp_path)
    yield lives
    lives.end()


def engines(daemon: Daemon) -> dict[str, psutil.Process]:
    """Give the engine's process of each replica."""
    return {str(replica["replica_id"]): psutil.Process(int(str(replica["pid"]))) for replica in daemon.replicas()}


def lives(engine: psutil.Process) -> bool:
    """Tell whether an engine still runs: one that only waits to be reaped, by whoever that is, has ended."""
    return engine.is_running() and start_ticks_of(engine.pid) is not None


def told(daemon: Daemon, event: str, replicas: Collection[str]) -> dict[str, str]:
    """Wait until the log has such lines for these replicas; give by replica the engine's pid and the detail."""

    def found() -> dict[str, str]:
        lines = [json.loads(line) for line in list(daemon.log) if f'"{event}"' in line]
        return {str(line["replica_id"]): f"{line['pid']} {line.get('detail')}" for line in lines}

    # A replica may be seen ready before the line about it has come through the pipe.
    until(lambda: found().keys() >= set(replicas), deadline_s=60, what=f"{event} of {replicas}")
    return found()


@pytest.mark.req("ORCH-4011", "ORCH-4027", "ORCH-4380", "ORCH-4381")
async def test_engines_of_a_killed_daemon_serve_on(daemons: Lives) -> None:
    """Killed while both decode, the daemon comes back with the same engines, which answer; other flags, other engines."""
    first = daemons.begin()
    before = engines(first)
    endless = Sampling(ignore_eos=True)
    request = TaskRequest(prompt="Once", max_tokens=200, seed=7, sampling=endless, on_disconnect="continue")
    async with AsyncClient(first.url) as client:
        streams = [await client.run(request) for _ in range(2)]
        for stream in streams:
            async for event in stream:
                if type(event).__name__ == "TokenEvent":
                    break
    first.kill()

    second = daemons.begin()
    assert engines(second) == before
    assert {name: said.split()[0] for name, said in told(second, "engine_adopted", before).items()} == {
        name: str(engine.pid) for name, engine in before.items()
    }
    async with AsyncClient(second.url) as client:
        texts = {(await client.stream(stream.task_id).result()).text for stream in streams}
        assert len(texts) == 1
    second.kill()

    third = daemons.begin(n_batch=16)
    after = engines(third)
    assert not set(after.values()) & set(before.values())
    assert not any(lives(engine) for engine in before.values())
    said = told(third, "leftover_engine", before)
    assert set(said) == set(before)
    assert all(detail.endswith("it was launched with another flags") for detail in said.values())
    assert third.stop() == 0
    assert not any(lives(engine) for engine in after.values())
    assert {path.suffix for path in (third.data_dir / "replicas").iterdir()} == {".log"}


@pytest.mark.req("ORCH-4139", "ORCH-4378")
def test_each_engine_that_was_left_is_judged_for_itself(daemons: Lives) -> None:
    """Of two engines one serves on; the other, whose identity was torn or whose launcher hangs, is replaced."""
    first = daemons.begin()
    before = engines(first)
    first.kill()
    [torn] = (first.data_dir / "replicas").glob("p-0-*.json")
    torn.write_text("{")

    second = daemons.begin()
    until(lambda: not lives(before["p-0"]), deadline_s=60, what="the engine without identity to end")
    between = engines(second)
    assert between["p-1"] == before["p-1"]
    second.kill()
    launcher = between["p-1"].parent()
    assert launcher is not None
    os.kill(launcher.pid, signal.SIGSTOP)

    third = daemons.begin()
    after = engines(third)
    assert after["p-0"] == between["p-0"]
    assert after["p-1"] != between["p-1"]
    assert not lives(between["p-1"])
    assert "does not answer" in told(third, "leftover_engine", ["p-1"])["p-1"]
