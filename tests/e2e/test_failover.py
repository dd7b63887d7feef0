"""Real engines are killed in the middle of a text, and so is the daemon: whoever reads sees only a pause."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchqueue.client import AsyncClient
from orchqueue.client.stream import TaskStream
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
    timeouts: {wall_ms: 300000, idle_ms: 60000}
    supervision: {backoff: {initial_ms: 200, max_ms: 200}, breaker: {failures: 50}, restarts_per_minute: 100}
"""
# Most of each text is still to be said when the stroke comes, whatever the model would rather say.
MAX_TOKENS = 200
AT_LEAST_TOKENS = 80
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": f"^[a-z]{{1,8}}( [a-z]{{1,8}}){{{AT_LEAST_TOKENS}}}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 9999},
    },
    "required": ["name", "age"],
}
QUESTION = [Message(role="user", content="Tell me a story about a ship, a storm and a lighthouse.")]
KINDS = {
    "plain": Sampling(ignore_eos=True),
    "json_schema": Sampling(json_schema=SCHEMA),
    "grammar": Sampling(grammar='root ::= ("sea " | "ship " | "storm "){120}'),
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
    return TaskRequest(messages=QUESTION, seed=seed, max_tokens=MAX_TOKENS, sampling=KINDS[kind], **fields)  # type: ignore[arg-type]


def engines(daemon: Daemon) -> dict[str, int]:
    """Wait until both replicas serve; give their engines, so that the one at work can be killed without asking first."""
    until(lambda: all(r["state"] == "ready" for r in daemon.replicas()), deadline_s=60, what="both replicas")
    return {str(replica["replica_id"]): int(str(replica["pid"])) for replica in daemon.replicas()}


async def read(url: str, wanted: TaskRequest, after_tokens: int = 0, pids: dict[str, int] | None = None) -> Completion:
    """Read a whole answer as a caller does; after some tokens kill the engine that works on it, where engines are given."""
    async with AsyncClient(url) as client:
        stream = await client.run(wanted)
        heard = 0
        async for event in stream:
            heard += isinstance(event, Token)
            if pids is not None and heard == after_tokens and isinstance(event, Token):
                kill_engine_of(stream, pids)
        return await stream.result()


def kill_engine_of(stream: TaskStream, pids: dict[str, int]) -> None:
    """Kill the engine that works on a task."""
    assert stream.started is not None
    os.kill(pids[stream.started.replica_id], signal.SIGKILL)


@pytest.mark.req("ORCH-4010", "ORCH-3045")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_replica_changes_no_byte(daemon: Daemon, kind: str) -> None:
    """The stream of a strict task goes on from the other replica, whatever shapes the text."""
    pids = engines(daemon)
    undisturbed = await read(daemon.url, request(kind))
    assert undisturbed.end.tokens_out >= AT_LEAST_TOKENS
    disturbed = await read(daemon.url, request(kind), 8, pids)
    assert disturbed.text == undisturbed.text
    assert disturbed.end.receipt.digest == undisturbed.end.receipt.digest
    assert disturbed.end.tokens_out == undisturbed.end.tokens_out
    assert (undisturbed.end.receipt.attempts, disturbed.end.receipt.attempts) == (1, 2)


@pytest.mark.req("ORCH-4178")
async def test_a_best_effort_answer_goes_on_and_says_so(daemon: Daemon) -> None:
    """What was read stays, the next engine goes on from it within the tokens that are left, and the receipt is marked."""
    result = await read(daemon.url, request("plain", determinism="best_effort"), 8, engines(daemon))
    assert (result.end.tokens_out, result.end.receipt.attempts, result.end.receipt.continued) == (MAX_TOKENS, 2, True)


@pytest.mark.req("ORCH-4011", "ORCH-4180", "ORCH-4183")
async def test_a_killed_daemon_changes_no_byte(config: Path, tmp_path: Path) -> None:
    """A caller reads on over a replica's death and the daemon's; the text is that of an undisturbed run."""
    first = Daemon(tmp_path / "data", config)
    lives = [first]
    try:
        first.wait_all_replicas()
        pids = engines(first)
        undisturbed = await read(first.url, request("plain", 7))
        async with AsyncClient(first.url) as client:
            # However late it is resumed, it is not given up.
            stream = await client.run(request("plain", 7, on_disconnect="continue"))
            heard = 0
            async for event in stream:
                if not isinstance(event, Token):
                    continue
                heard += 1
                if heard == 8:
                    kill_engine_of(stream, pids)
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
