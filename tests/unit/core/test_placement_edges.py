"""Where a task is not placed: too far back in a line, or at a replica that is not worth the wait."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.effects import SetTimer
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.placement import SCAN_AT_MOST, WARM_WAIT_MS
from orchqueue.core.request import PlacementWish
from tests.unit.core.driving import Driver, both_classes, key, pool_settings


@pytest.mark.req("ORCH-3011", "ORCH-4154")
@pytest.mark.parametrize(("pinned", "started"), [(SCAN_AT_MOST - 1, True), (SCAN_AT_MOST, False)])
def test_a_slot_looks_at_no_more_than_the_first_of_a_line(pinned: int, started: bool) -> None:
    """A sibling finds the first task that it may take among the first 64; looking further would cost too much."""
    classes = both_classes(200)
    core = Driver(pool_settings("a", classes=classes), pool_settings("b", classes=classes))
    core.submit("ina", placement=PlacementWish("pin", ("a",)))
    core.submit("inb", placement=PlacementWish("pin", ("b",)))
    for number in range(pinned):
        core.submit(f"b{number}", placement=PlacementWish("pin", ("b",)))
    core.submit("free", placement=PlacementWish("prefer", ("b",)))
    assert core.task("free").pool_id == "b"
    core.complete(1)
    assert ("free" in core.starts) is started


def warm_core() -> Driver:
    """Bring session `s` to rest on pr0, which then runs a short task; pr1 is free."""
    core = Driver(pool_settings(replicas=2, strict=False))
    core.submit("first", session_id="s")
    core.complete(1)
    core.submit("short")
    return core


@pytest.mark.req("ORCH-3013")
def test_nobody_waits_for_a_warm_replica_that_is_suspect() -> None:
    """Whether it comes back is not known, so the free slot elsewhere is taken."""
    core = warm_core()
    core.submit("t", session_id="s")
    assert core.starts == ["first", "short"]
    core.fail(2, "lost")
    assert core.task("short").attempt_id is not None, "it went to the free replica at once"
    core.complete(3)
    start = core.wanted(fx.StartAttempt)[-1]
    assert (start.key, start.replica_id) == (key("t"), ReplicaId("pr1"))


@pytest.mark.req("ORCH-4250")
def test_the_wait_for_warmth_is_bounded_from_its_beginning() -> None:
    """What happens meanwhile sets no second timer; when the first is due the task starts anywhere."""
    core = warm_core()
    core.submit("t", session_id="s")
    due = [e for e in core.wanted(SetTimer, core.last) if e.key[0] == "warm"]
    assert due == [SetTimer(("warm", key("t")), core.now_ms + WARM_WAIT_MS)]
    core.handle(ev.ReplicaScraped(ReplicaId("pr0")))
    core.handle(ev.JournalHealed(), after_ms=100)
    assert [e for e in core.wanted(SetTimer) if e.key[0] == "warm"] == due
    core.handle(ev.TimerFired(("warm", key("t"))), after_ms=900)
    assert core.wanted(fx.StartAttempt, core.last)[0].replica_id == "pr1"


@pytest.mark.req("ORCH-3013")
@pytest.mark.parametrize(("tokens", "waits"), [(8, True), (256, False)])
def test_a_warm_replica_is_waited_for_when_it_frees_within_a_second(tokens: int, waits: bool) -> None:
    """Eight tokens at a measured millisecond each are soon over, what takes longer is not waited for."""
    core = Driver(pool_settings(replicas=2, strict=False))
    core.submit("first", session_id="s")
    core.handle(ev.AttemptCompleted(AttemptId(1), "stop", 2, 10, 1, 100))
    core.close(1)
    core.submit("busy", max_tokens=tokens, expected_tokens=tokens)
    core.submit("t", session_id="s")
    assert ("t" not in core.starts) is waits
