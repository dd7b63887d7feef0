"""The 64 seeds through the TGI adapter, on two simulated routers: our side of the wire adds no difference. Of TGI it shows nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchqueue.client import AsyncClient, Sampling, TaskRequest
from orchqueue.client.types import Token
from orchqueue.schema.data import Placement
from tests.daemon import Daemon, running
from tests.simulated import SimulatedEngine

pytestmark = pytest.mark.timeout(180)

CONFIG = Path(__file__).parent / "configs" / "tgi.yaml"
SEEDS = range(1001, 1065)
POOLS = {"first": "http://127.0.0.1:8081", "second": "http://127.0.0.1:8082"}
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "Deux et deux font",
    "List: apples, pears, 🍒, ",
    "A letter " * 60,
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serve the configuration as it is shipped, with simulated routers where it names real ones."""
    directory = tmp_path_factory.mktemp("tgi")
    text = CONFIG.read_text()
    with ExitStack() as stack:
        for url in POOLS.values():
            engine = SimulatedEngine("--tokens-per-s", "2000", engine="tgi")
            stack.callback(engine.end)
            assert url in text
            text = text.replace(f'["{url}"]', f'["{engine.url}"], allow_simulated: true')
        config = directory / "tgi.yaml"
        config.write_text(text)
        daemon = stack.enter_context(running(directory / "data", config))
        daemon.wait_all_replicas()
        yield daemon


async def stream(client: AsyncClient, pool_id: str, seed: int) -> tuple[str, str]:
    """Run one seed in one pool, stop strings included, and give its text and its receipt's digest."""
    request = TaskRequest(
        prompt=PROMPTS[seed % len(PROMPTS)],
        seed=seed,
        max_tokens=40,
        determinism="strict",
        sampling=Sampling(stop=["never", " st"]) if seed % 4 == 0 else Sampling(),
        placement=Placement(mode="pin", pool_ids=[pool_id]),
    )
    following = await client.run(request)
    text = "".join([event.t async for event in following if isinstance(event, Token)])
    assert following.end is not None
    return text, following.end.receipt.digest


@pytest.mark.req("ORCH-4221", "ORCH-4240", "ORCH-4288")
async def test_64_seeds_stream_the_same_bytes(daemon: Daemon) -> None:
    """Both replicas are strict by their self-test, and each seed gives the same text on both, the second in another order."""

    async def run(client: AsyncClient, pool_id: str, seeds: list[int]) -> dict[int, tuple[str, str]]:
        return {seed: await stream(client, pool_id, seed) for seed in seeds}

    async with AsyncClient(daemon.url) as client:
        first, second = await asyncio.gather(run(client, "first", [*SEEDS]), run(client, "second", [*reversed(SEEDS)]))
    assert first == second
    assert len(first) == 64
    assert len({text for text, _ in first.values()}) > 56
