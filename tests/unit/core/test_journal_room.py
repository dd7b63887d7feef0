"""What the core does as the journal fills up."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import TaskKey
from orchqueue.core.journal_room import FORGOTTEN_AT_ONCE
from orchqueue.core.outcome import Outcome
from tests.unit.core.driving import Driver, key

pytestmark = pytest.mark.req("ORCH-4374")

MAX = 1_600_000
FORGETS_FROM = 1_500_000


def _ended(core: Driver, count: int) -> list[TaskKey]:
    """Have some tasks accepted and canceled, beside one that runs and one that waits."""
    core.submit("runs")
    core.submit("waits")
    for number in range(count):
        core.submit(f"t{number}")
        core.cancel(f"t{number}")
    return [key(f"t{number}") for number in range(count)]


def _forgotten(core: Driver, held_bytes: int, max_bytes: int = MAX) -> list[TaskKey]:
    return [f.key for f in core.wanted(fx.Forget, core.handle(ev.Ticked(held_bytes, max_bytes)))]


def test_near_the_bound_the_oldest_ended_tasks_are_forgotten_just_as_many_as_need_be() -> None:
    """Below fifteen sixteenths none is, above it what was too much, and what runs or waits never."""
    core = Driver()
    names = _ended(core, 6)
    assert _forgotten(core, FORGETS_FROM) == []
    assert _forgotten(core, FORGETS_FROM + 1) == names[:1]
    size = core.core.state.retained[names[1]]
    assert _forgotten(core, FORGETS_FROM + size) == names[1:2]
    assert _forgotten(core, FORGETS_FROM + size + 1) == names[2:4]
    assert _forgotten(core, MAX) == names[4:]
    assert _forgotten(core, MAX) == []
    assert core.task("runs").ended is None
    assert core.task("waits").ended is None


def test_a_journal_without_a_bound_forgets_nothing() -> None:
    """0 is no bound, not one that is always reached."""
    core = Driver()
    _ended(core, 2)
    assert _forgotten(core, 1 << 50, 0) == []
    assert not core.core.state.journal_full


def test_no_more_are_forgotten_at_once_than_the_loop_can_bear() -> None:
    """The rest follows at the next interval."""
    core = Driver()
    names = _ended(core, FORGOTTEN_AT_ONCE + 2)
    assert _forgotten(core, 1 << 40, 1 << 40) == names[:FORGOTTEN_AT_ONCE]
    assert _forgotten(core, 1 << 40, 1 << 40) == names[FORGOTTEN_AT_ONCE:]


@pytest.mark.req("ORCH-4188")
def test_a_full_journal_admits_nothing_and_everything_else_goes_on() -> None:
    """A newcomer gets 503 with the reason; what was accepted starts, runs and ends; with room again all is as before."""
    core = Driver()
    core.submit("runs")
    core.submit("waits")
    core.handle(ev.Ticked(MAX - 1, MAX))
    core.submit("last")
    assert core.task("last").ended is None
    core.handle(ev.Ticked(MAX, MAX))
    (refused,) = core.wanted(fx.Refuse, core.submit("newcomer"))
    assert refused.refusal.outcome is Outcome.JOURNAL_DOWN
    assert refused.refusal.message.startswith("the journal holds as much as journal.max_bytes allows")
    core.complete(1)
    assert core.starts == ["runs", "waits"]
    core.handle(ev.Ticked(MAX, MAX))
    core.handle(ev.Ticked(MAX - 1, MAX))
    core.submit("welcome")
    assert core.task("welcome").ended is None
    told = [(n.level, n.event) for n in core.wanted(fx.Note) if n.event.startswith("journal")]
    assert told == [("error", "journal_full"), ("info", "journal_has_room")]
