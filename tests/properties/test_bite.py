"""The property tests bite: each machine fails on a bug planted into the core."""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from orchqueue_sim.mutants import MUTANTS
from tests.properties.test_fairness import FairnessMachine
from tests.properties.test_life import LifeMachine
from tests.properties.test_placement import PlacementMachine
from tests.properties.test_queue import QueueMachine
from tests.properties.test_sessions import SessionMachine

# The first failure is enough: neither shrunk nor kept for the next run.
HUNT = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("machine", "mutant"),
    [
        (QueueMachine, "lifo"),
        (FairnessMachine, "starve_batch"),
        (QueueMachine, "room_without_bounds"),
        (QueueMachine, "forget_victim"),
        (SessionMachine, "count_turn_twice"),
        (PlacementMachine, "pin_ignored"),
        (LifeMachine, "release_on_cancel"),
        (LifeMachine, "finish_twice"),
        (LifeMachine, "no_fencing"),
        (LifeMachine, "cancel_ignored_while_bound"),
        (LifeMachine, "cancel_not_recorded"),
        (LifeMachine, "started_twice"),
        (LifeMachine, "withdrawal_ignored"),
    ],
)
@pytest.mark.req("ORCH-4236")
def test_a_planted_bug_is_found(machine: type[RuleBasedStateMachine], mutant: str) -> None:
    """The machine that describes a rule fails when that rule is broken."""
    with MUTANTS[mutant](), pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=HUNT)
