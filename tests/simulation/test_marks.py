"""What the seeds of the pipeline reach: every end, policy, transition and fault, or the test names what is missing."""

from collections import Counter
from unittest import mock

import pytest

from orchqueue_sim import plan
from orchqueue_sim.crowd import DEEDS
from orchqueue_sim.marks import EXCUSED, expected
from orchqueue_sim.world import run

SEEDS = 640


def reached(seeds: range) -> Counter[str]:
    """Count in how many of the seeds each mark was reached."""
    found: Counter[str] = Counter()
    for seed in seeds:
        report = run(seed)
        assert not report.problem, report.text
        found.update(report.marks)
    return found


@pytest.mark.timeout(600)
@pytest.mark.req("ORCH-4340", "ORCH-4341", "ORCH-4342")
def test_the_seeds_of_the_pipeline_reach_everything() -> None:
    """No end, verdict, transition, event, effect, deed or fault is left out; none is reached that nobody expects."""
    wanted, found = expected(1, plan.FAULTS, DEEDS), reached(range(SEEDS))
    assert sorted(wanted - found.keys()) == []
    assert sorted(found.keys() - wanted) == []
    assert not EXCUSED[1].keys() & found.keys()


@pytest.mark.timeout(240)
@pytest.mark.req("ORCH-4342")
def test_a_generator_that_leaves_something_out_is_noticed() -> None:
    """Where no queue is ever told to drop what waits longest, the marks of that policy are missing."""
    with mock.patch.object(plan, "POLICIES", ("reject", "shed-low-priority")):
        found = reached(range(200))
    missing = expected(1, plan.FAULTS, DEEDS) - found.keys()
    of_policy = {mark for mark in expected(1, plan.FAULTS, DEEDS) if mark.startswith("policy drop-lru")}
    assert of_policy | {"outcome dropped_victim", "outcome dropped_no_victim"} <= missing
