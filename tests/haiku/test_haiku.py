"""The gate: a live model writes a poem that nobody could have prepared, asked by the command that users have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchqueue.verify.haiku_rules import RULES
from tests.daemon import running
from tests.simulated import serving
from tests.unit.cli.running import orchq

REAL = {"REQUIRE_REAL_LLAMA": "1"}


@pytest.mark.real_engine
@pytest.mark.timeout(240)
@pytest.mark.req("ORCH-2001", "ORCH-2002", "ORCH-4232", "ORCH-4241", "ORCH-4412")
async def test_a_live_model_writes_the_minute_and_the_nonce(tmp_path: Path) -> None:
    """The embedded model chooses the minute of this moment and a fresh nonce among many; every rule is looked at and kept."""
    with running(tmp_path / "data") as daemon:
        daemon.wait_ready()
        ran = await orchq("verify", "haiku", "--mode", "choice", "--json", url=daemon.url, env=REAL)
    poem, rate = map(json.loads, ran.out.splitlines())
    assert [finding for finding in poem["findings"] if finding["passed"] is not True] == []
    assert [finding["rule"] for finding in poem["findings"]] == [name for name, _ in RULES]
    assert (ran.status, poem["mode"], rate["passed"]) == (0, "choice", 1)


@pytest.mark.timeout(90)
@pytest.mark.req("ORCH-4241", "ORCH-4412")
async def test_a_simulated_engine_is_refused(tmp_path: Path) -> None:
    """A deployment of simulated engines is told apart before it is asked, and by what it says where it is asked."""
    with serving(tmp_path) as daemon:
        refused = await orchq("verify", "haiku", "--json", url=daemon.url, env=REAL)
        asked = await orchq("verify", "haiku", "--json", url=daemon.url)
    assert (refused.status, refused.out) == (7, "")
    assert "simulated engines write no poems: sim" in refused.err
    poem, _ = map(json.loads, asked.out.splitlines())
    assert asked.status == 7
    assert "real_engine" in {finding["rule"] for finding in poem["findings"] if finding["passed"] is False}
