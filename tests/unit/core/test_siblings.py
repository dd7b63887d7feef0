"""Pools that help each other, and where help ends."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId
from orchqueue.core.request import PlacementWish
from tests.unit.core.driving import Driver, pool_settings


@pytest.mark.req("ORCH-3008", "ORCH-3047")
def test_another_name_is_another_model_whatever_its_engine_says() -> None:
    """A task never runs in a pool with another model reference, even when both engines describe theirs alike."""
    core = Driver(pool_settings("a"), pool_settings("b", model_ref="other"), up=False)
    for replica in ("ar0", "br0"):
        core.ready(replica, model_digest="both say so")
    for number in range(2):
        core.submit(f"t{number}", model_ref="m")
    assert core.starts == ["t0"]
    assert core.waiting("a") == ["t1"]


@pytest.mark.req("ORCH-4162")
def test_a_pinned_task_is_not_promised_the_slot_of_a_pool_that_it_may_not_use() -> None:
    """Idle siblings shorten the wait of those only that may run there."""
    core = Driver(pool_settings("a"), pool_settings("b"))
    pinned = PlacementWish("pin", ("a",))
    core.submit("runs", placement=pinned, max_tokens=100)
    core.submit("waits", placement=pinned, max_tokens=100)
    assert core.wanted(fx.Accept)[-1].predicted_start_ms >= 100
    core.submit("goes", placement=PlacementWish("prefer", ("a",)), max_tokens=100)
    assert core.starts == ["runs", "goes"]


@pytest.mark.req("ORCH-4124", "ORCH-4162")
def test_a_drain_moves_a_task_to_another_pool_of_its_pin() -> None:
    """A task pinned to several pools goes on in one of those; one pinned to the drained pool alone stays."""
    core = Driver(pool_settings("a"), pool_settings("b"))
    core.submit("one", placement=PlacementWish("pin", ("a",)))
    core.submit("two", placement=PlacementWish("pin", ("b",)))
    core.submit("three", placement=PlacementWish("pin", ("b",)))
    core.submit("either", placement=PlacementWish("pin", ("a", "b")))
    core.submit("only", placement=PlacementWish("pin", ("a",)))
    assert core.waiting("a") == ["either", "only"]
    core.handle(ev.DrainRequested(core.reply(), PoolId("a"), 1_000))
    assert (core.waiting("a"), core.waiting("b")) == (["only"], ["three", "either"])


@pytest.mark.req("ORCH-4124")
def test_a_drain_moves_tasks_in_arrival_order_as_far_as_there_is_room() -> None:
    """The oldest of both classes go first; what does not fit stays, and nobody is dropped for it."""
    small = pool_settings("b", capacity=3)
    core = Driver(pool_settings("a"), small)
    pin = PlacementWish("pin", ("a",))
    core.submit("runs", placement=pin)
    core.submit("there", placement=PlacementWish("pin", ("b",)))
    core.submit("stays", placement=pin)
    for number in range(4):
        wish = PlacementWish("prefer", ("a",))
        core.submit(f"t{number}", placement=wish, priority="batch" if number % 2 else "interactive")
    assert core.waiting("b") == []
    core.handle(ev.DrainRequested(core.reply(), PoolId("a"), 60_000))
    assert sorted(core.waiting("b")) == ["t0", "t1", "t2"]
    assert core.waiting("a") == ["stays", "t3"]
    assert core.wanted(fx.Finish) == []
