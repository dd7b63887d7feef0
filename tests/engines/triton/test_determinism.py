"""The same request gives the same bytes on two real tritonservers, through the daemon and /v1/tasks alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchqueue.verify.determinism import Manner
from orchqueue.verify.prompts import SEEDS
from tests.daemon import Daemon
from tests.daemon import running as running_daemon
from tests.determinism.suite import CONFIGS, assert_all_equal, verify
from tools.triton_repository import BLS
from tools.triton_serve import Stack, StackSettings, running

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(1800)]

CONFIG = CONFIGS / "triton.yaml"


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


@pytest.mark.req("ORCH-3045", "ORCH-4222", "ORCH-4240", "ORCH-4288")
async def test_both_servers_stream_the_same_bytes(daemon: Daemon, tmp_path: Path) -> None:
    """First 32 tokens and whole streams are equal for all 64 seeds, asked on each server in an order of its own."""
    findings = await verify(daemon.url, Manner(), "first", "second")
    assert_all_equal(findings, SEEDS, replicas=2, folder=tmp_path)
    runs = findings.all_runs()
    assert len({run.digest for run in runs}) > 60
    assert {(run.engine, run.engine_version) for run in runs} == {("triton", "triton-2.51.0+trtllm-python")}
