"""How long ended tasks are remembered."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.settings import Retention
from tests.unit.core.driving import Driver, key


@pytest.mark.req("ORCH-4083")
@pytest.mark.parametrize(("priority", "kept_ms"), [("interactive", 600_000), ("batch", 86_400_000)])
def test_an_ended_task_stays_readable_for_its_class_retention(priority: str, kept_ms: int) -> None:
    """It is remembered until its class's time is over, and then for good forgotten."""
    core = Driver()
    core.submit("t", priority=priority)
    core.complete(1)
    (timer,) = [t for t in core.wanted(fx.SetTimer) if t.key[0] == "retention"]
    assert timer.at_ms == core.now_ms + kept_ms
    assert core.task("t").ended is not None
    core.handle(ev.TimerFired(timer.key), after_ms=kept_ms)
    assert key("t") not in core.core.state.tasks
    assert [f.key for f in core.wanted(fx.Forget)] == [key("t")]


@pytest.mark.req("ORCH-4084")
def test_the_oldest_ended_tasks_go_first_when_their_bytes_are_too_many() -> None:
    """What ended first is forgotten first; a task that still waits never is, however old."""
    core = Driver(retention=Retention(max_bytes=10_000))
    core.submit("runs")
    core.submit("waits")
    for number in range(8):
        core.submit(f"t{number}")
        core.cancel(f"t{number}")
    forgotten = [f.key for f in core.wanted(fx.Forget)]
    assert forgotten == [key(f"t{number}") for number in range(len(forgotten))]
    assert 0 < len(forgotten) < 8
    assert core.task("runs").ended is None
    assert core.task("waits").ended is None
