"""Why a replica was chosen: each attempt is logged with the replicas and the classes as they stood at that moment."""

import msgspec
import pytest

from orchqueue.core import decisions as dc
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.request import PlacementWish
from orchqueue.core.settings import ReplicaSettings
from orchqueue.core.weighing import CANDIDATES_AT_MOST
from tests.unit.core.driving import Driver, key, pool_settings

pytestmark = pytest.mark.req("ORCH-4324")


def told(core: Driver, name: str = "t") -> Explanation:
    """Explain a task that is known."""
    found = core.explained(name)
    assert found is not None
    return found


def bound(core: Driver, name: str = "t", attempt: int = 1) -> dc.Bound:
    """Give the log's entry of an attempt."""
    return next(one for one in core.decided(key(name)) if isinstance(one, dc.Bound) and one.attempt == attempt)


def test_an_attempt_is_logged_with_every_replica_as_it_stood() -> None:
    """The chosen one comes first; of each other the filter that took it out, or what put it behind, is told."""
    core = Driver(pool_settings(replicas=6, slots=2, strict=False))
    state = core.core.state
    core.handle(ev.ReplicaLost(ReplicaId("pr5"), "exit", "gone"))
    state.replicas[ReplicaId("pr4")].cooling = True
    core.submit("a")
    core.submit("b", session_id="s")
    state.replicas[ReplicaId("pr2")].devices = (ev.DeviceFigures("cuda:0", vram_free_bytes=5),)
    core.handle(ev.AttemptCompleted(core.wanted(fx.StartAttempt)[1].attempt_id, "stop", 2, 1, 1, 1))
    core.submit("t")
    found = {one.replica_id: (one.standing, one.busy, one.slots, one.score) for one in bound(core).candidates}
    assert bound(core).candidates[0].replica_id == bound(core).replica_id == "pr2"
    assert found == {
        "pr2": ("chosen", 0, 2, 0), "pr0": ("busier", 1, 2, 500), "pr1": ("busier", 1, 2, 500),
        "pr3": ("less_memory", 0, 2, 0), "pr4": ("cooling", 0, 2, None), "pr5": ("not_ready", 0, 2, None),
    }  # fmt: skip
    assert (bound(core).choice, bound(core).free_replicas) == ("least_busy", 4)
    story = told(core).story
    assert "Replica pr3 had less free memory (0 of 2 slots taken)." in story
    assert "Replica pr5 was not up (0 of 2 slots taken)." in story
    core.complete(2)
    core.submit("warm", session_id="s")
    warm = bound(core, "warm")
    assert (warm.choice, warm.replica_id, warm.candidates[0].warm) == ("warm_session", "pr1", True)
    assert {one.standing for one in warm.candidates[1:]} == {"not_warm", "cooling", "not_ready"}


def test_filters_of_strict_and_tried_tasks_are_told() -> None:
    """A replica that has not proven equal outputs, one that was tried and one that is full are out for that reason."""
    core = Driver(pool_settings(replicas=4), up=False)
    for name, proven in (("pr0", True), ("pr1", False), ("pr2", True), ("pr3", True)):
        core.ready(name, strict_proven=proven)
    core.submit("t")
    core.submit("other")
    core.submit("third")
    core.fail(1, "engine_error")
    core.complete(2)
    second = {one.replica_id: one.standing for one in bound(core, attempt=2).candidates}
    assert second == {"pr2": "chosen", "pr0": "tried", "pr1": "not_strict", "pr3": "no_free_slot"}
    first = {one.replica_id: one.standing for one in bound(core).candidates}
    assert first == {"pr0": "chosen", "pr1": "not_strict", "pr2": "later_in_name", "pr3": "later_in_name"}
    assert core.decided(key("t"))[3] == dc.AttemptFailed(core.now_ms, key("t"), 1, ReplicaId("pr0"), "engine_error")
    assert [(one.number, one.failure, one.verdict) for one in told(core).attempts] == [
        (1, "engine_error", None), (2, None, None),
    ]  # fmt: skip
    core.fail(4, "rejected")
    assert told(core).attempts[1].verdict is Outcome.ENGINE_REFUSED


def test_of_hundreds_of_replicas_a_few_are_logged() -> None:
    """What is logged of an attempt is bounded, the chosen replica is always there, and all free ones are counted."""
    names = tuple(ReplicaSettings(ReplicaId(f"r{number:03}")) for number in range(300))
    core = Driver(msgspec.structs.replace(pool_settings(), replicas=names))
    core.core.state.replicas[ReplicaId("r299")].devices = (ev.DeviceFigures("cuda:0", vram_free_bytes=5),)
    core.submit("t")
    assert (len(bound(core).candidates), bound(core).free_replicas) == (CANDIDATES_AT_MOST, 300)
    assert [one.replica_id for one in bound(core).candidates][:2] == ["r299", "r000"]


@pytest.mark.req("ORCH-3011")
def test_a_task_that_a_sibling_took_tells_of_both_pools() -> None:
    """The sibling's replica comes first, then how the pool stood in which the task had waited."""
    core = Driver(pool_settings("a", 2), pool_settings("b"))
    for number in range(2):
        core.submit(f"a{number}", placement=PlacementWish("pin", ("a",)))
    core.submit("b0", placement=PlacementWish("pin", ("b",)))
    core.submit("t", placement=PlacementWish("prefer", ("a",)))
    core.complete(3)
    entry = bound(core)
    assert (entry.pool_id, entry.from_pool_id) == ("b", "a")
    assert [(one.replica_id, one.standing) for one in entry.candidates] == [
        ("br0", "chosen"), ("ar0", "no_free_slot"), ("ar1", "no_free_slot"),
    ]  # fmt: skip


def test_a_free_replica_of_a_pool_asked_later_is_told_as_such() -> None:
    """Two slots free at once: the pool that is asked first takes the task, the waiting pool's own replica stands by."""
    core = Driver(pool_settings("a"), pool_settings("b"))
    core.submit("a0", placement=PlacementWish("pin", ("a",)))
    core.submit("b0", placement=PlacementWish("pin", ("b",)))
    core.submit("t", placement=PlacementWish("prefer", ("b",)))
    core.core.state.shutting_down = True
    core.complete(1)
    core.complete(2)
    core.core.state.shutting_down = False
    core.handle(ev.JournalHealed())
    assert [(one.replica_id, one.standing, one.score) for one in bound(core).candidates] == [
        ("ar0", "chosen", 0), ("br0", "other_pool", None),
    ]  # fmt: skip


def test_whose_turn_it_was_and_how_the_shares_stood_is_told() -> None:
    """Both classes wait: their weights, numbers and tags before the start are kept, and the story says whose turn it was."""
    core = Driver()
    core.submit("running")
    core.submit("t")
    core.submit("batch", priority="batch")
    core.complete(1)
    entry = bound(core)
    assert (entry.turn, [(one.priority, one.weight, one.waiting) for one in entry.shares]) == (
        "interactive", [("interactive", 8, 1), ("batch", 1, 1)],
    )  # fmt: skip
    tags = [one.tag for one in entry.shares]
    assert None not in tags
    assert tags == sorted(tags, key=lambda tag: tag or 0)
    assert (
        "It was the turn of class interactive; there waited: 1 interactive (weight 8), 1 batch (weight 1)."
        in told(core).story
    )
