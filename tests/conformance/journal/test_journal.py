"""One suite for every journal: what the port promises, whoever keeps it."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from orchqueue.core.ids import Tenant
from orchqueue.core.records import AnyRecord, Booking
from orchqueue.core.request import Message, PlacementWish, Sampling, TaskSpec
from orchqueue.ports.errors import JournalError
from orchqueue.ports.journal import Unfinished
from tests.conformance.journal.bed import (
    TENANT,
    Bed,
    MemoryBed,
    RelaxedBed,
    SimulatedBed,
    SqliteBed,
    Watcher,
    accepted,
    bound,
    ended,
    followed,
    forgotten,
    spoken,
)
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4013")


@pytest.fixture(params=[MemoryBed, SqliteBed, RelaxedBed, SimulatedBed], ids=["memory", "full", "relaxed", "simulated"])
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Bed:
    """Give each journal's world in turn."""
    make: Callable[[Path], Bed] = request.param
    return make(tmp_path)


async def test_records_are_numbered_from_one_and_told_when_durable(bed: Bed) -> None:
    """Numbers count records, not calls, and the last one is told."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    assert journal.append([accepted("a")]) == 1
    assert journal.append([accepted("b"), bound("a")]) == 3
    assert watcher.told == [], "told before any commit could have happened"
    await watcher.reach(3)
    assert watcher.told == sorted(watcher.told, key=int)
    assert watcher.seq == 3
    journal.close()


async def test_an_empty_append_gives_the_last_number_and_commits_nothing(bed: Bed) -> None:
    """A batch without records needs no commit of its own."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    assert journal.append([]) == 0
    journal.append([accepted("a")])
    await watcher.reach(1)
    assert journal.append([]) == 1
    journal.close()


@pytest.mark.req("ORCH-4179")
async def test_waiting_tasks_come_back_in_order_of_acceptance(bed: Bed) -> None:
    """After a restart the order is the order of acceptance, with what was bound marked."""
    names = [f"{number * 7919 % 1000:04d}" for number in range(300)]
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    for name in names:
        journal.append([accepted(name, prompt=f"prompt of {name} é🙂")])
    journal.append([bound(names[3]), ended(names[5])])
    await watcher.reach(len(names) + 2)
    journal.close()
    later = bed.journal()
    found = list(later.recover().unfinished())
    assert [task.accepted.task_id for task in found] == [name for name in names if name != names[5]]
    assert [task.bound for task in found if task.bound is not None] == [bound(names[3])]
    assert found[0].accepted == accepted(names[0], prompt=f"prompt of {names[0]} é🙂")
    later.close()


async def test_a_task_with_every_field_comes_back_equal(bed: Bed) -> None:
    """Nothing that a client can ask for is lost or makes the journal unreadable."""
    sampling = Sampling(0.5, 0.9, 5, 0.1, 1.1, ("a", "b"), True, '{"type":"object"}', 'root ::= "a"')
    wish = PlacementWish("prefer", ("p",), ("q",))
    spec = TaskSpec(
        prompt="p",
        messages=(Message("user", "é"),),
        inputs=("i",),
        workload="rerank",
        session_id="s",
        model_ref="repo:a/b",
        engine="llamacpp",
        ctx=8,
        priority="batch",
        seed=3,
        determinism="strict",
        sampler_profile_version="greedy-v1",
        sampling=sampling,
        max_tokens=4,
        deadline_ms=5,
        expected_tokens=6,
        kv_hint="cold",
        on_disconnect="continue",
        placement=wish,
    )
    usual = TaskSpec()
    for filled, plain in ((spec, usual), (sampling, usual.sampling), (wish, usual.placement)):
        alike = [f for f in filled.__struct_fields__ if getattr(filled, f) == getattr(plain, f)]
        assert alike == [], "give this test another value for every field"
    full = msgspec.structs.replace(accepted("full"), spec=spec)
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([full]))
    journal.close()
    later = bed.journal()
    assert [task.accepted for task in later.recover().unfinished()] == [full]
    later.close()


@pytest.mark.req("ORCH-4183")
async def test_text_of_a_running_task_comes_back_whole(bed: Bed) -> None:
    """Pieces are put together by their place in bytes; one that comes again replaces what it says; an ended task has them no more."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    journal.append([accepted("a"), accepted("b"), bound("a"), bound("b"), spoken("a", 0, "né"), spoken("b", 0, "gone")])
    journal.append(
        [spoken("a", 3, " 🌍"), spoken("a", 3, " 🌍 and"), spoken("a", 12, " on", 4), spoken("unknown", 0, "x")]
    )
    await watcher.reach(journal.append([ended("b"), spoken("b", 4, "late")]))
    journal.close()
    later = bed.journal()
    recovered = later.recover()
    (left,) = recovered.unfinished()
    assert (left.text, left.tokens_out, left.followed) == ("né 🌍 and on", 4, False)
    assert [end.text for _, end in recovered.finished()] == ["an answer"]
    later.close()


@pytest.mark.req("ORCH-4183")
async def test_a_task_of_the_same_name_begins_without_text(bed: Bed) -> None:
    """What a forgotten task had said is not found under a newer one's name."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    old: list[AnyRecord] = [accepted("a"), followed("a"), bound("a"), spoken("a", 0, "old", 3), forgotten("a")]
    await watcher.reach(journal.append([*old, accepted("a")]))
    journal.close()
    later = bed.journal()
    assert list(later.recover().unfinished()) == [Unfinished(accepted("a"))]
    later.close()


@pytest.mark.req("ORCH-4113")
async def test_it_is_known_which_tasks_had_readers(bed: Bed) -> None:
    """A reader is remembered, whether its task waits or runs."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    journal.append([accepted("a"), accepted("b"), accepted("c"), followed("a"), bound("b"), followed("b")])
    await watcher.reach(journal.append([followed("b"), followed("unknown")]))
    journal.close()
    later = bed.journal()
    assert [task.followed for task in later.recover().unfinished()] == [True, True, False]
    later.close()


@pytest.mark.req("ORCH-4085")
async def test_ended_tasks_are_kept_whole_in_order_of_their_end_until_forgotten(bed: Bed) -> None:
    """Text and figures of an ended task survive; after `Forgotten` nothing of it does."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    last = journal.append(
        [accepted("a"), accepted("b"), accepted("c"), ended("c", "third"), ended("a", "first 🙂"), ended("b")]
    )
    await watcher.reach(last)
    last = journal.append([forgotten("b")])
    await watcher.reach(last)
    journal.close()
    later = bed.journal()
    recovered = later.recover()
    assert list(recovered.unfinished()) == []
    assert list(recovered.finished()) == [
        (accepted("c"), ended("c", "third")),
        (accepted("a"), ended("a", "first 🙂")),
    ]
    later.close()


@pytest.mark.req("ORCH-4089", "ORCH-4308")
async def test_what_forgotten_tasks_used_is_added_up_and_survives(bed: Bed) -> None:
    """By day, tenant, key and model; days that are dropped go, and the latest time since when it is whole is kept."""
    one = Booking(7, "k", "m", 1, 1, 0, 0, 5, 6, 7)
    other = msgspec.structs.replace(forgotten("d", one), tenant=Tenant("beta"))
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    soon_ms = 1 << 50
    last = journal.append(
        [
            *(accepted(name) for name in "abc"),
            forgotten("a", Booking(3, "k", "m", 1), Booking(7, "k", "m", 0, 1, 2, 3, 4, 5, 6), since_ms=soon_ms),
            forgotten("b", Booking(7, "k", "m", 1, 1, 1, 1, 1, 1, 1), one),
            forgotten("c", Booking(7, "l", "m", 1), Booking(7, "k", "n", 1), since_ms=soon_ms - 5),
            other,
        ]
    )
    await watcher.reach(last)
    journal.close()
    assert last == 7, "one number a record, whatever it books"
    later, watcher = bed.journal(), Watcher()
    recovered = later.recover()
    assert list(recovered.usage()) == [
        (TENANT, Booking(3, "k", "m", 1)),
        (TENANT, Booking(7, "k", "m", 2, 3, 3, 4, 10, 12, 14)),
        (TENANT, Booking(7, "k", "n", 1)),
        (TENANT, Booking(7, "l", "m", 1)),
        (Tenant("beta"), one),
    ]
    assert recovered.usage_since_ms() == soon_ms
    assert list(recovered.unfinished()) == []
    later.open(watcher)
    await watcher.reach(later.append([forgotten("e", Booking(3, "x", "m", 9), dropped_days=(3, 4, 7))]))
    later.close()
    last_one = bed.journal()
    assert list(last_one.recover().usage()) == [(TENANT, Booking(3, "x", "m", 9))]
    last_one.close()


async def test_a_name_that_was_forgotten_can_be_accepted_again_at_the_back(bed: Bed) -> None:
    """A reused task id is a new task with a new place."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    last = journal.append([accepted("a"), accepted("b"), ended("a"), forgotten("a"), accepted("a", "again")])
    await watcher.reach(last)
    journal.close()
    later = bed.journal()
    assert [task.accepted.task_id for task in later.recover().unfinished()] == ["b", "a"]
    later.close()


@pytest.mark.req("ORCH-4011")
async def test_a_large_commit_keeps_every_order_that_matters(bed: Bed) -> None:
    """Many acceptances between starts, ends and deletions: tasks come back as they were accepted, ends as they ended."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    records: list[AnyRecord] = []
    for number in range(100):
        records += [accepted(f"t{number}"), bound(f"t{number}"), spoken(f"t{number}", 0, f"text {number}")]
        if number % 3 == 0:
            records.append(ended(f"t{number}"))
        if number % 6 == 0:
            records += [forgotten(f"t{number}"), accepted(f"t{number}", "again")]
    await watcher.reach(journal.append(records))
    journal.close()
    later = bed.journal()
    recovered = later.recover()
    left = [(task.accepted.task_id, task.text) for task in recovered.unfinished()]
    assert left == [(f"t{n}", "" if n % 6 == 0 else f"text {n}") for n in range(100) if n % 6 == 0 or n % 3]
    assert [task.task_id for task, _ in recovered.finished()] == [f"t{n}" for n in range(100) if n % 3 == 0 and n % 6]
    later.close()


@pytest.mark.req("ORCH-4187")
async def test_a_failing_disk_is_told_once_and_nothing_is_lost_or_reordered(bed: Bed) -> None:
    """While commits fail nothing is reported durable; afterwards everything is, in order."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    journal.append([accepted("before")])
    await watcher.reach(1)
    bed.break_disk()
    journal.append([accepted("first")])
    await until_async(lambda: "stalled" in watcher.told, what="the stall to be told")
    for name in ("second", "third"):
        journal.append([accepted(name)])
    assert watcher.seq == 1
    bed.mend_disk()
    await watcher.reach(4)
    journal.close()
    assert [entry for entry in watcher.told if isinstance(entry, str)] == ["stalled", "healed"]
    assert watcher.told.index("healed") < max(at for at, entry in enumerate(watcher.told) if entry == watcher.seq)
    later = bed.journal()
    assert [task.accepted.task_id for task in later.recover().unfinished()] == ["before", "first", "second", "third"]
    later.close()


@pytest.mark.req("ORCH-4188")
async def test_the_reason_of_a_stall_names_no_path(bed: Bed) -> None:
    """Whoever is refused reads the reason, with a key or without: it is in words, and says nothing of the machine."""
    journal, watcher = bed.journal(), Watcher()
    journal.recover()
    journal.open(watcher)
    bed.break_disk()
    journal.append([accepted("first")])
    await until_async(lambda: watcher.reasons, what="the stall to be told")
    bed.mend_disk()
    await watcher.reach(1)
    journal.close()
    assert [reason for reason in watcher.reasons if "/" in reason or ".sqlite" in reason] == []


async def test_closing_commits_what_is_queued(bed: Bed) -> None:
    """A clean stop loses nothing, waited for or not."""
    journal = bed.journal()
    journal.recover()
    journal.open(Watcher())
    for number in range(50):
        journal.append([accepted(f"{number:02d}")])
    journal.close()
    later = bed.journal()
    assert len(list(later.recover().unfinished())) == 50
    later.close()


async def test_a_closed_journal_takes_nothing_and_closes_again(bed: Bed) -> None:
    """Appending after the end is a fault of the caller, closing twice is not."""
    journal = bed.journal()
    journal.recover()
    with pytest.raises(JournalError, match="not open"):
        journal.append([accepted("early")])
    journal.open(Watcher())
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="not open"):
        journal.append([accepted("late")])
