"""Drains, and engines that keep failing, as an operator sees them: real processes, simulated engines."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest

from tests.daemon import Daemon, running
from tests.simulated import SimulatedEngine, pool_text, simulated_engine
from tests.waiting import until

LONG = {"max_tokens": 1500, "sampling": {"ignore_eos": True}, "on_disconnect": "continue"}
SHORT = {"max_tokens": 8, "on_disconnect": "continue"}
PATIENT = "    timeouts: {wall_ms: 300000, idle_ms: 60000}\n"
HASTY = """\
    supervision:
      backoff: {initial_ms: 50, max_ms: 100}
      breaker: {failures: 3, open_ms: 8000}
      restarts_per_minute: 1000
"""


def post(daemon: Daemon, pool: str, body: dict[str, object]) -> str:
    """Have a task wait in a pool, which it would rather have; give its id."""
    task_id = str(uuid.uuid4())
    whole = {"task_id": task_id, "prompt": task_id, "placement": {"mode": "prefer", "pool_ids": [pool]}, **body}
    httpx.post(f"{daemon.url}/v1/tasks", json=whole, timeout=10).raise_for_status()
    return task_id


def look(daemon: Daemon, task_id: str) -> dict[str, object]:
    """Give a task as its owner sees it."""
    found: dict[str, object] = httpx.get(f"{daemon.url}/v1/tasks/{task_id}", timeout=10).json()
    return found


def replica(daemon: Daemon) -> dict[str, object]:
    """Give the first replica as health shows it."""
    return daemon.replicas()[0]


def answer_while_broken(daemon: Daemon) -> httpx.Response:
    """Post a task while the breaker is open from before to after; now and then it rests no more and tries a start."""
    found: list[httpx.Response] = []

    def answered() -> bool:
        before = replica(daemon)
        answer = httpx.post(f"{daemon.url}/v1/tasks", json={"prompt": "hi"}, timeout=60)
        after = replica(daemon)
        if before["state"] == after["state"] == "broken" and before["restarts"] == after["restarts"]:
            found.append(answer)
        return bool(found)

    until(answered, deadline_s=60, what="an answer while the breaker is open")
    return found[0]


@pytest.mark.timeout(90)
@pytest.mark.req("ORCH-2101", "ORCH-4123", "ORCH-4124", "ORCH-4125", "ORCH-4126")
def test_a_drain_hands_over_who_waits_and_ends_the_rest_at_the_shortest_deadline(tmp_path: Path) -> None:
    """Waiting tasks run in the sibling pool; what runs ends with POOL_UNAVAILABLE at the deadline; a reload brings the pool back."""
    with simulated_engine("--tokens-per-s", "20") as slow, simulated_engine("--tokens-per-s", "500") as fast:
        config = tmp_path / "orchqueue.yaml"
        config.write_text(
            "pools:\n" + pool_text(slow, pool_id="a", more=PATIENT) + pool_text(fast, pool_id="b", more=PATIENT),
            encoding="utf-8",
        )
        with running(tmp_path / "data", config) as daemon:
            daemon.wait_all_replicas()
            runs = post(daemon, "a", LONG)
            until(lambda: look(daemon, runs)["state"] == "running", what="the long task to run")
            assert look(daemon, runs)["pool_id"] == "a"
            waits = [post(daemon, "a", SHORT) for _ in range(3)]
            for deadline_ms in (600_000, 1_000, 300_000):
                answer = httpx.post(f"{daemon.url}/v1/pools/a/drain", json={"deadline_ms": deadline_ms}, timeout=10)
                assert answer.status_code == 202
            assert answer.json()["deadline_ms"] <= 1_000, "the shortest deadline wins"
            until(lambda: {look(daemon, w)["state"] for w in waits} == {"succeeded"}, what="those who waited")
            assert {look(daemon, w)["pool_id"] for w in waits} == {"b"}
            until(lambda: look(daemon, runs)["state"] == "failed", what="the deadline")
            health = httpx.get(f"{daemon.url}/v1/pools/a/health", timeout=10).json
            until(lambda: health()["mode"] == "drained", what="the pool to be empty")
            error = look(daemon, runs)["error"]
            assert isinstance(error, dict)
            assert (error["code"], error["retriable"]) == ("POOL_UNAVAILABLE", True)
            httpx.post(f"{daemon.url}/v1/pools/a/reload", json={"new_model_ref": "repo:test/sim"}, timeout=10)
            until(
                lambda: httpx.get(f"{daemon.url}/v1/pools/a/health", timeout=10).json()["ready"], what="the pool back"
            )


@pytest.mark.timeout(90)
@pytest.mark.req("ORCH-3039", "ORCH-3040", "ORCH-4145")
def test_an_engine_that_stays_away_opens_the_breaker_and_comes_back_after_its_rest(tmp_path: Path) -> None:
    """After failures in a row the replica rests and newcomers are told when to come; one start after the rest is enough."""
    engine = SimulatedEngine()
    try:
        config = tmp_path / "orchqueue.yaml"
        config.write_text("pools:\n" + pool_text(engine, more=HASTY), encoding="utf-8")
        with running(tmp_path / "data", config) as daemon:
            daemon.wait_ready()
            engine.end()
            until(lambda: replica(daemon)["state"] == "broken", deadline_s=60, what="the breaker to open")
            restarts = replica(daemon)["restarts"]
            assert isinstance(restarts, int)
            assert restarts >= 3
            refused = answer_while_broken(daemon)
            assert (refused.status_code, refused.json()["code"]) == (503, "POOL_UNAVAILABLE")
            assert refused.json()["retry_after_ms"] > 0
            engine = SimulatedEngine(port=int(engine.url.rpartition(":")[2]))
            until(lambda: replica(daemon)["state"] == "ready", deadline_s=60, what="the start after the rest")
    finally:
        if engine.process.poll() is None:
            engine.end()
