"""Real engines are killed in the middle of a text, and so is the daemon: whoever reads sees only a pause."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from orchqueue.client import AsyncClient
from orchqueue.client.types import Completion, Token
from orchqueue.schema.data import Message, Sampling, TaskRequest
from tests.daemon import Daemon, running
from tests.waiting import until

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(180)]

CONFIG = """
pools:
  - id: small
    engine: llamacpp
    model: bundled:smollm2-135m-instruct-q4_1
    ctx: 512
    replicas: 2
    allow_cpu: true
    launch: {args: {threads: 1}}
    timeouts: {idle_ms: 30000}
    supervision: {backoff: {initial_ms: 200, max_ms: 200}, breaker: {failures: 50}, restarts_per_minute: 100}
"""
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 60}, "age": {"type": "integer", "maximum": 9999}},
    "required": ["name", "age"],
}
QUESTION = [Message(role="user", content="Tell me a story about a ship, a storm and a lighthouse.")]
KINDS = {
    "plain": Sampling(ignore_eos=True),
    "json_schema": Sampling(json_schema=SCHEMA),
    "grammar": Sampling(grammar='root ::= ("sea " | "ship " | "storm "){30}'),
    "stop strings": Sampling(ignore_eos=True, stop=["the end of all stories", "zzz"]),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two replicas that come back soon after they fail."""
    path = tmp_path_factory.mktemp("failover") / "orchqueue.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def daemon(config: Path) -> Iterator[Daemon]:
    """Serve them."""
    with running(config.parent / "data", config) as daemon:
        daemon.wait_all_replicas()
        yield daemon


def request(kind: str, seed: int = 1001, **fields: object) -> TaskRequest:
    """Ask for a text of some length."""
    return TaskRequest(messages=QUESTION, seed=seed, max_tokens=48, sampling=KINDS[kind], **fields)  # type: ignore[arg-type]


def kill_replica_of(daemon: Daemon, task_id: str) -> None:
    """Kill the engine that works on a task."""
    told = httpx.get(f"{daemon.url}/v1/tasks/{task_id}", timeout=10).json()
    (pid,) = (r["pid"] for r in daemon.replicas() if r["replica_id"] == told["replica_id"])
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)


async def read(
    url: str, wanted: TaskRequest, after_tokens: int = 0, strike: Callable[[str], None] | None = None
) -> Completion:
    """Read a whole answer as a caller does, and let something happen after some tokens."""
    async with AsyncClient(url) as client:
        stream = await client.run(wanted)
        heard = 0
        async for event in stream:
            heard += isinstance(event, Token)
            if strike is not None and heard == after_tokens and isinstance(event, Token):
                strike(stream.task_id)
        return await stream.result()


@pytest.mark.req("ORCH-4010", "ORCH-3045")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_replica_changes_no_byte(daemon: Daemon, kind: str) -> None:
    """The stream of a strict task goes on from the other replica, whatever shapes the text."""
    until(lambda: all(r["state"] == "ready" for r in daemon.replicas()), deadline_s=60, what="both replicas")
    undisturbed = await read(daemon.url, request(kind))
    assert len(undisturbed.text) > 30
    disturbed = await read(daemon.url, request(kind), 8, lambda task_id: kill_replica_of(daemon, task_id))
    assert disturbed.text == undisturbed.text
    assert disturbed.end.receipt.digest == undisturbed.end.receipt.digest
    assert disturbed.end.tokens_out == undisturbed.end.tokens_out
    assert (undisturbed.end.receipt.attempts, disturbed.end.receipt.attempts) == (1, 2)


@pytest.mark.req("ORCH-4178")
async def test_a_best_effort_answer_goes_on_and_says_so(daemon: Daemon) -> None:
    """What was read stays, the next engine goes on from it within the tokens that are left, and the receipt is marked."""
    until(lambda: all(r["state"] == "ready" for r in daemon.replicas()), deadline_s=60, what="both replicas")
    wanted = request("plain", determinism="best_effort")
    result = await read(daemon.url, wanted, 8, lambda task_id: kill_replica_of(daemon, task_id))
    assert (result.end.tokens_out, result.end.receipt.attempts, result.end.receipt.continued) == (48, 2, True)


@pytest.mark.req("ORCH-4011", "ORCH-4180", "ORCH-4183")
async def test_a_killed_daemon_changes_no_byte(config: Path, tmp_path: Path) -> None:
    """A caller reads on over a replica's death and the daemon's; the text is that of an undisturbed run."""
    first = Daemon(tmp_path / "data", config)
    lives = [first]
    try:
        first.wait_all_replicas()
        undisturbed = await read(first.url, request("plain", 7))
        async with AsyncClient(first.url) as client:
            stream = await client.run(request("plain", 7))
            heard = 0
            async for event in stream:
                if not isinstance(event, Token):
                    continue
                heard += 1
                if heard == 8:
                    kill_replica_of(first, stream.task_id)
                elif heard == 20:
                    port = first.port
                    first.kill()
                    lives.append(Daemon(tmp_path / "data", config, "--port", str(port)))
            result = await stream.result()
        assert result.text == undisturbed.text
        assert result.end.receipt.digest == undisturbed.end.receipt.digest
        assert result.end.receipt.attempts == 3
    finally:
        assert lives[-1].stop() == 0
