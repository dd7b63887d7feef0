"""The same request gives the same bytes on two real vLLM processes: through /v1/tasks alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchqueue.verify.determinism import Manner
from orchqueue.verify.prompts import SEEDS
from tests.daemon import running
from tests.determinism.suite import CONFIGS, assert_all_equal, verify
from tests.real_vllm import ENVIRONMENT, FLAGS, server

CONFIG = CONFIGS / "vllm.yaml"
PORTS = ("8101", "8102")


def test_the_committed_flags_are_those_that_were_proven() -> None:
    """The configuration tells each flag and variable that these servers are started with."""
    told = CONFIG.read_text()
    missing = [
        word for word in (*FLAGS, *(f"{name}={value}" for name, value in ENVIRONMENT.items())) if word not in told
    ]
    assert missing == []


@pytest.mark.real_engine
@pytest.mark.timeout(1800)
@pytest.mark.req("ORCH-3045", "ORCH-4220", "ORCH-4240", "ORCH-4288")
async def test_two_processes_stream_the_same_bytes(tmp_path: Path) -> None:
    """All 64 seeds give one text on both processes, each of which had them in another order."""
    servers, text = [server(0), server(1)], CONFIG.read_text()
    for port, one in zip(PORTS, servers, strict=True):
        one.wait_ready()
        text = text.replace(f"http://127.0.0.1:{port}", one.url)
    (tmp_path / "vllm.yaml").write_text(text)
    with running(tmp_path / "data", tmp_path / "vllm.yaml") as daemon:
        daemon.wait_all_replicas(deadline_s=300)
        found = await verify(daemon.url, Manner(seeds=SEEDS))
    assert_all_equal(found, SEEDS, replicas=2, folder=tmp_path / "runs")
    assert 60 < len({run.digest for run in found.all_runs()}) <= len(SEEDS)
