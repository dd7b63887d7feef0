"""Short storms over the real daemon: promises are kept, and a daemon with a bug in it is found out."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.chaos.planted_daemon import BUGS
from tests.chaos.report import Figures, figures_of, keep_evidence, table, tell, write_document, write_json
from tests.chaos.storm import References, Verdict, Wish, run

PLANTED = str(Path(__file__).with_name("planted_daemon.py"))
SEEDS_TO_CATCH = 6
BROKEN = ("end", "gap", "double", "bytes", "text", "cancel")


def weather(wish: Wish, undisturbed: References | None = None) -> Verdict:
    """Run a storm to its end; what was found undisturbed serves the next one too."""

    async def whole() -> Verdict:
        return await run(wish, lambda _: None, asyncio.Event(), undisturbed or None)

    verdict = asyncio.run(whole())
    if undisturbed is not None:
        undisturbed.update(verdict.references)
    return verdict


def acquit(verdict: Verdict) -> Figures:
    """Demand that every promise was kept; a failure begins with what repeats it."""
    if verdict.violations:
        keep_evidence(verdict)
        pytest.fail(tell(verdict), pytrace=False)
    shutil.rmtree(verdict.place)
    return figures_of(verdict)


@pytest.fixture(scope="module")
def undisturbed() -> References:
    """Give a place for what simulated engines say undisturbed, filled by the first storm."""
    return {}


@pytest.mark.timeout(500)
@pytest.mark.req("ORCH-3038", "ORCH-4011", "ORCH-4242", "ORCH-4346", "ORCH-4349")
def test_many_kills_over_simulated_engines(tmp_path: Path, undisturbed: References) -> None:
    """Daemon and replicas are killed again and again under load: nothing is lost, doubled or different."""
    wish = Wish(seed=11, kind="simulated", length_s=15, limit_s=200, kills_daemon=5, kills_replicas=8)
    verdict = weather(wish, undisturbed)
    figures = acquit(verdict)
    assert (figures.kills_daemon >= 5, figures.kills_replicas >= 5, figures.tasks_lost) == (True, True, 0)
    assert figures.streams_equal == figures.streams_compared > 5
    assert figures.lives > 5
    write_json(verdict, tmp_path / "chaos.json")
    document = tmp_path / "reliability.md"
    document.write_text("before\n<!-- chaos: begin -->\nold\n<!-- chaos: end -->\nafter\n")
    write_document(verdict, document)
    assert document.read_text() == f"before\n<!-- chaos: begin -->\n{table(verdict)}<!-- chaos: end -->\nafter\n"


@pytest.mark.real_engine
@pytest.mark.timeout(500)
@pytest.mark.req("ORCH-3038", "ORCH-4011", "ORCH-4242", "ORCH-4349")
def test_kills_over_the_real_engine() -> None:
    """The same with the real model in processes of the daemon's own: texts are equal, and no process is left."""
    figures = acquit(
        weather(Wish(seed=12, kind="real", length_s=20, limit_s=200, kills_daemon=2, kills_replicas=3)),
    )
    assert (figures.tasks_lost, figures.kills_daemon >= 2) == (0, True)
    assert figures.streams_equal == figures.streams_compared > 0


@pytest.mark.timeout(500)
@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.req("ORCH-4348")
def test_planted_bug_is_caught(bug: str, undisturbed: References) -> None:
    """A real daemon with one bug is convicted within a few seeds."""
    for seed in range(1, SEEDS_TO_CATCH + 1):
        wish = Wish(
            seed=seed,
            kind="simulated",
            length_s=7,
            limit_s=40,
            kills_daemon=3,
            kills_replicas=8,
            entry=(PLANTED, bug),
        )
        verdict = weather(wish, undisturbed)
        shutil.rmtree(verdict.place)
        if any(violation.rule in BROKEN for violation in verdict.violations):
            return
    pytest.fail(f"{bug} was not caught in {SEEDS_TO_CATCH} seeds", pytrace=False)
