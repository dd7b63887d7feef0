"""The same request gives the same bytes on two replicas, whatever ran on them before: through /v1/tasks alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from orchqueue.client import AsyncClient, Sampling, TaskRequest
from orchqueue.client.types import Token
from orchqueue.schema.data import Placement
from tests.daemon import running
from tests.determinism.snapshot import FIRST_TOKENS, Snapshot, difference, dump, parse

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

CONFIG = Path(__file__).parent / "configs" / "llamacpp.yaml"
SEEDS = range(1001, 1065)
POOLS = ("first", "second")
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
Streams = dict[str, dict[int, Snapshot]]


async def stream(client: AsyncClient, pool_id: str, seed: int) -> Snapshot:
    """Run one seed in one pool."""
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
    return Snapshot(
        receipt.engine, receipt.engine_version, receipt.model_digest, receipt.seed,
        tuple(texts[:FIRST_TOKENS]), receipt.digest, following.end.decode_ms,
    )  # fmt: skip


async def run_seeds(client: AsyncClient, pool_id: str, seeds: Iterable[int]) -> dict[int, Snapshot]:
    """Run seeds one after another in one pool."""
    return {seed: await stream(client, pool_id, seed) for seed in seeds}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streams(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    """Run every seed on both replicas, on the second in another order, so that no two have the same neighbours."""
    with running(tmp_path_factory.mktemp("determinism"), CONFIG) as daemon:
        daemon.wait_all_replicas()
        shuffled = random.Random(7).sample(SEEDS, len(SEEDS))
        async with AsyncClient(daemon.url) as client:
            found = await asyncio.gather(
                run_seeds(client, "first", SEEDS), run_seeds(client, "second", shuffled)
            )  # fmt: skip
    return dict(zip(POOLS, found, strict=True))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.req("ORCH-3045", "ORCH-4240")
async def test_both_replicas_stream_the_same_bytes(streams: Streams, tmp_path: Path) -> None:
    """First 32 tokens and whole streams are equal for every seed; a divergence names its token and leaves both runs."""
    first, second = (streams[pool_id] for pool_id in POOLS)
    for pool_id in POOLS:
        (tmp_path / f"{pool_id}.jsonl").write_text(dump([streams[pool_id][seed] for seed in SEEDS]))
    parted = [told for seed in SEEDS if (told := difference(first[seed], second[seed])) is not None]
    assert parted == [], f"both runs are in {tmp_path}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.req("ORCH-4240")
async def test_exactly_the_64_seeds_were_compared(streams: Streams) -> None:
    """No seed is left out or doubled, and different seeds give different texts: nothing answers from a constant."""
    for snapshots in streams.values():
        assert [one.seed for _, one in sorted(snapshots.items())] == [1001 + n for n in range(64)]
        # A character of several tokens comes as one piece, so a few streams have less than 32 of them.
        assert sum(len(one.first_tokens) == FIRST_TOKENS for one in snapshots.values()) >= 48
        assert len({one.digest for one in snapshots.values()}) > 60
    assert len({one.digest for snapshots in streams.values() for one in snapshots.values()}) <= 64


SNAPSHOT = Snapshot("llamacpp", "1", "sha256:00", 1001, ("a", " b", " c"), "0" * 64, 12)


@pytest.mark.req("ORCH-4287")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"decode_ms": 99}, None),
        ({"first_tokens": ("a", " b", " x")}, "seed 1001: token 2 differs after 'a b': ' c' and ' x'"),
        ({"first_tokens": ("a", " b")}, "seed 1001: token 2 differs after 'a b': ' c' and None"),
        ({"digest": "1" * 64}, f"seed 1001: equal for 3 tokens, then different: {'0' * 64} and {'1' * 64}"),
        ({"engine_version": "2"}, "not comparable: engine_version is '1' and '2'"),
    ],
)
def test_divergence_is_told_by_its_token(changes: dict[str, object], told: str | None) -> None:
    """The report names the token where two streams part and what stood before it; time alone is no difference."""
    assert difference(SNAPSHOT, msgspec.structs.replace(SNAPSHOT, **changes)) == told


@pytest.mark.req("ORCH-4287")
def test_snapshots_are_read_as_they_were_written() -> None:
    """One snapshot a line, and a broken line is named by its number."""
    assert parse(dump([SNAPSHOT, SNAPSHOT])) == [SNAPSHOT, SNAPSHOT]
    with pytest.raises(ValueError, match="line 2 is not a snapshot"):
        parse(dump([SNAPSHOT]) + '{"seed":1}\n')
