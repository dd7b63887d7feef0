"""A flood of label values through every door that is open: the configuration, the engines' own words, and clients."""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.metrics.history import ENGINE
from tests.metrics.park import Park
from tests.waiting import until

ENGINES = 66
DEAD_POOLS = 200
DEAD_REPLICAS = 5
DEVICES = 20
REQUESTS = 30
ONE_DAY_MS = 86_400_000


class Flooded(NamedTuple):
    """Two scrapes, one before and one after the clients' part, and how many requests were refused."""

    before: str
    after: str
    refused: int


def config_text(park: Park, directory: Path) -> str:
    """Write more pools, replicas, engine versions and devices than their budgets allow.

    Most pools have a model file that is none, so their replicas fail without a process.
    """
    bogus = directory / "bogus.gguf"
    bogus.write_bytes(b"no model")
    rest = f"supervision: {{backoff: {{initial_ms: {ONE_DAY_MS}, max_ms: {ONE_DAY_MS}}}}}"
    text = "pools:\n"
    for index, url in enumerate(park.urls):
        devices = ", ".join(f"'cuda:{number}'" for number in range(DEVICES if index == 0 else 0))
        text += (
            f"  - id: live{index}\n    engine: {ENGINE}\n    model: repo:flood/live{index}\n    devices: [{devices}]\n"
            f"    launch: {{mode: external, urls: ['{url}'], allow_simulated: true}}\n    {rest}\n"
        )
    for index in range(DEAD_POOLS):
        text += (
            f"  - id: dead{index}\n    engine: {ENGINE}\n    model: file:{bogus}\n    devices: ['cuda:0']\n"
            f"    replicas: {DEAD_REPLICAS}\n    {rest}\n"
        )
    return text


def write_driver(directory: Path) -> None:
    """Write an `nvidia-smi` for a machine with many GPUs."""
    rows = "".join(f"{number}, 50, 100, 100\\n" for number in range(DEVICES))
    tool = directory / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{rows}'\n", encoding="utf-8")
    tool.chmod(0o755)


def scrape(url: str) -> str:
    """Read the metrics."""
    return httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text


def wait_for_replicas(url: str) -> None:
    """Wait until every replica is up or has failed, and its figures were read: pool by pool, for a scrape is dear here."""
    with httpx.Client(base_url=url, timeout=60) as client:

        def has(pool_id: str, state: str) -> bool:
            health = client.get(f"/v1/pools/{pool_id}/health").json()
            return {replica["state"] for replica in health["replicas"]} == {state}

        for count, name, state in ((ENGINES, "live", "ready"), (DEAD_POOLS, "dead", "backoff")):
            for pool_id in (f"{name}{index}" for index in range(count)):
                until(partial(has, pool_id, state), deadline_s=60, what=f"{pool_id} {state}")

        def told(pool_id: str, figure: str) -> bool:
            return figure in client.get(f"/v1/pools/{pool_id}/health").json()["metrics"]

        until(partial(told, "live0", "vram_used_bytes"), deadline_s=60, what="the devices")
        for pool_id in (f"live{index}" for index in range(ENGINES)):
            until(partial(told, pool_id, "kv_cache_usage_ratio"), deadline_s=60, what=f"the figures of {pool_id}")


def attack(url: str) -> Flooded:
    """Let clients work with every pool that is up, and try every name that they can choose."""
    before = scrape(url)
    refused = 0
    with httpx.Client(base_url=url, timeout=60) as client:
        tasks: list[str] = []
        for index in range(ENGINES):
            body = {"prompt": "hi", "max_tokens": 4, "model_ref": f"repo:flood/live{index}"}
            answer = client.post("/v1/tasks", json=body)
            assert answer.status_code == 202, answer.text
            tasks.append(answer.json()["task_id"])
        for index in range(REQUESTS):
            name = f"flood{index}"
            for field in ("priority", "engine", "model_ref", "sampler_profile_version", "workload", "determinism"):
                answer = client.post("/v1/tasks", json={"prompt": "hi", "task_id": str(uuid.uuid4()), field: name})
                assert answer.status_code == 400, answer.text
                refused += 1
        for task_id in tasks:
            until(partial(_has_succeeded, client, task_id), deadline_s=60, what=f"end of {task_id}")
    return Flooded(before, scrape(url), refused)


def _has_succeeded(client: httpx.Client, task_id: str) -> bool:
    return bool(client.get(f"/v1/tasks/{task_id}").json()["state"] == "succeeded")
