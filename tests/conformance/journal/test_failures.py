"""What is wrong with the journal is told by the real daemon: at a start in one line, while running in the reason of its 503."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from orchqueue.adapters.journals.sqlite import SqliteJournal
from tests.conformance.journal.bed import Watcher, accepted
from tests.daemon import Daemon
from tests.simulated import pool_text, simulated_engine
from tests.waiting import until

pytestmark = [pytest.mark.req("ORCH-4373", "ORCH-4028"), pytest.mark.timeout(90)]

HAMPERED = (sys.executable, "-m", "tests.conformance.journal.hampered_daemon")
NOBODY = "    launch: {mode: external, urls: ['http://127.0.0.1:9'], allow_simulated: true}\n"


def _refused(tmp_path: Path, journal: Path, *hindrances: str) -> str:
    """Start the daemon, see it refuse with status 3, and give the one line that it says."""
    config = tmp_path / "orchqueue.yaml"
    config.write_text(
        f"pools:\n  - id: p\n    engine: llamacpp\n    model: repo:test/sim\n    ctx: 2048\n{NOBODY}"
        f"journal: {{path: '{journal}'}}\nlogging: {{level: error}}\n"
    )
    command = [*HAMPERED, *hindrances, "--", "serve", "--port", "0", "--config", str(config)]
    command += ["--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"orchestratord: the journal {journal} ") or "database of some other program" in line
    return line


def _made(tmp_path: Path, tasks: int = 3) -> Path:
    """Make a journal with some tasks in a directory of its own."""
    path = tmp_path / "kept" / "journal.sqlite"
    path.parent.mkdir()

    async def fill() -> None:
        journal, watcher = SqliteJournal(str(path), asyncio.get_running_loop().call_soon_threadsafe), Watcher()
        journal.recover()
        journal.open(watcher)
        await watcher.reach(journal.append([accepted(f"{number}", "p" * 300) for number in range(tasks)]))
        journal.close()

    asyncio.run(fill())
    return path


def _rubbish(path: Path) -> None:
    path.write_bytes(b"not a database at all " * 400)


def _spoilt_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8192:40960] = b"\x55" * (40960 - 8192)
    path.write_bytes(data)


def _cut_off(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 100)


def _newer(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.close()


def _foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_rubbish, "is damaged: file is not a database; restore it from a copy, or move it aside"),
        (_spoilt_page, "is damaged: "),
        (_cut_off, "is damaged: "),
        (_newer, "was written by another release (schema 99"),
        (_foreign, "name another journal.path"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, harm: Callable[[Path], None], told: str) -> None:
    """Damage, a newer release's file and another program's are told with the way out, and the file stays as it is."""
    path = _made(tmp_path, 300)
    harm(path)
    before = path.read_bytes()
    assert told in _refused(tmp_path, path)
    assert path.read_bytes() == before


def test_a_file_that_may_only_be_read_ends_the_start(tmp_path: Path) -> None:
    """It says what has to be allowed."""
    path = _made(tmp_path)
    path.chmod(0o400)
    assert "Permission denied; let this user write to the file" in _refused(tmp_path, path, "plain")


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_that_may_only_be_read_ends_the_start(tmp_path: Path, exists: bool) -> None:
    """With a file in it too, for the log lies beside it."""
    path = _made(tmp_path)
    if not exists:
        path.unlink()
    path.parent.chmod(0o500)
    line = _refused(tmp_path, path, "plain")
    assert "let this user write to the file and its directory" in line


def test_a_journal_that_another_daemon_uses_ends_the_start(tmp_path: Path) -> None:
    """The lock is on the file itself, wherever the data directory is."""
    path = _made(tmp_path)
    held = SqliteJournal(str(path), lambda _: None)
    held.recover()
    assert "it is in use by another process (SQLITE_BUSY); stop that one" in _refused(tmp_path, path)
    held.close()


def test_no_place_for_the_file_ends_the_start(tmp_path: Path) -> None:
    """A directory that is not there, and a directory where the file should be."""
    assert "make the directory, or name another journal.path" in _refused(tmp_path, tmp_path / "nowhere" / "j")
    assert "it is a directory" in _refused(tmp_path, tmp_path)


def test_a_full_disk_ends_the_start(tmp_path: Path) -> None:
    """Told from a limit on the size of files, and from a disk that gives SQLite the code of ENOSPC."""
    limited = tmp_path / "limited.sqlite"
    assert "the disk does not take what is written" in _refused(tmp_path, limited, "files=6000")
    (tmp_path / "full").touch()
    line = _refused(tmp_path, tmp_path / "full.sqlite", f"disk={tmp_path}")
    assert "the disk is full (SQLITE_FULL); free some space" in line


@pytest.mark.req("ORCH-4187", "ORCH-4188")
@pytest.mark.parametrize(
    ("fault", "told"), [("full", "the disk is full: free some space"), ("failing", "the disk could not be synced")]
)
def test_a_running_daemon_says_why_it_takes_nothing_and_goes_on_when_it_can(
    tmp_path: Path, fault: str, told: str
) -> None:
    """Streams that run go on, newcomers get 503 with the reason, and once the disk takes bytes again everything is kept."""
    orders = tmp_path / "orders"
    orders.mkdir()
    entry = (*HAMPERED, f"disk={orders}", "--")
    with simulated_engine("--slots", "1", "--tokens-per-s", "40") as engine:
        config = tmp_path / "orchqueue.yaml"
        config.write_text("pools:\n" + pool_text(engine) + "journal: {stall_ms: 60000}\n")
        daemon = Daemon(tmp_path / "data", config, entry=entry)
        try:
            daemon.wait_ready()
            _run_through_a_fault(daemon.url, orders / fault, told)
            assert daemon.stop() == 0
            daemon = Daemon(tmp_path / "data", config)
            daemon.wait_ready()
            tasks = httpx.get(f"{daemon.url}/v1/tasks", timeout=30).json()["tasks"]
            assert [task["state"] for task in tasks] == ["succeeded", "succeeded"]
            assert daemon.stop() == 0
        finally:
            daemon.kill()


def _run_through_a_fault(url: str, order: Path, told: str) -> None:
    """Begin a stream, let the disk fail, be refused, see the stream go on, mend the disk, and see it end durably."""
    task = {"prompt": "a story", "max_tokens": 60, "sampling": {"ignore_eos": True}}
    headers = {"accept": "text/event-stream"}
    with httpx.stream("POST", f"{url}/v1/tasks", json=task, headers=headers, timeout=30) as answer:
        events = (line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith(("event", "data")))
        assert answer.status_code == 200
        assert any(line == "token" for line in events)
        order.touch()
        refused = httpx.post(f"{url}/v1/tasks", json=task, timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (503, "POOL_UNREADY")
        assert told in refused.json()["message"]
        assert told in httpx.get(f"{url}/readyz", timeout=30).json()["message"]
        assert str(order.parent) not in refused.text
        assert any(line == "token" for line in events), "the stream stood still"
        order.unlink()
        *_, last = events
    assert '"durable":true' in last
    until(lambda: httpx.post(f"{url}/v1/tasks", json=task, timeout=30).status_code == 202, what="admission to be back")
    until(
        lambda: {t["state"] for t in httpx.get(f"{url}/v1/tasks", timeout=30).json()["tasks"]} == {"succeeded"},
        what="both tasks to end",
    )
