"""The whole runtime and HTTP edge under virtual time: every promise at the edges is kept, and the inspector bites."""

import asyncio
from collections import Counter
from random import Random

import pytest

from orchqueue_sim import campaign, main
from orchqueue_sim.level2.mutants import BED, MUTANTS, hunt
from orchqueue_sim.level2.plan import FAULTS, Plan, draw, straight, tours
from orchqueue_sim.level2.virtual_loop import VirtualLoop
from orchqueue_sim.level2.visitors import DEEDS
from orchqueue_sim.level2.world import run
from orchqueue_sim.marks import EXCUSED, expected
from orchqueue_sim.timeline import Timeline

SEEDS = 100
TROUBLED = 3


@pytest.mark.req("ORCH-4237")
def test_without_faults_every_task_is_read_to_its_end() -> None:
    """Twenty tasks on two replicas are accepted, streamed and succeed, and the stopped daemon leaves nothing behind."""
    report = run(1, plan=straight(1))
    assert not report.problem, report.text
    assert report.outcomes["succeeded"] == 20


def story(plan: Plan) -> list[str]:
    """Tell a run in full."""
    timeline = Timeline()
    run(plan.seed, timeline.note, plan)
    return timeline.lines


@pytest.mark.req("ORCH-4237")
def test_a_seed_tells_the_same_story_twice() -> None:
    """A replay shows exactly what happened the first time."""
    for plan in (straight(3), draw(TROUBLED, frozenset(FAULTS))):
        told = story(plan)
        assert told == story(plan)
        assert len(told) > 40


@pytest.mark.req("ORCH-4237")
def test_virtual_time_passes_in_no_time_and_threads_are_done_without() -> None:
    """Timers fire in their order however far they are, what asks for a thread runs on the loop, and errors are kept."""
    loop = VirtualLoop(Random(1))
    woken: list[str] = []

    async def main() -> str:
        over = asyncio.Event()
        for name, delay_s in (("day", 86_400), ("hour", 3_600)):
            loop.call_later(delay_s, woken.append, name)
        loop.call_later(604_800, over.set)
        await over.wait()
        return await loop.run_in_executor(None, "never in a thread".upper)

    assert loop.run_until_complete(main()) == "NEVER IN A THREAD"
    assert woken == ["hour", "day"]
    assert int(loop.time()) == 604_800
    loop.call_exception_handler({"message": "lost", "exception": KeyError("x")})
    assert loop.problems == ["lost: KeyError('x')"]
    loop.close()


@pytest.mark.timeout(900)
@pytest.mark.req(
    "ORCH-2002",
    "ORCH-2003",
    "ORCH-2052",
    "ORCH-3015",
    "ORCH-3017",
    "ORCH-3036",
    "ORCH-4011",
    "ORCH-4012",
    "ORCH-4013",
    "ORCH-4076",
    "ORCH-4100",
    "ORCH-4190",
    "ORCH-4208",
    "ORCH-4237",
    "ORCH-4340",
    "ORCH-4341",
)
def test_every_seed_keeps_every_promise() -> None:
    """No promise that can be seen is broken and nothing is left, while every fault strikes and every way to end comes up."""
    seen: Counter[str] = Counter()
    marks: set[str] = set()
    for plan in (*map(draw, range(SEEDS)), *tours()):
        report = run(plan.seed, None, plan)
        assert not report.problem, report.text
        seen += report.outcomes
        marks |= report.marks
    assert sorted(expected(2, FAULTS, DEEDS) - marks) == []
    assert not EXCUSED[2].keys() & marks
    assert {"stop", "length", "canceled", "DECODE_TIMEOUT", "WORKER_RESET", "succeeded", "failed"} <= set(seen)


@pytest.mark.req("ORCH-4239")
def test_seeds_that_once_failed_stay_mended() -> None:
    """Whatever a seed has found once is looked for always."""
    for seed in campaign.kept_seeds(campaign.REGRESSIONS[2]):
        report = run(seed)
        assert not report.problem, report.text


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.req("ORCH-4238")
def test_every_planted_bug_is_caught(name: str) -> None:
    """Each mutant breaks a promise that is noticed within the number of seeds that stands beside it."""
    found = hunt(name)
    assert found is not None, f"{name} survived {BED.seeds[name]} seeds"


@pytest.mark.req("ORCH-4238")
def test_enough_bugs_are_planted() -> None:
    """The list keeps its length, and every bug says within how many seeds it is caught."""
    assert len(MUTANTS) >= 20
    assert BED.seeds.keys() == MUTANTS.keys()


@pytest.mark.req("ORCH-4239")
def test_the_command_line_runs_and_replays(capsys: pytest.CaptureFixture[str]) -> None:
    """`orchq-sim` plays level 2, plants its bugs, and a failure begins with the command that repeats it."""
    assert main.main(["run", "--level", "2", "--seeds", "1", "--processes", "1"]) == 0
    assert "1 of 1 seeds kept every promise" in capsys.readouterr().out
    assert main.main(["run", "--level", "2", "--seeds", "1", "--mutant", "ticker_outlives_stop"]) == 1
    told = capsys.readouterr().out
    assert told.splitlines()[0].endswith("replay: make sim-replay LEVEL=2 SEED=0")
    assert "left after the daemon has stopped" in told
    assert main.main(["replay", "--level", "2", "--seed", "0", "--only", "client"]) == 0
    assert "kept every promise" in capsys.readouterr().out
