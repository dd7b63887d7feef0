"""What only a real file can show: killed processes, full disks, foreign and damaged files."""

import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.core.records import Accepted
from orchqueue.ports.errors import JournalError
from tests.conformance.journal.bed import Watcher, accepted, bound, ended, forgotten, spoken

CHILD = [sys.executable, "-m", "tests.conformance.journal.appending_child"]


def _journal(path: Path) -> SqliteJournal:
    return SqliteJournal(str(path), asyncio.get_running_loop().call_soon_threadsafe)


def _reader(path: Path) -> SqliteJournal:
    """Make a journal that is only read, so that it needs no loop."""
    return SqliteJournal(str(path), lambda _: None)


def _modes(directory: Path) -> list[int]:
    return [stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()]


def _bytes_in(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.iterdir())


async def _filled(path: Path, *names: str) -> None:
    journal, watcher = _journal(path), Watcher()
    journal.recover()
    journal.open(watcher)
    last = journal.append([accepted(name) for name in names])
    await watcher.reach(last)
    journal.close()


@pytest.mark.req("ORCH-4011", "ORCH-4013", "ORCH-4372")
@pytest.mark.parametrize("durability", ["full", "relaxed"])
@pytest.mark.parametrize("kill_after", [1, 40, 400])
def test_nothing_reported_durable_is_missing_after_kill_9(tmp_path: Path, kill_after: int, durability: str) -> None:
    """A process is killed while it appends; all that it had been told of is there, in order, synced or not."""
    path = tmp_path / "journal.sqlite"
    environment = {**os.environ, "DURABILITY": durability}
    child = subprocess.Popen([*CHILD, str(path), "0"], stdout=subprocess.PIPE, text=True, env=environment)
    reported = 0
    assert child.stdout is not None
    try:
        for line in child.stdout:
            reported = int(line)
            if reported >= kill_after:
                break
    finally:
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate()
    reported = max([reported, *(int(line) for line in rest.split("\n")[:-1])])
    journal = _reader(path)
    recovered = journal.recover()
    found = {task.accepted.task_id for task in recovered.unfinished()} | {
        task.task_id for task, _ in recovered.finished()
    }
    whole = reported // 3
    assert {f"{number:08d}" for number in range(whole)} <= found
    order = [task.accepted.task_id for task in recovered.unfinished()]
    assert order == sorted(order)
    assert {task.task_id for task, _ in recovered.finished()} >= {f"{number:08d}" for number in range(0, whole, 5)}
    journal.close()


@pytest.mark.req("ORCH-4187")
def test_a_full_disk_stalls_and_heals_without_loss(tmp_path: Path) -> None:
    """A real file-size limit makes commits fail; when it is lifted everything is committed."""
    path = tmp_path / "journal.sqlite"
    command = [*CHILD, str(path), "2000", str(300_000)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    lines = done.stdout.split()
    assert "stalled" in lines
    assert lines.index("stalled") < lines.index("healed")
    journal = _reader(path)
    recovered = journal.recover()
    assert len(list(recovered.unfinished())) + len(list(recovered.finished())) == 2000
    journal.close()


@pytest.mark.req("ORCH-4011")
async def test_a_copy_of_the_files_taken_between_two_commits_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk holds at any moment is a whole journal, write-ahead log included."""
    # The copy is of one moment only as long as nothing is tidied.
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.QUIET_S", 1e6)
    first = tmp_path / "first"
    first.mkdir()
    path = first / "journal.sqlite"
    journal, watcher = _journal(path), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("a"), accepted("b")]))
    shutil.copytree(first, tmp_path / "copy")
    journal.close()
    later = _journal(tmp_path / "copy" / "journal.sqlite")
    assert [task.accepted.task_id for task in later.recover().unfinished()] == ["a", "b"]
    later.close()


@pytest.mark.req("ORCH-4184")
async def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    """Prompts and answers are private, in the write-ahead log too, also after somebody widened the mode."""
    path = tmp_path / "journal.sqlite"
    await _filled(path, "a")
    path.chmod(0o644)
    journal = _journal(path)
    journal.recover()
    assert _modes(tmp_path) == [0o600, 0o600]
    journal.close()


@pytest.mark.req("ORCH-4085")
async def test_a_forgotten_answer_is_not_left_in_the_file(tmp_path: Path) -> None:
    """Forgetting overwrites: neither prompt nor text can be found in the bytes afterwards."""
    path = tmp_path / "journal.sqlite"
    journal, watcher = _journal(path), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(journal.append([accepted("a", "SECRETPROMPT"), ended("a", "SECRETANSWER"), accepted("b")]))
    await watcher.reach(journal.append([forgotten("a")]))
    journal.close()
    left = _bytes_in(tmp_path)
    assert b"SECRET" not in left
    assert b"hello" in left


@pytest.mark.req("ORCH-4085", "ORCH-4183")
async def test_a_prompt_and_a_text_are_stored_once_each(tmp_path: Path) -> None:
    """Only the acceptance holds the prompt, and only the end the text: starts, pieces and ends repeat neither."""
    path = tmp_path / "journal.sqlite"
    journal, watcher = _journal(path), Watcher()
    journal.recover()
    journal.open(watcher)
    await watcher.reach(
        journal.append(
            [accepted("a", "ONLYPROMPT"), bound("a"), spoken("a", 0, "ONLY"), spoken("a", 4, "TEXT"), bound("a")]
        )
    )
    await watcher.reach(journal.append([ended("a", "ONLYTEXT")]))
    journal.close()
    data = _bytes_in(tmp_path)
    assert (data.count(b"ONLYPROMPT"), data.count(b"ONLYTEXT"), data.count(b"ONLY")) == (1, 1, 2)


def test_a_second_process_is_told_that_the_journal_is_in_use(tmp_path: Path) -> None:
    """Two daemons never write one journal."""
    path = tmp_path / "journal.sqlite"
    journal = _reader(path)
    journal.recover()
    script = (
        "import sys\nfrom orchqueue.adapters.journals.sqlite import SqliteJournal\n"
        "SqliteJournal(sys.argv[1], print).recover()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "in use by another process" in done.stderr
    journal.close()


@pytest.mark.req("ORCH-4185")
async def test_a_damaged_file_is_refused_with_advice(tmp_path: Path) -> None:
    """Overwritten pages and plain rubbish are both told as damage, with what to do."""
    path = tmp_path / "journal.sqlite"
    await _filled(path, *(f"{number:04d}" for number in range(500)))
    data = bytearray(path.read_bytes())
    data[8192:40960] = b"\x55" * (40960 - 8192)
    path.write_bytes(data)
    rubbish = tmp_path / "rubbish.sqlite"
    rubbish.write_bytes(b"not a database at all " * 400)
    for file in (path, rubbish):
        with pytest.raises(JournalError, match=r"damaged: .* move it aside"):
            list(_journal(file).recover().unfinished())


async def test_a_record_that_cannot_be_decoded_names_its_task(tmp_path: Path) -> None:
    """One bad row is told with its key, not skipped."""
    path = tmp_path / "journal.sqlite"
    await _filled(path, "a", "b")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tasks SET accepted = ? WHERE key = 'acme/b'", (b'{"type":"accepted"',))
    connection.close()
    journal = _journal(path)
    with pytest.raises(JournalError, match=r"damaged.*acme/b"):
        list(journal.recover().unfinished())
    journal.close()


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A path below a file, and a path that is a directory, are errors with their reason."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "journal.sqlite", tmp_path):
        with pytest.raises(JournalError, match="cannot be opened"):
            _journal(path).recover()


async def test_what_was_recovered_cannot_be_read_once_the_writer_runs(tmp_path: Path) -> None:
    """The connection belongs to the writer from `open` on."""
    journal = _journal(tmp_path / "journal.sqlite")
    recovered = journal.recover()
    journal.open(Watcher())
    with pytest.raises(JournalError, match="before the journal is opened"):
        recovered.unfinished()
    journal.close()


async def test_a_record_that_cannot_be_encoded_is_the_callers_fault_and_leaves_no_trace(tmp_path: Path) -> None:
    """Text that is not Unicode is refused at once and does not block what follows."""
    journal, watcher = _journal(tmp_path / "journal.sqlite"), Watcher()
    journal.recover()
    journal.open(watcher)
    with pytest.raises(UnicodeEncodeError):
        journal.append([accepted("a"), accepted("b", "\ud800")])
    await watcher.reach(journal.append([accepted("c")]))
    journal.close()
    later = _journal(tmp_path / "journal.sqlite")
    found: list[Accepted] = [task.accepted for task in later.recover().unfinished()]
    assert [task.task_id for task in found] == ["c"]
    later.close()


async def test_closing_on_a_dead_disk_gives_up_and_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop does not hang for ever on a disk that takes nothing."""
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.CLOSE_PATIENCE_S", 0.05)
    path = tmp_path / "journal.sqlite"
    journal, watcher = _journal(path), Watcher()
    journal.recover()
    journal.open(watcher)
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite_file.JournalFile.commit", _always_full)
    journal.append([accepted("a")])
    with pytest.raises(JournalError, match="1 records could not be committed"):
        journal.close()


def _always_full(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")
