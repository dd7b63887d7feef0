"""`orchq verify haiku` as a person sees it, against a deployment that is scripted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from orchqueue.cli import verify_haiku
from orchqueue.verify.haiku import clocks
from orchqueue.verify.haiku_modes import MODES
from orchqueue.verify.haiku_rules import LIMIT_S, RULES
from orchqueue.verify.haiku_words import in_words
from tests.haiku.deployment import Deployment, deployed, honest, wished
from tests.haiku.standing_clock import MINUTE
from tests.unit.cli import running
from tests.unit.cli.running import on_terminal, orchq

PAGE = (Path(__file__).parents[2] / "docs/haiku.md").read_text()
pytestmark = pytest.mark.req("ORCH-4232", "ORCH-4413")


@pytest.fixture(autouse=True)
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no minute flip: a poem that takes two of them is asked for twice, which other tests look at."""
    monkeypatch.setattr(running, "ORCHQ", (sys.executable, "-m", "tests.haiku.standing_clock"))


async def test_one_poem_is_shown_with_every_rule_and_what_it_shows() -> None:
    """The poem comes first, then each rule with its reason, then what a pass shows and what it does not."""
    async with deployed(Deployment()) as url:
        ran = await orchq("verify", "haiku", "--mode", "plain", url=url)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("\n    The bell has struck ")
    lines = ran.out.splitlines()
    assert re.findall(r"^ok +(\w+) +\S", ran.out, re.MULTILINE) == [name for name, _ in RULES]
    assert lines[-2:] == [f"shows      {MODES['plain'].shows}", f"not shown  {MODES['plain'].leaves}"]


async def test_a_broken_rule_is_status_seven() -> None:
    """A counter that stands still is told by its reason, and ends with 7."""
    async with deployed(Deployment(counts=0)) as url:
        ran = await orchq("verify", "haiku", "--mode", "plain", url=url)
    assert ran.status == 7
    assert "BROKEN  counted           tokens_out_total rose by 0, the task has 20\n" in ran.out
    assert "shows " not in ran.out
    assert ran.err.startswith("a small model may not manage this")


@pytest.mark.req("ORCH-4410")
async def test_many_poems_make_a_rate() -> None:
    """Every third poem is bad: the rate counts them, names the rules, and decides against the percentage that was asked."""
    deployment = Deployment()
    deployment.write = lambda it: honest(it) if len(deployment.requests) % 3 else "no"
    async with deployed(deployment) as url:
        ran = await orchq("-q", "verify", "haiku", "--mode", "plain", "--runs", "6", "--at-least", "60", url=url)
        assert (ran.status, ran.err) == (0, "")
        assert [line[:37] for line in ran.out.splitlines() if line.startswith("poem")] == [
            "poem 3 broke three_lines: 1 lines; mi",
            "poem 6 broke three_lines: 1 lines; mi",
        ]
        assert "passed     4 of 6 (66.7 %), mode plain\n" in ran.out
        ran = await orchq("-q", "verify", "haiku", "--mode", "plain", "--runs", "3", url=url)
        assert ran.status == 7
    minutes = [wished(request)[0] for request in deployment.requests]
    spread = [in_words((MINUTE + 17 * number) % 60) for number in range(6)]
    assert minutes == [*spread, *spread[:3]]


@pytest.mark.req("ORCH-4410")
def test_sixty_runs_have_every_minute_once() -> None:
    """The first run has the clock's minute, and sixty runs have them all."""
    assert next(clocks(60, lambda: 41))() == 41
    assert {clock() for clock in clocks(60, lambda: 41)} == set(range(60))
    assert len({clock() for clock in clocks(24, lambda: 41)}) == 24


@pytest.mark.req("ORCH-4410")
async def test_programs_get_a_line_for_each_poem_and_one_for_the_rate() -> None:
    """Each line is JSON: the poems with their findings, and last the rate with what it shows."""
    async with deployed(Deployment()) as url:
        ran = await orchq("verify", "haiku", "--mode", "plain", "--runs", "2", "--json", url=url)
    first, second, rate = map(json.loads, ran.out.splitlines())
    assert (ran.status, ran.err) == (0, "")
    assert first["event"] == second["event"] == "haiku"
    assert first["nonce"] in first["poem"]
    assert [finding["rule"] for finding in first["findings"]] == [name for name, _ in RULES]
    assert (rate["event"], rate["runs"], rate["passed"], rate["percent"], rate["broken"]) == ("rate", 2, 2, 100.0, {})
    assert rate["shows"] == MODES["plain"].shows


async def test_a_terminal_sees_how_far_it_is() -> None:
    """On a terminal a bar is drawn and wiped; the results stay."""
    async with deployed(Deployment()) as url:
        status, out, err = await on_terminal("verify", "haiku", "--mode", "plain", "--runs", "2", url=url)
    assert status == 0
    assert "[##########..........] poem 2 of 2, 1 passed" in err
    assert err.endswith("\x1b[2K")
    assert "passed     2 of 2 (100.0 %)" in out


async def test_without_the_scope_the_way_out_is_told() -> None:
    """A key that may not read the control plane ends with 5 and names the option; with it, what was left out is said."""
    async with deployed(Deployment(metrics_status=403)) as url:
        ran = await orchq("verify", "haiku", "--mode", "plain", url=url)
        assert ran.status == 5
        assert "--no-metrics leaves them out" in ran.err
        ran = await orchq("verify", "haiku", "--mode", "plain", "--no-metrics", url=url)
        assert ran.status == 0
        assert re.search(r"^- +counted +not looked at, as you asked$", ran.out, re.MULTILINE)
        assert "not looked at: counted" in ran.out


@pytest.mark.req("ORCH-4412")
async def test_where_a_real_engine_is_required_a_simulated_one_is_not_asked() -> None:
    """With REQUIRE_REAL_LLAMA=1 nothing is posted to a simulated engine; without it the poem is asked for, and is none."""
    name = "b0-simulated"
    deployment = Deployment(started_version=name, receipt_version=name, capabilities_version=name)
    async with deployed(deployment) as url:
        argv = ("verify", "haiku", "--mode", "plain")
        ran = await orchq(*argv, url=url, env={"REQUIRE_REAL_LLAMA": "1"})
        assert (ran.status, ran.out, deployment.requests) == (7, "", [])
        assert "simulated engines write no poems: default" in ran.err
        ran = await orchq(*argv, "--no-metrics", url=url, env={"REQUIRE_REAL_LLAMA": "1"})
        assert (ran.status, deployment.requests) == (2, [])
        ran = await orchq(*argv, url=url)
        assert (ran.status, len(deployment.requests)) == (7, 1)
        assert "BROKEN  real_engine       b0-simulated: simulated engines write no poems\n" in ran.out


async def test_pool_and_model_are_passed_on() -> None:
    """What was chosen stands in the request, as do the deadline and the seed."""
    deployment = Deployment()
    async with deployed(deployment) as url:
        choice = ("--pool", "default", "--model-ref", "bundled:m", "--timeout", "12.5")
        ran = await orchq("verify", "haiku", "--mode", "plain", *choice, url=url)
    assert ran.status == 0
    [request] = deployment.requests
    assert request["placement"] == {"mode": "pin", "pool_ids": ["default"]}
    assert (request["model_ref"], request["deadline_ms"]) == ("bundled:m", 50_000)


@pytest.mark.parametrize(
    "wrong", [("--timeout", "31"), ("--timeout", "0"), ("--runs", "0"), ("--at-least", "0"), ("--at-least", "101")]
)
async def test_limits_that_would_bend_the_rules_are_refused(wrong: tuple[str, str]) -> None:
    """No option makes the test easier than its rules."""
    ran = await orchq("verify", "haiku", *wrong, url="http://127.0.0.1:9")
    assert ran.status == 2
    assert wrong[0] in ran.err


def test_the_command_and_the_page_know_every_mode_and_rule() -> None:
    """The choices are the modes that exist, and docs/haiku.md has a row for each mode and each rule."""
    assert tuple(MODES) == ("plain", "examples", "choice", "schema", "grammar")
    assert set(verify_haiku.MODES) == set(MODES)
    assert verify_haiku.LIMIT_S == LIMIT_S
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows == {*MODES, *(name for name, _ in RULES)}
