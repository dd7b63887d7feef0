"""Who used what, counted where tasks are accepted and where they end."""

from random import Random

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId, TaskId, Tenant, task_key
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Booking, Ended, Forgotten
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Retention
from orchqueue.core.usage import DAY_MS, Amounts, Usage
from tests.unit.core.driving import TENANT, Driver, both_classes, key, pool_settings

pytestmark = pytest.mark.req("ORCH-4004")
OTHER = Tenant("beta")
FOREVER = 1 << 30


def submit(core: Driver, name: str, tenant: Tenant = TENANT, key_id: str = "k1", **fields: object) -> None:
    """Ask for a task of some tenant and key."""
    spec = msgspec.structs.replace(TaskSpec(prompt="hi", seed=1, max_tokens=8), **fields)
    core.handle(ev.TaskSubmitted(core.reply(), TaskId(name), tenant, spec, key_id))


def used(core: Driver, tenant: Tenant = TENANT) -> dict[tuple[int, str, str], Amounts]:
    """Give a tenant's whole usage by day, key and model."""
    picture = core.core.state.usage.picture(tenant, 0, FOREVER // DAY_MS + 100_000)
    return {(row.day, *row.account): row.amounts for row in picture.rows}


def test_each_task_counts_for_its_key_model_and_day() -> None:
    """A success, a cancel while waiting and a failure are counted once each, tokens and time only where an engine worked."""
    core = Driver()
    submit(core, "good")
    submit(core, "gone", key_id="k2")
    core.cancel("gone")
    core.handle(ev.AttemptCompleted(core.wanted(fx.StartAttempt)[0].attempt_id, "stop", 5, 7, 1, 9), after_ms=40)
    core.close(1)
    submit(core, "bad")
    core.fail(2, "rejected")
    assert used(core) == {
        (0, "k1", "m"): Amounts(2, 1, 1, 0, 5 + core.task("bad").prompt_tokens, 7, 40),
        (0, "k2", "m"): Amounts(accepted=1, canceled=1),
    }


@pytest.mark.req("ORCH-3036")
def test_a_tenant_sees_nothing_of_another() -> None:
    """The same key name, model, day and even task id under another tenant are other rows."""
    core = Driver()
    submit(core, "t")
    submit(core, "t", OTHER)
    submit(core, "u", OTHER)
    assert used(core) == {(0, "k1", "m"): Amounts(accepted=1)}
    assert used(core, OTHER) == {(0, "k1", "m"): Amounts(accepted=2)}
    assert used(core, Tenant("acm")) == {}


def test_what_is_not_accepted_anew_is_not_counted() -> None:
    """Neither a refusal nor a repeated post of the same task counts."""
    core = Driver(pool_settings(classes=both_classes(capacity=1)))
    for name in ("running", "waiting", "refused", "waiting"):
        submit(core, name)
    assert core.wanted(fx.Refuse) != []
    assert used(core) == {(0, "k1", "m"): Amounts(accepted=2)}


def test_an_end_counts_on_its_own_day() -> None:
    """A task that ends after midnight was accepted on the day before."""
    core = Driver()
    core.now_ms = 3 * DAY_MS - 1
    submit(core, "t")
    core.handle(ev.AttemptCompleted(core.wanted(fx.StartAttempt)[0].attempt_id, "stop", 5, 7, 1, 9), after_ms=1)
    assert used(core) == {
        (2, "k1", "m"): Amounts(accepted=1),
        (3, "k1", "m"): Amounts(succeeded=1, tokens_in=5, tokens_out=7, decode_ms=1),
    }


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.req("ORCH-4189")
def test_a_withdrawn_acceptance_was_never_used(*, ended: bool) -> None:
    """What the journal could not keep, and the client was told 503 for, leaves no trace in the figures."""
    core = Driver()
    submit(core, "running")
    before = used(core)
    submit(core, "t", key_id="k2")
    if ended:
        core.cancel("t")
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.AcceptsWithdrawn((key("t"),)))
    assert used(core) == before
    assert core.core.state.usage.rows == 1


@pytest.mark.req("ORCH-4089")
def test_without_a_word_of_the_journal_it_is_whole_from_the_start_on() -> None:
    """Restored and recovered tasks are counted; only days that began after the start are complete."""
    core = Driver(up=False)
    spec = TaskSpec(prompt="hi", seed=1)
    old, kept = (
        Accepted(TENANT, TaskId(name), spec, PoolId("p"), True, "v1", 3, 500, "k1", "c", model_ref)
        for name, model_ref in (("old", ""), ("kept", "n"))
    )
    ended = Ended(TENANT, TaskId("old"), Outcome.COMPLETED, 600, 9_000_000, 3, 5, 40, 550)
    core.handle(ev.TaskRestored(old, ended))
    core.handle(ev.TaskRecovered(kept))
    assert used(core) == {
        (0, "k1", "unknown"): Amounts(1, 1, 0, 0, 3, 5, 40),
        (0, "k1", "n"): Amounts(accepted=1),
    }
    usage = core.core.state.usage
    assert usage.since_ms == 1_000_000
    assert [usage.picture(TENANT, day, 5).complete for day in (0, 1)] == [False, True]


@pytest.mark.req("ORCH-4089", "ORCH-4308")
def test_what_a_task_used_is_booked_as_it_is_forgotten_and_counts_after_a_restart() -> None:
    """On the days of its acceptance and of its end, once, with since when all is whole."""
    core = Driver()
    core.now_ms = 3 * DAY_MS - 1
    submit(core, "t")
    core.handle(ev.AttemptCompleted(core.wanted(fx.StartAttempt)[0].attempt_id, "stop", 5, 7, 1, 9), after_ms=1)
    submit(core, "same day", key_id="k2")
    core.cancel("same day")
    before = used(core)
    for name in ("t", "same day"):
        core.handle(ev.TimerFired(("retention", key(name))), after_ms=600_000)
    assert used(core) == before
    records = [e.record for e in core.wanted(fx.Record) if isinstance(e.record, Forgotten)]
    accepted, ended = Booking(2, "k1", "m", 1), Booking(3, "k1", "m", 0, 1, 0, 0, 5, 7, 1)
    canceled = Booking(3, "k2", "m", 1, 0, 0, 1)
    assert records == [
        Forgotten(TENANT, TaskId("t"), (accepted, ended), (), 1_000_000),
        Forgotten(TENANT, TaskId("same day"), (canceled,), (), 1_000_000),
    ]
    later = Orchestrator(core.core.state.settings)
    rows = tuple((TENANT, booking) for booking in (accepted, ended, canceled))
    assert later.handle(4 * DAY_MS, ev.UsageBooked(1_000_000, rows)) == []
    later.begin(4 * DAY_MS)
    later.handle(4 * DAY_MS, ev.UsageBooked(None, ()))
    picture = later.state.usage.picture(TENANT, 0, 9)
    assert {(row.day, *row.account): row.amounts for row in picture.rows} == before
    assert (picture.since_ms, later.state.usage.rows) == (1_000_000, 3)
    assert later.state.usage.picture(OTHER, 0, 9).rows == ()


@pytest.mark.req("ORCH-4189", "ORCH-4308")
def test_what_never_counted_is_not_booked() -> None:
    """A withdrawn task is forgotten without a trace."""
    core = Driver()
    submit(core, "t")
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.AcceptsWithdrawn((key("t"),)))
    (record,) = (e.record for e in core.wanted(fx.Record) if isinstance(e.record, Forgotten))
    assert record.booked == ()


@pytest.mark.req("ORCH-4189", "ORCH-4308")
def test_a_withdrawn_task_is_not_booked_for_the_room_that_another_needs() -> None:
    """One that had ended goes first, though it was accepted later and little may be kept."""
    core = Driver(retention=Retention(max_bytes=1))
    submit(core, "runs")
    submit(core, "ended")
    core.cancel("ended")
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.AcceptsWithdrawn((key("runs"), key("ended"))))
    records = [e.record for e in core.wanted(fx.Record) if isinstance(e.record, Forgotten)]
    assert [(record.task_id, record.booked) for record in records] == [("ended", ()), ("runs", ())]
    assert used(core) == {}


@pytest.mark.req("ORCH-4089")
def test_an_earlier_life_knows_since_when_it_is_whole() -> None:
    """Its word holds, unless a day was dropped since; without one counting begins at the start."""
    usage = Usage(days_at_most=3)
    usage.resume(5)
    usage.begin(1_000)
    assert usage.since_ms == 5
    for day in (1, 9):
        usage.book(TENANT, Booking(day, "k", "m", 1))
    assert usage.since_ms == 2 * DAY_MS
    usage.resume(5)
    assert usage.since_ms == 2 * DAY_MS
    fresh = Usage()
    fresh.begin(1_000)
    assert fresh.since_ms == 1_000


@pytest.mark.req("ORCH-4088", "ORCH-4308")
def test_days_that_were_dropped_are_told_to_the_journal_once() -> None:
    """With the next task that is forgotten."""
    core = Driver()
    core.core.state.usage = Usage(days_at_most=2)
    for name, day in (("a", 5), ("b", 6), ("c", 7), ("d", 8)):
        core.now_ms = day * DAY_MS
        submit(core, name)
        core.cancel(name)
    for name in "ab":
        core.handle(ev.TimerFired(("retention", key(name))), after_ms=600_000)
    records = [e.record for e in core.wanted(fx.Record) if isinstance(e.record, Forgotten)]
    assert [record.dropped_days for record in records] == [(5, 6), ()]
    assert records[0].usage_since_ms == 7 * DAY_MS


@pytest.mark.req("ORCH-4088")
def test_the_oldest_days_go_first() -> None:
    """Days beyond the bound are dropped whole, and the picture says from when on it is whole."""
    core = Driver()
    submit(core, "t")
    usage = Usage(days_at_most=3, rows_at_most=100)
    task = core.task("t")
    for day in (1, 2, 3, 4, 1):
        task.accepted_at_ms = day * DAY_MS + 7
        usage.accept(task)
    assert [row.day for row in usage.picture(TENANT, 0, 9).rows] == [2, 3, 4]
    assert (usage.rows, usage.since_ms) == (3, 2 * DAY_MS)


@pytest.mark.req("ORCH-4088")
def test_rows_are_bounded_also_within_a_day() -> None:
    """More rows than allowed cost the oldest day; where that is today, counting begins anew now."""
    core = Driver()
    submit(core, "t")
    usage = Usage(rows_at_most=2)
    task = core.task("t")
    for number, day in enumerate((1, 2, 2, 2)):
        task.client_id, task.accepted_at_ms = f"k{number}", day * DAY_MS + number
        usage.accept(task)
        assert usage.rows <= 2
    assert usage.picture(TENANT, 0, 9).rows == ()
    assert usage.since_ms == 2 * DAY_MS + 3


@pytest.mark.parametrize("seed", range(20))
def test_the_figures_equal_the_history(seed: int) -> None:
    """Whatever happens, what is counted is what clients were told: acceptances and ends, and the tokens of the ends."""
    chance, core = Random(seed), Driver(pool_settings(replicas=2, classes=both_classes(4, "drop-lru")))
    for number in range(120):
        attempts = list(core.core.state.attempts)
        match chance.randrange(6):
            case 0 | 1:
                priority = chance.choice(["interactive", "batch"])
                submit(core, f"t{number}", chance.choice([TENANT, OTHER]), f"k{chance.randrange(3)}", priority=priority)
            case 2:
                core.cancel(f"t{chance.randrange(number + 1)}")
            case 3 if attempts:
                core.complete(chance.choice(attempts), chance.randrange(1, 9))
            case 4 if attempts:
                core.fail(chance.choice(attempts), chance.choice(["overloaded", "engine_error", "rejected"]))
            case _:
                core.now_ms += chance.randrange(DAY_MS // 8)
    for tenant in (TENANT, OTHER):
        total = Amounts()
        for amounts in used(core, tenant).values():
            total.add(amounts)
        ends = [e.ended for e in core.wanted(fx.Finish) if e.ended.tenant == tenant]
        keys = {task_key(tenant, TaskId(f"t{n}")) for n in range(120)}
        assert total.accepted == sum(a.key in keys and not a.repeated for a in core.wanted(fx.Accept))
        assert total.succeeded + total.failed + total.canceled == len(ends)
        assert total.succeeded == sum(e.outcome is Outcome.COMPLETED for e in ends)
        assert total.tokens_out == sum(e.tokens_out for e in ends)
