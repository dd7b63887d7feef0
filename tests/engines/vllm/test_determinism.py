"""The same request gives the same bytes on two real vLLM processes: through /v1/tasks alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from orchqueue.client import AsyncClient, Placement, Sampling, TaskRequest
from orchqueue.client.types import Token
from tests.daemon import running
from tests.real_vllm import ENVIRONMENT, FLAGS, server

CONFIG = Path(__file__).parents[2] / "determinism" / "configs" / "vllm.yaml"
PORTS = ("8101", "8102")
POOLS = ("first", "second")
SEEDS = range(1001, 1065)
MAX_TOKENS = 40
# Lengths are mixed on purpose: one prompt alone hides what a batch or a warm cache does to its neighbours.
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "Write three short facts about the sea, each on a line of its own, without numbers and in plain words:",
    "def fibonacci(n):",
    "Deux et deux font",
    "List: apples, pears, 🍒, ",
    "A letter to a friend who lives far away and has not written for a year, begun on a rainy evening in late autumn: "
    * 2,
    "Q: Why is the sky blue?\nA:",
)


def test_the_committed_flags_are_those_that_were_proven() -> None:
    """The configuration tells each flag and variable that these servers are started with."""
    told = CONFIG.read_text()
    missing = [
        word for word in (*FLAGS, *(f"{name}={value}" for name, value in ENVIRONMENT.items())) if word not in told
    ]
    assert missing == []


async def run_seeds(client: AsyncClient, pool_id: str, seeds: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Run seeds one after another in one pool: each one's text, and the digest of its receipt."""
    found = {}
    for seed in seeds:
        following = await client.run(
            TaskRequest(
                prompt=PROMPTS[seed % len(PROMPTS)], seed=seed, max_tokens=MAX_TOKENS, determinism="strict",
                sampling=Sampling(ignore_eos=True), placement=Placement(mode="pin", pool_ids=[pool_id]),
            )
        )  # fmt: skip
        text = "".join([event.t async for event in following if isinstance(event, Token)])
        assert following.end is not None
        assert following.end.tokens_out == MAX_TOKENS
        found[seed] = (text, following.end.receipt.digest)
    return found


@pytest.mark.real_engine
@pytest.mark.timeout(1800)
@pytest.mark.req("ORCH-3045", "ORCH-4220", "ORCH-4240")
async def test_two_processes_stream_the_same_bytes(tmp_path: Path) -> None:
    """All 64 seeds give one text on both processes, each of which had them in another order."""
    servers, text = [server(0), server(1)], CONFIG.read_text()
    for port, one in zip(PORTS, servers, strict=True):
        one.wait_ready()
        text = text.replace(f"http://127.0.0.1:{port}", one.url)
    (tmp_path / "vllm.yaml").write_text(text)
    shuffled = random.Random(7).sample(SEEDS, len(SEEDS))
    with running(tmp_path / "data", tmp_path / "vllm.yaml") as daemon:
        daemon.wait_all_replicas(deadline_s=300)
        async with AsyncClient(daemon.url) as client:
            first, second = await asyncio.gather(
                run_seeds(client, "first", SEEDS), run_seeds(client, "second", shuffled)
            )  # fmt: skip
    assert [seed for seed in SEEDS if first[seed] != second[seed]] == []
    assert len({digest for _, digest in first.values()}) > 60
