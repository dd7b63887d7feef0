"""The same request gives the same bytes on two llama.cpp processes, whatever happens around it: through /v1/tasks alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchqueue.verify.determinism import Manner
from orchqueue.verify.findings import Findings
from orchqueue.verify.neighbours import Condition
from orchqueue.verify.prompts import FIRST_TOKENS, SEEDS
from tests.daemon import Daemon, metric, running
from tests.determinism.suite import CONFIGS, SOME, assert_all_equal, assert_same_as, verify
from tests.waiting import until

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="module")]

CONFIG = CONFIGS / "llamacpp.yaml"
ADVERSE = Manner(seeds=SOME)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run the committed configuration."""
    with running(tmp_path_factory.mktemp("determinism"), CONFIG) as found:
        found.wait_all_replicas()
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def quiet(daemon: Daemon) -> Findings:
    """Run every seed on both replicas while nothing else happens, on each in an order of its own."""
    return await verify(daemon.url, Manner())


@pytest.mark.req("ORCH-3045", "ORCH-4240", "ORCH-4288")
async def test_both_replicas_stream_the_same_bytes(quiet: Findings, tmp_path: Path) -> None:
    """First 32 tokens and whole streams are equal for all 64 seeds; a divergence names its token and leaves both runs."""
    assert_all_equal(quiet, SEEDS, replicas=2, folder=tmp_path)
    assert quiet.target.pool_ids == ("first", "second")
    for first, *others in quiet.snapshots.values():
        assert all(other.first_tokens == first.first_tokens for other in others)


@pytest.mark.req("ORCH-4240")
async def test_nothing_answers_from_a_constant(quiet: Findings) -> None:
    """Every stream is whole, and different seeds give different texts."""
    runs = quiet.all_runs()
    assert {run.tokens_out for run in runs} == {40}
    # A character of several tokens comes as one piece, so a few streams have less than 32 of them.
    assert sum(len(run.first_tokens) == FIRST_TOKENS for run in runs) >= len(runs) // 2
    assert 60 < len({run.digest for run in runs}) <= 64


@pytest.mark.req("ORCH-4403", "ORCH-4404")
@pytest.mark.parametrize("under", ["load", "sessions", "cancels"])
async def test_neighbours_change_nothing(daemon: Daemon, quiet: Findings, under: Condition, tmp_path: Path) -> None:
    """The bytes are the same while other tasks run, in sessions and after cached turns, and after a canceled neighbour."""
    canceled = metric(daemon.url, "tasks_canceled_total")
    found = await verify(daemon.url, Manner(seeds=SOME, under=(under,)))
    assert_all_equal(found, SOME, replicas=2, folder=tmp_path)
    assert_same_as(quiet, found)
    if under == "cancels":
        assert metric(daemon.url, "tasks_canceled_total") - canceled >= 2 * len(SOME)


@pytest.mark.req("ORCH-4404")
async def test_a_killed_replica_comes_back_with_the_same_bytes(daemon: Daemon, quiet: Findings, tmp_path: Path) -> None:
    """Both engines are killed; what their next processes say is what the first said."""
    before = {str(one["replica_id"]): one["pid"] for one in daemon.replicas()}
    for pid in before.values():
        os.kill(int(str(pid)), signal.SIGKILL)
    until(
        lambda: all(
            one["state"] == "ready" and one["pid"] != before[str(one["replica_id"])] for one in daemon.replicas()
        ),
        deadline_s=120,
        what="both replicas ready as new processes",
    )
    found = await verify(daemon.url, ADVERSE)
    assert_all_equal(found, SOME, replicas=2, folder=tmp_path)
    assert_same_as(quiet, found)


@pytest.mark.req("ORCH-4404")
async def test_the_number_of_threads_changes_nothing(quiet: Findings, tmp_path: Path) -> None:
    """With two threads a replica says what it says with one; it is a replica set of its own all the same."""
    one, _, _ = CONFIG.read_text().partition("  - id: second")
    config = tmp_path / "two-threads.yaml"
    config.write_text(one.replace("{threads: 1}", "{threads: 2}"))
    assert "{threads: 2}" in config.read_text()
    with running(tmp_path / "data", config) as daemon:
        daemon.wait_all_replicas()
        found = await verify(daemon.url, ADVERSE)
    assert_all_equal(found, SOME, replicas=1, folder=tmp_path / "runs")
    assert_same_as(quiet, found)
