"""The same request gives the same bytes on two real tritonservers, through the daemon and /v1/tasks alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from orchqueue.client import AsyncClient, Sampling, TaskRequest
from orchqueue.client.types import Token
from orchqueue.schema.data import Placement
from tests.daemon import Daemon
from tests.daemon import running as running_daemon
from tools.triton_repository import BLS
from tools.triton_serve import Stack, StackSettings, running

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

CONFIG = Path(__file__).parents[2] / "determinism" / "configs" / "triton.yaml"
SEEDS = range(1001, 1065)
MAX_TOKENS = 40
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
Run = tuple[tuple[str, ...], str, str]


@pytest.fixture(scope="module")
def daemon(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run the committed configuration on two servers, at the ports that were free."""
    folder = tmp_path_factory.mktemp("determinism")
    (folder / "second").mkdir()
    with running(StackSettings(), folder / "second") as other:
        text = CONFIG.read_text()
        for written, found in ((8000, stack), (8010, other)):
            url = f"http://127.0.0.1:{written}/v2/models/{BLS}?metrics_port={written + 2}"
            assert url in text
            text = text.replace(url, found.model_url(BLS))
        (folder / "triton.yaml").write_text(text)
        with running_daemon(folder / "data", folder / "triton.yaml") as found_daemon:
            found_daemon.wait_all_replicas()
            yield found_daemon


async def stream(client: AsyncClient, pool_id: str, seed: int) -> Run:
    """Run one seed in one pool; give its first 32 pieces, the digest of the whole text and the engine's version."""
    request = TaskRequest(
        prompt=PROMPTS[seed % len(PROMPTS)],
        seed=seed,
        max_tokens=MAX_TOKENS,
        determinism="strict",
        sampling=Sampling(ignore_eos=True),
        placement=Placement(mode="pin", pool_ids=[pool_id]),
    )
    following = await client.run(request)
    texts = [event.t async for event in following if isinstance(event, Token)]
    assert following.started is not None
    assert following.end is not None
    assert (following.started.pool_id, following.end.tokens_out) == (pool_id, MAX_TOKENS)
    receipt = following.end.receipt
    assert (receipt.engine, receipt.seed) == ("triton", seed)
    return tuple(texts[:32]), receipt.digest, receipt.engine_version


async def run_seeds(url: str, pool_id: str, seeds: Iterable[int]) -> dict[int, Run]:
    """Run seeds one after another in one pool."""
    async with AsyncClient(url) as client:
        return {seed: await stream(client, pool_id, seed) for seed in seeds}


@pytest.mark.req("ORCH-3045", "ORCH-4222", "ORCH-4240")
async def test_both_servers_stream_the_same_bytes(daemon: Daemon) -> None:
    """First 32 pieces and whole streams are equal for all 64 seeds, run on the second server in another order."""
    shuffled = random.Random(7).sample(SEEDS, len(SEEDS))
    first, second = await asyncio.gather(
        run_seeds(daemon.url, "first", SEEDS), run_seeds(daemon.url, "second", shuffled)
    )
    assert [seed for seed in SEEDS if first[seed] != second[seed]] == []
    assert len(first) == 64
    assert len({digest for _, digest, _ in first.values()}) > 60
    assert {version for _, _, version in first.values()} == {"triton-2.51.0+trtllm-python"}
