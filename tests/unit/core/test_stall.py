"""What the core does while the journal cannot commit."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from tests.unit.core.driving import Driver, key


@pytest.mark.req("ORCH-4013", "ORCH-3016")
def test_accepted_task_does_not_run_out_of_time_before_its_start_can_be_recorded() -> None:
    """A slot that frees while the journal stalls is given away when it has healed, with all limits still ahead."""
    core = Driver()
    core.submit("first")
    core.submit("second")
    core.handle(ev.JournalStalled("disk full"))
    core.complete(1)
    assert core.starts == ["first"]
    core.handle(ev.TimerFired(("wall", key("second"))), after_ms=120_000)
    core.handle(ev.JournalHealed())
    assert core.starts == ["first", "second"]
    (wall,) = [t for t in core.wanted(fx.SetTimer) if t.key == ("wall", key("second"))]
    assert wall.at_ms == core.now_ms + core.pool().settings.timeouts.wall_ms


@pytest.mark.req("ORCH-4013")
def test_a_stall_and_its_end_stand_in_the_log() -> None:
    """Whoever runs the daemon reads why it accepts nothing, and when that was over."""
    core = Driver()
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.JournalHealed())
    told = [n for n in core.wanted(fx.Note) if n.event.startswith("journal")]
    assert [(n.level, n.event, n.fields.get("detail")) for n in told] == [
        ("error", "journal_stalled", "disk full"),
        ("info", "journal_healed", None),
    ]
