"""When the disk is synced, seen from below SQLite: before `committed` with full, not on its way with relaxed."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchqueue.adapters.journals import sqlite_file
from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_file import Durability, JournalFile
from orchqueue.core.records import AnyRecord, Booking
from tests.conformance.journal.bed import TENANT, Watcher, accepted, ended, forgotten
from tests.conformance.journal.forgetful_disk import ForgetfulDisk
from tests.conformance.journal.watched_disk import FULL, IOERR_FSYNC, WatchedDisk
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4372")


@pytest.fixture
def disk() -> Iterator[WatchedDisk]:
    """Give a disk that sees what is asked of it."""
    disk = WatchedDisk()
    disk.install()
    yield disk
    disk.remove()


@pytest.fixture
def tries(disk: WatchedDisk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the daemon's own syncs fail when SQLite's do, and list how each went."""
    found: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        found.append("failed" if disk.sync_fault("log") else "synced")
        if found[-1] == "failed":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return found


@pytest.fixture(autouse=True)
def never_tidied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put tidying off, so that what is seen belongs to commits."""
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.QUIET_S", 1e6)
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.LATEST_S", {"full": 1e6, "relaxed": 1e6})


def _journal(disk: WatchedDisk, path: Path, durability: Durability = "full") -> SqliteJournal:
    """Make a journal that notes in the disk's own story when it tells something, at the moment when it does."""
    loop = asyncio.get_running_loop()

    def call_soon(act: Callable[[], None]) -> None:
        disk.seen.append("told")
        loop.call_soon_threadsafe(act)

    return SqliteJournal(str(path), call_soon, disk.connect, durability)


async def _story_of_a_commit(disk: WatchedDisk, journal: SqliteJournal, watcher: Watcher, *records: AnyRecord) -> str:
    """Append one batch, and give what the disk saw until it was told durable, each word once for a run of it."""
    disk.seen.clear()
    disk.seen.append("append")
    await watcher.reach(journal.append(records))
    return " > ".join(word for at, word in enumerate(disk.seen) if at == 0 or disk.seen[at - 1] != word)


@pytest.mark.req("ORCH-4013")
async def test_full_syncs_the_log_once_between_append_and_committed_for_every_batch(
    disk: WatchedDisk, tmp_path: Path
) -> None:
    """The log is written, synced, and only then told of; the first commit of a log syncs its head as well."""
    journal, watcher = _journal(disk, tmp_path / "j"), Watcher()
    journal.recover()
    journal.open(watcher)
    await _story_of_a_commit(disk, journal, watcher, accepted("first"))
    for number in range(20):
        batch = [accepted(f"{number}-{part}", "p" * 5000) for part in range(number)] + [ended("first")]
        assert await _story_of_a_commit(disk, journal, watcher, *batch) == "append > write log > sync log > told"
        assert disk.seen.count("sync log") == 1
    journal.close()


@pytest.mark.parametrize(("durability", "syncs"), [("full", 2), ("relaxed", 1)])
async def test_a_log_that_is_begun_anew_has_its_head_synced(
    disk: WatchedDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, syncs: int
) -> None:
    """So that no older log can be taken for it after a power cut: one sync more, once for each log."""
    journal, watcher = _journal(disk, tmp_path / "j", durability), Watcher()
    journal.recover()
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.WAL_BYTES", 1)
    journal.open(watcher)
    for number in range(5):
        await _story_of_a_commit(disk, journal, watcher, accepted(f"{number}"))
        # The first log was begun when the file was made.
        assert disk.seen[: disk.seen.index("told")].count("sync log") == syncs - (number == 0)
        await until_async(
            lambda: disk.seen[-1:] == ["sync file"], what=f"the log to be brought into the file: {disk.seen}"
        )
        after = disk.seen[disk.seen.index("told") :]
        assert after.index("sync log") < after.index("write file") < after.index("sync file"), after
    journal.close()


async def test_relaxed_syncs_nothing_between_append_and_committed(disk: WatchedDisk, tmp_path: Path) -> None:
    """After a log's first commit the answer waits for the system to have taken the bytes, and for nothing else."""
    journal, watcher = _journal(disk, tmp_path / "j", "relaxed"), Watcher()
    journal.recover()
    journal.open(watcher)
    await _story_of_a_commit(disk, journal, watcher, accepted("first"))
    for number in range(20):
        assert await _story_of_a_commit(disk, journal, watcher, accepted(f"{number}")) == "append > write log > told"
    journal.close()


async def test_relaxed_syncs_soon_after(disk: WatchedDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told while nothing was synced is synced a moment later, without another commit."""
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.LATEST_S", {"full": 1e6, "relaxed": 0.01})
    journal, watcher = _journal(disk, tmp_path / "j", "relaxed"), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("a")]))
    told = disk.seen.index("told")
    await until_async(lambda: "sync file" in disk.seen[told:], what="a sync of the file")
    journal.close()


@pytest.mark.req("ORCH-4187")
async def test_relaxed_stalls_when_the_sync_that_follows_fails(
    disk: WatchedDisk, tries: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told is still in the log; nothing new is told until a sync succeeds."""
    journal, watcher = _journal(disk, tmp_path / "j", "relaxed"), Watcher()
    journal.recover()
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.WAL_BYTES", 1)
    journal.open(watcher)
    disk.sync_fault = lambda _kind: IOERR_FSYNC
    await watcher.reach(journal.append([accepted("a")]))
    await until_async(lambda: "stalled" in watcher.told, what="a stall")
    last = journal.append([accepted("b")])
    await until_async(lambda: tries.count("failed") > 1, what="another try")
    assert watcher.seq < last
    disk.sync_fault = lambda _kind: 0
    await watcher.reach(last)
    journal.close()
    later = _journal(disk, tmp_path / "j")
    assert [task.accepted.task_id for task in later.recover().unfinished()] == ["a", "b"]
    later.close()


@pytest.mark.req("ORCH-4187", "ORCH-4308")
async def test_a_failing_sync_tells_nothing_and_everything_is_there_once_afterwards(
    disk: WatchedDisk, tries: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal stalls, opens the file anew, and takes a batch that reached the disk all the same only once."""
    journal, watcher = _journal(disk, tmp_path / "j"), Watcher()
    journal.recover()
    opened_anew: list[JournalFile] = []
    reopen = JournalFile.reopen

    def watched_reopen(file: JournalFile) -> None:
        opened_anew.append(file)
        reopen(file)

    monkeypatch.setattr(JournalFile, "reopen", watched_reopen)
    disk.sync_fault = lambda _kind: IOERR_FSYNC
    journal.open(watcher)
    used = Booking(7, "k", "m", 1, 1, 0, 0, 5, 6, 7)
    last = journal.append([accepted("a"), accepted("b"), ended("a"), forgotten("a", used)])
    await until_async(lambda: watcher.told, what="a stall")
    await until_async(lambda: len(opened_anew) > 1, what="the file to be opened anew, twice")
    await until_async(lambda: tries.count("failed") > 1, what="its log to be written again, twice")
    assert watcher.told == ["stalled"]
    assert "synced" in watcher.reasons[0]
    disk.sync_fault = lambda _kind: 0
    await watcher.reach(last)
    assert watcher.told == ["stalled", "healed", last]
    journal.close()
    later = _journal(disk, tmp_path / "j")
    recovered = later.recover()
    assert [task.accepted.task_id for task in recovered.unfinished()] == ["b"]
    assert list(recovered.finished()) == []
    assert list(recovered.usage()) == [(TENANT, used)]
    later.close()


@pytest.mark.req("ORCH-4187", "ORCH-4308")
async def test_a_commit_that_failed_and_yet_reached_the_disk_counts_once(
    disk: WatchedDisk, tries: list[str], tmp_path: Path
) -> None:
    """Only the sync failed: after the file is opened anew the records are found there, and not put in again."""
    journal, watcher = _journal(disk, tmp_path / "j"), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("before")]))
    # The log stays as it is only while it cannot be brought into the file.
    disk.sync_fault = lambda _kind: IOERR_FSYNC
    disk.write_fault = lambda kind: FULL if kind == "file" else 0
    used = Booking(7, "k", "m", 1, 1, 0, 0, 5, 6, 7)
    last = journal.append([forgotten("before", used), accepted("after")])
    await until_async(lambda: "stalled" in watcher.told, what="a stall")
    await until_async(lambda: tries.count("failed") > 1, what="another try")
    writes = len([word for word in disk.seen if word == "write log"])
    disk.sync_fault = lambda _kind: 0
    disk.write_fault = lambda _kind: 0
    await watcher.reach(last)
    assert writes > 0
    journal.close()
    later = _journal(disk, tmp_path / "j")
    recovered = later.recover()
    assert list(recovered.usage()) == [(TENANT, used)]
    assert [task.accepted.task_id for task in recovered.unfinished()] == ["after"]
    later.close()


@pytest.mark.req("ORCH-4187")
async def test_what_a_failed_sync_let_go_of_is_written_again_before_it_is_told(
    disk: WatchedDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, read again, shows records that the disk never got; a power cut after they were told does not lose them."""
    memory = disk.memory = ForgetfulDisk(1)
    write_again = sqlite_file._write_over_itself

    def watched(path: str) -> None:
        write_again(path)
        memory.written("log", 0, Path(path).read_bytes())
        memory.synced("log")

    monkeypatch.setattr(sqlite_file, "_write_over_itself", watched)
    journal, watcher = _journal(disk, tmp_path / "j"), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("before")]))

    def fail(kind: str) -> int:
        memory.fail_to_sync(kind)
        return IOERR_FSYNC

    disk.sync_fault = fail
    disk.write_fault = lambda kind: FULL if kind == "file" else 0
    last = journal.append([accepted("after")])
    await watcher.reach(last)
    assert watcher.told == [1, "stalled", "healed", last]
    memory.lose_power(tmp_path / "cut" / "j")
    disk.sync_fault = lambda _kind: 0
    disk.write_fault = lambda _kind: 0
    journal.close()
    later = SqliteJournal(str(tmp_path / "cut" / "j"), lambda _: None)
    assert [task.accepted.task_id for task in later.recover().unfinished()] == ["before", "after"]
    later.close()


async def test_a_full_disk_below_sqlite_stalls_and_heals(disk: WatchedDisk, tmp_path: Path) -> None:
    """SQLite is told ENOSPC's own code; the reason says what helps."""
    journal, watcher = _journal(disk, tmp_path / "j"), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("before")]))
    disk.write_fault = lambda _kind: FULL
    last = journal.append([accepted("after")])
    await until_async(lambda: watcher.reasons, what="a stall")
    assert watcher.reasons == ["the disk is full: free some space; SQLITE_FULL"]
    disk.write_fault = lambda _kind: 0
    await watcher.reach(last)
    journal.close()
    later = _journal(disk, tmp_path / "j")
    assert [task.accepted.task_id for task in later.recover().unfinished()] == ["before", "after"]
    later.close()


@pytest.mark.req("ORCH-4373", "ORCH-4187")
async def test_a_damaged_page_that_is_met_while_running_stalls_and_loses_nothing(
    disk: WatchedDisk, tmp_path: Path
) -> None:
    """The reason says what to do; when the page can be read again, everything is there."""
    journal, watcher = _journal(disk, tmp_path / "j"), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted(f"{number:03d}", "p" * 3000) for number in range(200)]))
    journal.close()
    journal, watcher = _journal(disk, tmp_path / "j"), Watcher()
    assert len(list(journal.recover().unfinished())) == 200
    journal._file.reopen()  # with nothing in its memory yet

    disk.spoilt = True
    journal.open(watcher)
    last = journal.append([ended("100")])
    await until_async(lambda: watcher.reasons, what="a stall")
    assert watcher.reasons[0].startswith("it is damaged: restore it from a copy, or move it aside")
    disk.spoilt = False
    await watcher.reach(last)
    journal.close()
    later = _journal(disk, tmp_path / "j")
    recovered = later.recover()
    assert (len(list(recovered.unfinished())), len(list(recovered.finished()))) == (199, 1)
    later.close()


async def test_the_names_of_a_new_journal_are_synced_before_anything_is_told(
    disk: WatchedDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's directory, and those above it that may have been made with it."""
    synced: list[str] = []
    fsync = os.fsync

    def watched_fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    deep = tmp_path / "one" / "two"
    deep.mkdir(parents=True)
    journal = _journal(disk, deep / "j")
    journal.recover()
    assert synced[:3] == [str(deep), str(deep.parent), str(tmp_path)]
    journal.close()
