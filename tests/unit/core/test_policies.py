"""Whom each scheduling policy prefers, to the last number."""

import pytest

from orchqueue.core.policies import POLICIES, fair, fifo, round_robin, strict_priority
from orchqueue.core.ranks import Ranks

WEIGHTS = {"interactive": 8, "batch": 1}
HEADS = {"interactive": 9, "batch": 4}


@pytest.mark.req("ORCH-4360")
def test_the_registry_names_every_policy() -> None:
    """What the configuration may name is what there is."""
    assert {
        "fair": fair,
        "fifo": fifo,
        "strict-priority": strict_priority,
        "round-robin": round_robin,
    } == POLICIES


@pytest.mark.req("ORCH-4360")
def test_first_come_first_served_goes_by_arrival_over_all_classes() -> None:
    """The class whose first task came first goes next, and only what came earlier passes."""
    state = fifo.new_state()
    assert fifo.pick(state, WEIGHTS, HEADS) == ["batch", "interactive"]
    assert fifo.pick(state, WEIGHTS, {"batch": 9, "interactive": 4}) == ["interactive", "batch"]
    fifo.serve(state, WEIGHTS, "batch")
    assert (state.pending, state.clock) == ({}, 0)
    other = Ranks()
    for number in (2, 5, 8):
        other.add(number, 1, 1)
    assert fifo.passing(8, 1, 0, other, 6) == 2
    assert fifo.to_come(1, 8, 0, 0) == 0
    assert fifo.charge(3, 99, 1) == 0


@pytest.mark.req("ORCH-4360")
def test_strict_priority_goes_by_weight_and_then_by_name() -> None:
    """Everything of a heavier class passes, nothing of a lighter or equal one."""
    state = strict_priority.new_state()
    assert strict_priority.pick(state, WEIGHTS, HEADS) == ["interactive", "batch"]
    assert strict_priority.pick(state, {"interactive": 2, "batch": 2}, HEADS) == ["batch", "interactive"]
    other = Ranks()
    other.add(2, 1, 1)
    assert [strict_priority.passing(4, weight, 0, other, 6) for weight in (3, 4, 5)] == [0, 0, 1]
    assert [strict_priority.to_come(4, weight, 0, 0) for weight in (3, 4, 5)] == [0, 0, strict_priority.NO_END]


@pytest.mark.req("ORCH-4360", "ORCH-4153")
def test_fair_and_round_robin_share_classes_alike_and_tenants_differently() -> None:
    """Tokens by weight, at least one for each task, against one a start."""
    assert [fair.charge(1, 8, weight) for weight in (1, 2, 3)] == [8 * fair.TOKEN, 4 * fair.TOKEN, 8 * fair.TOKEN // 3]
    assert (fair.charge(2, 0, 1), fair.charge(2, 3, 1)) == (2 * fair.TOKEN, 3 * fair.TOKEN)
    assert [round_robin.charge(count, 99, 5) for count in (1, 7)] == [1, 7]
    other = Ranks()
    for number in range(20):
        other.add(number, 1, 1)
    assert [fair.passing(8, 1, position, other, 0) for position in (7, 8, 15, 16)] == [0, 1, 1, 2]
    assert [fair.passing(1, 8, position, other, 0) for position in (0, 1, 2)] == [8, 16, 20]
    assert [fair.to_come(8, 1, position, 1) for position in (7, 8, 16)] == [0, 0, 1]
    assert fair.to_come(1, 8, 1, 5) == 11
    assert round_robin.pick(round_robin.new_state(), WEIGHTS, HEADS) == ["interactive", "batch"]
