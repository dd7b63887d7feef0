"""Simulated TGI routers behind the daemon: what callers see of one that dies, is full, or is asked for what it does not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from orchqueue.client import AsyncClient
from orchqueue.client.errors import TaskFailed
from orchqueue.client.types import Completion, Token
from orchqueue.schema.data import Message, Sampling, TaskRequest
from tests.daemon import Daemon, running
from tests.simulated import SimulatedEngine
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

POOL = """
pools:
  - id: chat
    engine: tgi
    model: repo:simulated/words
    ctx: 1024
    allow_cpu: true
    devices: [cpu]
    replicas: 2
    slots: 1
    determinism: strict
    launch: {{mode: external, urls: [{urls}], allow_simulated: true}}
    timeouts: {{wall_ms: 300000, idle_ms: 60000}}
    supervision: {{backoff: {{initial_ms: 200, max_ms: 200}}, breaker: {{failures: 50}}, restarts_per_minute: 100}}
"""
CHAT = [Message(role="system", content="be brief"), Message(role="user", content="Tell me of a ship.")]
WANTED = TaskRequest(messages=CHAT, seed=1002, max_tokens=200)
# A router that falls silent there is still at the text when something happens to it, however late that is.
SILENT_AFTER = 25


class Park:
    """A daemon and its two routers."""

    def __init__(self, daemon: Daemon, routers: list[SimulatedEngine]) -> None:
        self.daemon = daemon
        self.routers = routers

    def kill_router_of(self, task_id: str) -> None:
        """Kill the router that works on a task; the other one goes on to the end."""
        told = httpx.get(f"{self.daemon.url}/v1/tasks/{task_id}", timeout=60).json()
        (url,) = (r["url"] for r in self.daemon.replicas() if r["replica_id"] == told["replica_id"])
        (hit,) = (router for router in self.routers if router.url == url)
        (other,) = (router for router in self.routers if router is not hit)
        other.set_faults()
        hit.process.kill()


@pytest.fixture
def park(tmp_path: Path) -> Iterator[Park]:
    """Serve two routers as one replica set."""
    with ExitStack() as stack:
        routers = [SimulatedEngine("--tokens-per-s", "60", engine="tgi") for _ in range(2)]
        for router in routers:
            stack.callback(router.end)
        config = tmp_path / "orchqueue.yaml"
        config.write_text(POOL.format(urls=", ".join(f"'{router.url}'" for router in routers)))
        daemon = stack.enter_context(running(tmp_path / "data", config))
        daemon.wait_all_replicas()
        yield Park(daemon, routers)


async def read(park: Park, wanted: TaskRequest, *, kill_after: int = 0) -> Completion:
    """Read a whole answer, and kill its router after some pieces."""
    async with AsyncClient(park.daemon.url) as client:
        stream = await client.run(wanted)
        heard = 0
        async for event in stream:
            heard += isinstance(event, Token)
            if kill_after and heard == kill_after and isinstance(event, Token):
                park.kill_router_of(stream.task_id)
        return await stream.result()


@pytest.mark.req("ORCH-4221", "ORCH-4010")
async def test_a_killed_router_changes_no_byte(park: Park) -> None:
    """A strict chat goes on from the other router without a gap, and its receipt counts both attempts."""
    undisturbed = await read(park, WANTED)
    assert undisturbed.end.finish_reason == "stop"
    assert len(undisturbed.text) > 60
    for router in park.routers:
        router.set_faults(silent_after=SILENT_AFTER)
    disturbed = await read(park, WANTED, kill_after=6)
    assert disturbed.text == undisturbed.text
    assert disturbed.end.receipt.digest == undisturbed.end.receipt.digest
    assert (undisturbed.end.receipt.attempts, disturbed.end.receipt.attempts) == (1, 2)
    assert disturbed.end.receipt.engine == "tgi"


@pytest.mark.req("ORCH-4221", "ORCH-4216")
async def test_a_full_router_is_tried_elsewhere(park: Park) -> None:
    """A router that has no room is no end of the task."""
    for router in park.routers:
        router.set_faults(status=429, times=1)
    result = await read(park, WANTED)
    assert result.end.receipt.attempts > 1
    assert result.text


@pytest.mark.req("ORCH-4221", "ORCH-4432")
async def test_what_tgi_lacks_is_refused_by_name(park: Park) -> None:
    """The task ends with INVALID_PARAMS and the name of what is missing, before any text."""
    wishes = {
        "min_p": Sampling(min_p=0.1), "ignore_eos": Sampling(ignore_eos=True), "grammar": Sampling(grammar='root ::= "a"')
    }  # fmt: skip
    for name, sampling in wishes.items():
        with pytest.raises(TaskFailed, match=f"tgi does not offer {name}") as failed:
            await read(park, TaskRequest(prompt="x", seed=1, max_tokens=4, sampling=sampling))
        assert failed.value.code == "INVALID_PARAMS"
        assert failed.value.text == ""


@pytest.mark.req("ORCH-4221", "ORCH-3017")
async def test_a_canceled_task_leaves_its_router(park: Park) -> None:
    """After a cancel the router is seen to stop, and serves the next task."""
    for router in park.routers:
        router.set_faults(silent_after=SILENT_AFTER)
    async with AsyncClient(park.daemon.url) as client:
        stream = await client.run(WANTED)
        async for event in stream:
            if isinstance(event, Token):
                await client.cancel(stream.task_id)
        assert (await stream.result()).end.canceled

    def at_rest() -> bool:
        figures = [httpx.get(f"{router.url}/metrics", timeout=60).text for router in park.routers]
        return all("tgi_batch_current_size 0\n" in one for one in figures)

    until(at_rest, what="both routers to rest")
    for router in park.routers:
        router.set_faults()
    assert (await read(park, WANTED)).text
