"""The log stays short, freed pages are given back, and commits wait for neither for long."""

import asyncio
from pathlib import Path

import pytest

from orchqueue.adapters.journals import sqlite_file
from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_file import VACUUM_STEP_PAGES, JournalFile
from tests.conformance.journal.bed import Watcher, accepted, ended, forgotten
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4376")

PAGE = 4096


def _journal(path: Path) -> SqliteJournal:
    return SqliteJournal(str(path), asyncio.get_running_loop().call_soon_threadsafe)


def _log_bytes(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size


def _files_with(directory: Path, text: bytes) -> list[str]:
    return [file.name for file in directory.iterdir() if text in file.read_bytes()]


async def test_the_log_is_brought_into_the_file_when_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a load that never pauses it is bounded, and used anew."""
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.QUIET_S", 1e6)
    limit = 200_000
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.WAL_BYTES", limit)
    journal, watcher = _journal(tmp_path / "j"), Watcher()
    journal.recover()
    journal.open(watcher)
    longest = 0
    for number in range(300):
        await watcher.reach(journal.append([accepted(f"{number}", "p" * 3000)]))
        longest = max(longest, _log_bytes(tmp_path / "j"))
    assert longest < 1.5 * limit
    journal.close()


@pytest.mark.req("ORCH-4085")
async def test_a_forgotten_answer_is_soon_gone_from_all_files_of_a_running_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a quiet moment the log is emptied, so that neither prompt nor text is left in it."""
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.QUIET_S", 0.01)
    journal, watcher = _journal(tmp_path / "j"), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("a", "SECRETPROMPT"), ended("a", "SECRETANSWER"), accepted("b")]))
    await watcher.reach(journal.append([forgotten("a")]))
    await until_async(lambda: _log_bytes(tmp_path / "j") == 0, what="an empty log")
    assert not _files_with(tmp_path, b"SECRET")
    assert _files_with(tmp_path, b"hello")
    journal.close()


async def test_what_many_forgotten_tasks_held_is_given_back_in_small_steps_between_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file shrinks step by step; what is appended meanwhile is committed between two of them."""
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.QUIET_S", 0.01)
    steps: list[int] = []
    tidy = JournalFile.tidy
    journal, watcher = _journal(tmp_path / "j"), Watcher()

    def watched(file: JournalFile) -> bool:
        # What the watcher knows of is up to the event loop, which may be late.
        steps.append(journal._committed_seq)
        journal_path = tmp_path / "j"
        before = journal_path.stat().st_size
        more = tidy(file)
        # Some pages only say where others lie, and go with them.
        assert before - journal_path.stat().st_size <= (VACUUM_STEP_PAGES + 8) * PAGE
        if more and len(steps) < 8:
            journal.append([accepted(f"between-{len(steps)}")])
        return more

    journal.recover()
    journal.open(watcher)
    names = [f"{number:04d}" for number in range(900)]
    await watcher.reach(journal.append([accepted(name, "p" * 6000) for name in names]))
    await until_async(lambda: (tmp_path / "j").stat().st_size > 900 * 6000, what="the tasks to be in the file")
    full = (tmp_path / "j").stat().st_size
    monkeypatch.setattr(sqlite_file.JournalFile, "tidy", watched)
    await watcher.reach(journal.append([forgotten(name) for name in names]))
    kept = sqlite_file.KEPT_FREE_PAGES
    await until_async(lambda: (tmp_path / "j").stat().st_size < (kept + 50) * PAGE, what="the file to be small")
    assert (tmp_path / "j").stat().st_size < full / 4
    assert len(steps) > 5
    assert len(set(steps)) > 5, "nothing was committed between the steps"
    journal.close()
    later = _journal(tmp_path / "j")
    assert {task.accepted.task_id[:8] for task in later.recover().unfinished()} == {"between-"}
    later.close()


async def test_what_is_in_use_is_measured_after_every_commit(tmp_path: Path) -> None:
    """It grows with what is accepted, falls with what is forgotten, and is known at a start."""
    journal, watcher = _journal(tmp_path / "j"), Watcher()
    journal.recover()
    empty = journal.used_bytes()
    assert 0 < empty < 20 * PAGE
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("a", "p" * 1_000_000)]))
    full = journal.used_bytes()
    assert 1_000_000 < full < 1_100_000
    journal.close()
    journal, watcher = _journal(tmp_path / "j"), Watcher()
    journal.recover()
    assert journal.used_bytes() == full
    journal.open(watcher)
    await watcher.reach(journal.append([forgotten("a")]))
    assert journal.used_bytes() < 50 * PAGE
    journal.close()
