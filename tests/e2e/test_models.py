"""Model files that are wrong in every way, beside a pool whose file is right: real processes, real files, one daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from orchqueue.client import AsyncClient, Client, TaskRequest
from orchqueue.client.types import ModelInfo, PoolHealth
from tests.daemon import Daemon, running
from tests.model_files import BUNDLED, copy_of_bundled, flip_a_byte, head, huge, small
from tests.simulated import pool_text, simulated_engine
from tests.waiting import until, until_async

POOL = """\
  - id: {name}
    engine: llamacpp
    model: {model}
    ctx: 256
    allow_cpu: true
    launch: {{args: {{threads: 1}}}}
    timeouts: {{wall_ms: 300000, idle_ms: 60000}}
"""
IMPATIENT = """\
    supervision: {backoff: {initial_ms: 100, max_ms: 1000}, breaker: {failures: 1000}, restarts_per_minute: 1000}
"""
LLAMA = {"general.architecture": "llama"}

Make = Callable[[Path], object]


def cut(size_bytes: int) -> Make:
    """Make what is left of a file after so many bytes."""
    return lambda path: path.write_bytes(small()[:size_bytes])


def holding(data: bytes) -> Make:
    """Make a file of these bytes."""
    return lambda path: path.write_bytes(data)


def part_of_three(path: Path) -> None:
    """Make the first part of a model, and no other."""
    path.write_bytes(small(split__no=0, split__count=3))


WRONG: dict[str, tuple[Make, str]] = {
    "cut-header": (cut(10), "ends within its header, after 10 bytes; copy or download it again"),
    "cut-metadata": (cut(60), "ends within its metadata, after 60 bytes; copy or download it again"),
    "cut-table": (cut(len(small()) - 4 * 64 - 40), "ends within its table of tensors"),
    "cut-data": (cut(len(small()) - 100), f"is cut off: 100 of {len(small())} bytes are missing; copy or download"),
    "missing": (lambda _: None, "is not there; put it there or correct the path"),
    "directory": (Path.mkdir, "is a directory; name the model's file itself"),
    "dangling": (
        lambda path: path.symlink_to("gone.gguf"),
        "is a link to gone.gguf, which is not there; mend the link",
    ),
    "empty": (Path.touch, "is empty; copy or download it again"),
    "zip": (holding(b"PK\x03\x04" + bytes(100)), "is a zip archive, as PyTorch's checkpoints are; llama.cpp needs"),
    "safetensors": (holding(bytes(8) + b'{"a":{}}'), "is in the safetensors format; llama.cpp needs the model as GGUF"),
    "foreign": (holding(small(general__architecture="lllma")), "unknown model architecture: 'lllma'; use a newer"),
    "projector": (holding(small(general__architecture="clip")), "is a projector for images or sound (mmproj) and no"),
    "adapter": (holding(small(general__type="adapter")), "is a LoRA adapter and no model; name the model that it"),
    "split": (part_of_three, "needs 2 more of its 3 parts: split-00002-of-00003.gguf, split-00003-of-00003.gguf; put"),
    "big-endian": (holding(head(LLAMA, order=">")), "is a GGUF file for big-endian machines; use a GGUF model of"),
    "future": (holding(head(LLAMA, version=9)), "has GGUF version 9; known are 2 and 3; use a GGUF model of version 3"),
}


def configured(tmp_path: Path) -> tuple[Path, dict[str, Path], str]:
    """Write one configuration of all these pools; give the path of each model, and the checksum of the right weights."""
    paths = {name: tmp_path / f"{name}.gguf" for name in (*WRONG, "tampered")}
    paths["split"] = tmp_path / "split-00001-of-00003.gguf"
    for name, (make, _) in WRONG.items():
        make(paths[name])
    digest = copy_of_bundled(paths["tampered"])
    flip_a_byte(paths["tampered"])
    pools = [POOL.format(name="good", model=BUNDLED)]
    pools += [POOL.format(name=name, model=f"file:{paths[name]}") for name in WRONG]
    pools.append(POOL.format(name="tampered", model=f"file:{paths['tampered']}") + IMPATIENT)
    config = tmp_path / "orchqueue.yaml"
    config.write_text("pools:\n" + "".join(pools) + f"    model_sha256: {digest}\n", encoding="utf-8")
    return config, paths, digest


async def health_when(client: AsyncClient, pool_id: str, good: Callable[[PoolHealth], object], what: str) -> PoolHealth:
    """Wait for a pool to stand like that; give it as it stood then, for a moment later it may be at its next start."""
    seen: list[PoolHealth] = []

    async def stands() -> bool:
        seen[:] = [await client.pool_health(pool_id)]
        return bool(good(seen[0]))

    await until_async(stands, deadline_s=90, what=what)
    return seen[0]


def has_failed(health: PoolHealth) -> bool:
    """Tell whether a pool says what is wrong, and not how far a checksum has come that it still computes."""
    return bool(health.last_error) and not str(health.last_error).startswith("verifying ")


async def good_pool_answers(client: AsyncClient) -> None:
    """Run a task on the pool whose model is right."""
    stream = await client.run(TaskRequest(prompt="Once", model_ref=BUNDLED, max_tokens=3))
    await stream.result()


def refusal(daemon: Daemon, pool_id: str) -> dict[str, object]:
    """Post a task for one pool alone, and give what it was refused with."""
    body = {"prompt": "hi", "placement": {"mode": "pin", "pool_ids": [pool_id]}}
    answer = httpx.post(f"{daemon.url}/v1/tasks", json=body, timeout=60)
    assert answer.status_code == 503, answer.text
    told: dict[str, object] = answer.json()
    return told


async def refusal_at_rest(client: AsyncClient, daemon: Daemon, pool_id: str) -> dict[str, object]:
    """Give what a task is refused with while the pool's replica waits for its next start: during one it is only not ready yet."""
    told: dict[str, object] = {}

    async def rested() -> bool:
        before = (await client.pool_health(pool_id)).replicas[0]
        told.update(await asyncio.to_thread(refusal, daemon, pool_id))
        after = (await client.pool_health(pool_id)).replicas[0]
        return "starting" not in {before.state, after.state} and before.restarts == after.restarts

    await until_async(rested, deadline_s=90, what=f"{pool_id} between two starts")
    return told


@pytest.mark.timeout(300)
@pytest.mark.req("ORCH-4420", "ORCH-4421", "ORCH-4424", "ORCH-4426", "ORCH-4428", "ORCH-4429", "ORCH-3037", "ORCH-3002")
async def test_wrong_files_cost_their_own_pools_only_and_can_be_mended(tmp_path: Path) -> None:
    """Each pool says what is wrong and what to do, none of them takes a task, the good one serves; mended ones serve too."""
    config, paths, digest = configured(tmp_path)
    expected = {name: said for name, (_, said) in WRONG.items()} | {
        "tampered": f"but {digest} is demanded; the file is"
    }
    with running(tmp_path / "data", config) as daemon:
        daemon.wait_ready()
        async with AsyncClient(daemon.url) as client:
            for name, said in expected.items():
                health = await health_when(client, name, has_failed, f"the error of {name}")
                told = str(health.last_error)
                assert told.startswith(("model_file: model file ", "checksum: model file "))
                assert str(paths[name]) in told
                assert said in told
                assert "\n" not in told
                assert told.count("model file ") == 1
                assert not health.ready
            told_missing = await refusal_at_rest(client, daemon, "missing")
            assert told_missing["code"] == "POOL_UNAVAILABLE"
            assert told_missing["message"] == (
                "pool missing has no live replica: its model file is refused; try again later"
            )
            await good_pool_answers(client)
            models = {model.ref: model for model in await client.models()}
            assert_listed(models, paths, expected)
            # Mended: the one by itself at its next start, the other at once by a reload.
            copy_of_bundled(tmp_path / "right.gguf")
            os.replace(tmp_path / "right.gguf", paths["tampered"])
            await health_when(client, "tampered", lambda h: h.ready, "the mended pool ready by itself")
            copy_of_bundled(tmp_path / "right.gguf")
            os.replace(tmp_path / "right.gguf", paths["missing"])
            await client.reload("missing", f"file:{paths['missing']}")
            back = await health_when(client, "missing", lambda h: h.ready, "the mended pool ready by a reload")
            assert back.last_error is None
            (found,) = [model for model in await client.models() if model.ref == f"file:{paths['missing']}"]
            assert (found.state, found.digest, found.quant, found.ctx_tokens) == ("verified", digest, "Q4_1", 8192)
            await good_pool_answers(client)


def assert_listed(models: dict[str, ModelInfo], paths: dict[str, Path], expected: dict[str, str]) -> None:
    """Check that the list of models tells the same as the pools' health, and what is known of the good one."""
    good = models[BUNDLED]
    assert (good.state, good.architecture, good.size_bytes) == ("verified", "llama", 98_362_432)
    assert [(use.pool_id, use.role, use.replica_ids) for use in good.uses] == [("good", "serving", ["good-0"])]
    for name, said in expected.items():
        model = models[f"file:{paths[name]}"]
        if name == "foreign":
            # Only the engine knows that it does not know the architecture: the file itself is whole.
            assert (model.state, model.architecture) == ("verified", "lllma")
            continue
        assert model.state == "refused"
        assert said in str(model.detail)


@pytest.mark.timeout(120)
@pytest.mark.req("ORCH-4425", "ORCH-4210")
def test_a_checksum_of_many_gigabytes_holds_nobody_up(tmp_path: Path) -> None:
    """Its progress shows in health and in the list, another pool serves meanwhile, and a stop does not wait for it."""
    path = tmp_path / "huge.gguf"
    huge(path, 256 << 30)
    with simulated_engine() as engine:
        config = tmp_path / "orchqueue.yaml"
        config.write_text("pools:\n" + POOL.format(name="huge", model=f"file:{path}") + pool_text(engine))
        with running(tmp_path / "data", config) as daemon:
            daemon.wait_ready()
            with Client(daemon.url) as client:
                begun = "verifying the checksum of huge.gguf: "
                until(
                    lambda: begun in str(client.pool_health("huge").last_error),
                    deadline_s=60,
                    what="progress in health",
                )
                health = client.pool_health("huge")
                assert (health.ready, health.replicas[0].state) == (False, "starting")
                (model,) = [model for model in client.models() if model.ref == f"file:{path}"]
                assert (model.state, str(model.detail)[: len(begun)]) == ("verifying", begun)
                assert refusal(daemon, "huge")["code"] == "POOL_UNREADY"
                client.run(TaskRequest(prompt="Once", model_ref="repo:test/sim", max_tokens=3)).result()
                until(lambda: any(begun in line for line in daemon.log), what="progress in the log", deadline_s=60)
            assert daemon.stop() == 0
