"""The whole runtime and HTTP edge under virtual time: every promise at the edges is kept, and the inspector bites."""

import asyncio
from random import Random

import pytest

from orchqueue_sim.level2.plan import Plan, straight
from orchqueue_sim.level2.virtual_loop import VirtualLoop
from orchqueue_sim.level2.world import run
from orchqueue_sim.timeline import Timeline


@pytest.mark.req("ORCH-4237")
def test_without_faults_every_task_is_read_to_its_end() -> None:
    """Twenty tasks on two replicas are accepted, streamed and succeed, and the stopped daemon leaves nothing behind."""
    report = run(1, plan=straight(1))
    assert not report.problem, report.text
    assert report.outcomes == {"succeeded": 20}


def story(plan: Plan) -> list[str]:
    """Tell a run in full."""
    timeline = Timeline()
    run(plan.seed, timeline.note, plan)
    return timeline.lines


@pytest.mark.req("ORCH-4237")
def test_a_seed_tells_the_same_story_twice() -> None:
    """A replay shows exactly what happened the first time."""
    told = story(straight(3))
    assert told == story(straight(3))
    assert len(told) > 50


@pytest.mark.req("ORCH-4237")
def test_virtual_time_passes_in_no_time_and_threads_are_done_without() -> None:
    """Sleeps end in their order however long they are, what asks for a thread runs on the loop, and errors are kept."""
    loop = VirtualLoop(Random(1))
    woken: list[str] = []

    async def sleeper(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        woken.append(name)

    async def main() -> str:
        await asyncio.gather(sleeper("week", 604_800), sleeper("hour", 3_600), sleeper("day", 86_400))
        return await loop.run_in_executor(None, "never in a thread".upper)

    assert loop.run_until_complete(main()) == "NEVER IN A THREAD"
    assert woken == ["hour", "day", "week"]
    assert int(loop.time()) == 604_800
    loop.call_exception_handler({"message": "lost", "exception": KeyError("x")})
    assert loop.problems == ["lost: KeyError('x')"]
    loop.close()
