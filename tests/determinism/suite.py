"""The suite as the tests run it: the product's own verification, against a daemon of the test."""

from __future__ import annotations

import os
from pathlib import Path

from orchqueue.client import AsyncClient
from orchqueue.verify.comparison import compare
from orchqueue.verify.determinism import Manner, Verification
from orchqueue.verify.findings import Findings
from orchqueue.verify.prompts import SEEDS
from orchqueue.verify.target import Wish, find_targets
from orchqueue.verify.telling import token_diff, write_files

CONFIGS = Path(__file__).parent / "configs"
ALL = os.environ.get("DETERMINISM_SEEDS") == "all"
SOME = SEEDS if ALL else SEEDS[::4]
"""What each adversity is tried with: every fourth seed, which meets every prompt; `make determinism` tries all."""


async def verify(url: str, manner: Manner, *pool_ids: str) -> Findings:
    """Run seeds on every replica of the one replica set that these pools are of."""
    async with AsyncClient(url) as client:
        (target,) = await find_targets(client, Wish(pool_ids))
        verification = Verification(client, target, manner)
        return await verification.run()


def assert_all_equal(findings: Findings, seeds: range, replicas: int, folder: Path) -> None:
    """Demand that every seed ran on so many replicas with one text; what is not so is shown and left as files."""
    report = findings.report(0, 0, ())
    write_files(folder, findings, report)
    told = "\n\n".join(token_diff(one) for one in report.divergences)
    assert told == "", f"{told}\n\nboth runs are in {folder}"
    assert (report.verdict, report.seeds_equal, report.failures) == ("equal", len(seeds), ())
    assert len(report.replicas) == replicas
    assert all(one.runs >= len(seeds) for one in report.replicas)


def assert_same_as(earlier: Findings, later: Findings) -> None:
    """Demand that runs under other conditions gave the texts that they gave before."""
    for run in later.all_runs():
        found = compare(earlier.snapshots[run.seed][0], run)
        assert found is None, token_diff(found)
