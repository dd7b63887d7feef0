"""Whole runs under virtual time with faults: the core keeps every promise, and the auditor bites when it does not."""

import pytest

from orchqueue_sim import campaign, main
from orchqueue_sim.mutants import BED, MUTANTS, hunt
from orchqueue_sim.timeline import Timeline
from orchqueue_sim.world import run

SEEDS = 200
CHUNK = 25


@pytest.mark.timeout(120)
@pytest.mark.req(
    "ORCH-3004",
    "ORCH-3005",
    "ORCH-3007",
    "ORCH-3015",
    "ORCH-3017",
    "ORCH-4011",
    "ORCH-4013",
    "ORCH-4091",
    "ORCH-4152",
    "ORCH-4154",
    "ORCH-4155",
    "ORCH-4161",
    "ORCH-4173",
    "ORCH-4237",
    "ORCH-4264",
    "ORCH-4265",
    "ORCH-4266",
    "ORCH-4267",
    "ORCH-4343",
)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_seed_keeps_every_promise(first: int) -> None:
    """No audited promise is broken in a run, and after healing nothing is owed."""
    for seed in range(first, first + CHUNK):
        report = run(seed)
        assert not report.problem, report.text


@pytest.mark.parametrize("seed", campaign.kept_seeds())
@pytest.mark.req("ORCH-4239")
def test_seeds_that_once_failed_stay_mended(seed: int) -> None:
    """Whatever a seed has found once is looked for always."""
    report = run(seed)
    assert not report.problem, report.text


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.req("ORCH-4238")
def test_every_planted_bug_is_caught(name: str) -> None:
    """Each mutant breaks a promise that the auditor notices within the number of seeds that stands beside it."""
    found = hunt(name)
    assert found is not None, f"{name} survived {BED.seeds[name]} seeds"
    assert found.problem.startswith("violation"), found.problem


@pytest.mark.req("ORCH-4238")
def test_enough_bugs_are_planted() -> None:
    """The list keeps its length, and every bug says within how many seeds it is caught."""
    assert len(MUTANTS) >= 25
    assert BED.seeds.keys() == MUTANTS.keys()


@pytest.mark.req("ORCH-4237")
def test_a_seed_tells_the_same_story_twice() -> None:
    """A replay shows exactly what happened the first time."""
    stories = []
    for _ in range(2):
        timeline = Timeline()
        run(11, timeline.note)
        stories.append(timeline.lines)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 50


@pytest.mark.req("ORCH-4239")
def test_a_failure_begins_with_the_command_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line of a failing campaign names seed, faults and replay command, and its status is 1."""
    with MUTANTS["finish_twice"]():
        seed = next(seed for seed in range(SEEDS) if run(seed).problem)
        assert campaign.campaign(seed, 1, processes=1) == 1
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith(f"seed {seed}; faults: ")
        assert first.endswith(f"replay: make sim-replay SEED={seed}")
        assert campaign.replay(seed) == 1
        assert "ends twice" in capsys.readouterr().out


def test_the_command_line_runs_and_replays(capsys: pytest.CaptureFixture[str]) -> None:
    """`orchq-sim run` and `replay` reach the campaign and say that all was well."""
    assert main.main(["run", "--seeds", "3", "--start", "5", "--processes", "1"]) == 0
    assert "3 of 3 seeds kept every promise" in capsys.readouterr().out
    assert main.main(["run", "--seeds", "20", "--mutant", "finish_twice"]) == 1
    assert "ends twice" in capsys.readouterr().out
    assert main.main(["run", "--seeds", "60", "--mutant", "torn_tail_accepted"]) == 1
    assert "than was decided" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main.main(["run", "--seeds", "0"])
    assert "must be a whole number from 1 on, got '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no mutant of level 1"):
        main.main(["run", "--seeds", "1", "--mutant", "one_tenant"])
    assert main.main(["replay", "--seed", "5", "--only", "is up"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("seed 5: ")
    assert all("is up" in line for line in told[1:-1])
