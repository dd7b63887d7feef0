"""The text of running tasks is recorded in batches, and no token waits for that."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId
from orchqueue.core.records import Followed, Spoken
from orchqueue.core.running_text import TEXT_TIMER
from tests.unit.core.driving import TENANT, Driver, key, pool_settings


def spoken(core: Driver, effects: list[fx.AnyEffect] | None = None) -> list[tuple[str, int, str, int]]:
    """List the recorded pieces: task, place, text, tokens."""
    records = (e.record for e in core.wanted(fx.Record, effects))
    return [(r.task_id, r.at_bytes, r.text, r.tokens_out) for r in records if isinstance(r, Spoken)]


@pytest.mark.req("ORCH-4183")
def test_one_beat_records_what_all_tasks_have_said() -> None:
    """The first piece sets the one timer; nothing is recorded before, and nothing twice."""
    core = Driver(pool_settings(slots=2))
    core.submit("a")
    core.submit("b")
    effects = core.chunk(1, "né")
    assert fx.SetTimer(TEXT_TIMER, core.now_ms + 200) in effects
    core.handle(ev.ChunksArrived(AttemptId(1), (" and",), 2))
    assert fx.SetTimer(TEXT_TIMER, core.now_ms + 200) not in core.chunk(2, "so")
    assert spoken(core) == []
    effects = core.handle(ev.TimerFired(TEXT_TIMER), after_ms=200)
    assert spoken(core, effects) == [("a", 0, "né and", 2), ("b", 0, "so", 1)]
    assert core.handle(ev.TimerFired(TEXT_TIMER)) == []
    core.handle(ev.ChunksArrived(AttemptId(1), (" on",), 3))
    assert spoken(core, core.handle(ev.TimerFired(TEXT_TIMER), after_ms=200)) == [("a", 7, " on", 3)]


@pytest.mark.req("ORCH-4183")
def test_much_text_is_recorded_at_once() -> None:
    """4 KiB do not wait for the beat, which then has nothing to do."""
    core = Driver()
    core.submit("t")
    assert spoken(core, core.chunk(1, "x" * 4_095)) == []
    assert spoken(core, core.chunk(1, "é")) == [("t", 0, "x" * 4_095 + "é", 1)]
    assert core.handle(ev.TimerFired(TEXT_TIMER), after_ms=200) == []


@pytest.mark.req("ORCH-4183")
def test_a_journal_that_fails_is_given_the_text_later() -> None:
    """Records do not pile up while nothing can be committed; the text is kept until it can."""
    core = Driver()
    core.submit("t")
    core.chunk(1, "so")
    core.handle(ev.JournalStalled("full"))
    assert core.handle(ev.TimerFired(TEXT_TIMER), after_ms=200) == [fx.SetTimer(TEXT_TIMER, core.now_ms + 200)]
    core.handle(ev.JournalHealed())
    assert spoken(core, core.handle(ev.TimerFired(TEXT_TIMER), after_ms=200)) == [("t", 0, "so", 1)]


@pytest.mark.req("ORCH-4183")
def test_what_has_ended_is_recorded_by_its_end() -> None:
    """The end brings the whole text, so the beat leaves the task out."""
    core = Driver()
    core.submit("t")
    core.chunk(1, "so")
    core.complete(1)
    assert core.handle(ev.TimerFired(TEXT_TIMER), after_ms=200) == []
    assert core.task("t").said == bytearray()


@pytest.mark.req("ORCH-4113")
def test_a_reader_is_recorded_once_where_its_leaving_would_end_the_task() -> None:
    """Tasks that go on without readers need no record of them."""
    core = Driver()
    core.submit("t")
    effects = core.handle(ev.ReaderAttached(key("t"), 1))
    assert [e.record for e in core.wanted(fx.Record, effects)] == [Followed(TENANT, core.task("t").task_id)]
    assert core.wanted(fx.Record, core.handle(ev.ReaderAttached(key("t"), 2))) == []
    core.submit("b", priority="batch")
    assert core.wanted(fx.Record, core.handle(ev.ReaderAttached(key("b"), 1))) == []
