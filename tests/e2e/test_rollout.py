"""Reloads, canaries and rollbacks of real engines, while tasks come."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchqueue.adapters.models import find_bundled
from orchqueue.client import AsyncClient, Sampling, TaskRequest
from orchqueue.client.types import CanaryHealth, PoolHealth
from tests.daemon import running
from tests.waiting import until_async

BUNDLED = "bundled:smollm2-135m-instruct-q4_1"
POOL = f"""\
pools:
  - id: small
    engine: llamacpp
    model: {BUNDLED}
    ctx: 512
    allow_cpu: true
    replicas: 2
    slots: 1
    timeouts: {{wall_ms: 300000, idle_ms: 60000}}
    canary: {{tasks: 3, first_token_ms: 60000, promote: PROMOTE}}
"""


def configured(tmp_path: Path, promote: str = "auto") -> Path:
    """Write a configuration of one pool with two replicas."""
    config = tmp_path / "orchqueue.yaml"
    config.write_text(POOL.replace("PROMOTE", promote), encoding="utf-8")
    return config


def another_model(tmp_path: Path) -> str:
    """Give the same weights another name."""
    path = tmp_path / "next.gguf"
    shutil.copy(find_bundled(BUNDLED.partition(":")[2])[0], path)
    return f"file:{path}"


async def health_when(client: AsyncClient, good: Callable[[PoolHealth], bool], what: str) -> PoolHealth:
    """Wait for the pool to stand like that, and give it as it stood then."""
    seen: list[PoolHealth] = []

    async def stands() -> bool:
        seen[:] = [await client.pool_health("small")]
        return good(seen[0])

    await until_async(stands, deadline_s=60, what=what)
    return seen[0]


def all_serve(model: str) -> Callable[[PoolHealth], bool]:
    """Tell of a pool whether every replica is ready with a model, and nothing is tried."""
    return lambda health: (
        not health.canary
        and health.model == model
        and all(r.state == "ready" and r.model == model for r in health.replicas)
    )


def is_tried(health: PoolHealth) -> bool:
    """Tell whether a canary takes tasks."""
    return isinstance(health.canary, CanaryHealth) and health.canary.state == "trying"


async def ran_on(client: AsyncClient, number: int) -> str:
    """Run a small task and name its replica."""
    stream = await client.run(TaskRequest(prompt=f"Story {number}:", max_tokens=4))
    await stream.result()
    assert stream.started is not None
    return stream.started.replica_id


@pytest.mark.timeout(180)
@pytest.mark.req("ORCH-4131", "ORCH-4329", "ORCH-4334", "ORCH-4335", "ORCH-2102", "ORCH-3034")
async def test_a_canary_gets_its_share_then_the_rest_and_can_be_rolled_back(tmp_path: Path) -> None:
    """Half of the tasks go to the new model's engine; after three of them it has the whole pool; one call leads back."""
    with running(tmp_path / "data", configured(tmp_path)) as daemon:
        daemon.wait_all_replicas()
        new = another_model(tmp_path)
        async with AsyncClient(daemon.url) as client:
            begun = await client.reload("small", new, 50)
            assert (begun.model, begun.canary_percent) == (new, 50)
            assert (await client.pool_health("small")).ready, "the pool serves on"
            trying = await health_when(client, is_tried, "the canary up")
            assert {r.replica_id: r.model for r in trying.replicas} == {"small-0": BUNDLED, "small-1": new}
            assert [await ran_on(client, n) for n in range(6)] == ["small-0", "small-1"] * 3
            await health_when(client, all_serve(new), "the promoted model everywhere")
            assert {await ran_on(client, n) for n in (7, 8)} <= {"small-0", "small-1"}
            await client.rollback("small")
            await health_when(client, all_serve(BUNDLED), "the model before everywhere")


@pytest.mark.timeout(180)
@pytest.mark.req("ORCH-4333", "ORCH-4128", "ORCH-2102")
async def test_a_canary_is_taken_back_by_a_call_and_when_its_engine_dies(tmp_path: Path) -> None:
    """Files that are no model are not even tried; a rollback is no error, a killed engine is, and the pool says so."""
    with running(tmp_path / "data", configured(tmp_path, "manual")) as daemon:
        daemon.wait_all_replicas()
        new = another_model(tmp_path)
        (tmp_path / "junk.gguf").write_bytes(b"no model at all")
        async with AsyncClient(daemon.url) as client:
            await client.reload("small", f"file:{tmp_path / 'junk.gguf'}", 50)
            refused = await health_when(client, lambda h: bool(h.last_error), "the refusal of junk")
            assert "refused" in str(refused.last_error)
            assert all_serve(BUNDLED)(refused)
            await client.reload("small", new, 10)
            await health_when(client, is_tried, "the canary up")
            await client.rollback("small")
            assert not (await client.pool_health("small")).canary
            assert await ran_on(client, 1) == "small-0"
            back = await health_when(client, all_serve(BUNDLED), "the old model back")
            assert back.last_error is None
            await client.reload("small", new, 50)
            trying = await health_when(client, is_tried, "the canary up again")
            (pid,) = [r.pid for r in trying.replicas if r.model == new]
            assert isinstance(pid, int)
            psutil.Process(pid).kill()
            after = await health_when(client, all_serve(BUNDLED), "the old model back again")
            assert f"canary of {new} taken back: small-1 was lost: signal" in str(after.last_error)
            await ran_on(client, 2)


@pytest.mark.timeout(90)
@pytest.mark.req("ORCH-4138", "ORCH-4133")
async def test_a_pool_that_is_not_preloaded_has_no_engine_before_its_first_task(tmp_path: Path) -> None:
    """The daemon is ready at once; the first task starts the engine, waits for it and is answered."""
    config = configured(tmp_path)
    config.write_text(config.read_text(encoding="utf-8") + "    preload: false\n", encoding="utf-8")
    with running(tmp_path / "data", config) as daemon:
        daemon.wait_ready()
        assert [r["state"] for r in daemon.replicas()] == ["down", "down"]
        assert daemon.engines() == []
        async with AsyncClient(daemon.url) as client:
            wanted = TaskRequest(
                prompt="Story:", max_tokens=16, sampling=Sampling(grammar='root ::= "once upon a time"')
            )
            receipt = await client.submit(wanted)
            assert receipt.predicted_start_ms > 0
            result = await client.stream(receipt.task_id).result()
            assert result.text == "once upon a time"
