"""Journals of older releases are brought forward whole, or not at all; what is not ours is left alone."""

import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_schema import APPLICATION_ID, SCHEMA_VERSION, STEPS
from orchqueue.core.records import Booking
from orchqueue.ports.errors import JournalError
from tests.conformance.journal.bed import TENANT, accepted, ended

pytestmark = pytest.mark.req("ORCH-4185", "ORCH-4375")

OLD_VERSIONS = range(1, SCHEMA_VERSION)
USED = Booking(7, "k", "m", 3, 2, 1, 0, 5, 6, 7)


def _reader(path: Path) -> SqliteJournal:
    """Make a journal that is only read, so that it needs no loop."""
    return SqliteJournal(str(path), lambda _: None)


def _written_by_release(path: Path, version: int) -> None:
    """Write what a release with this schema left: one task that waits, one that ran, one that ended, and usage where it kept any."""
    encode = msgspec.json.encode
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    for step in STEPS[:version]:
        for statement in step:
            connection.execute(statement)
    connection.execute("UPDATE schema_version SET version = ?", (version,))
    for name, bound in (("waits", 0), ("ran", 1), ("over", 1)):
        row = (f"acme/{name}", encode(accepted(name)), bound)
        connection.execute("INSERT INTO tasks (key, accepted, bound) VALUES (?, ?, ?)", row)
    connection.execute("UPDATE tasks SET ended_number = 1, ended = ? WHERE key = 'acme/over'", (encode(ended("over")),))
    if version >= 2:
        row = (USED.day, "acme", *msgspec.structs.astuple(USED)[1:])
        connection.execute("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("UPDATE usage_since SET since_ms = 5")
    connection.close()


def _schema(path: Path) -> tuple[int, list[tuple[str, str]]]:
    connection = sqlite3.connect(path)
    (version,) = connection.execute("SELECT version FROM schema_version").fetchone()
    tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    connection.close()
    return version, tables


@pytest.mark.parametrize("version", OLD_VERSIONS)
@pytest.mark.req("ORCH-4183", "ORCH-4308")
def test_a_journal_of_an_older_schema_is_taken_over_with_all_that_is_in_it(tmp_path: Path, version: int) -> None:
    """Tasks stay as they were, what it did not know is empty, usage is whole from then on where it kept none, and it is done once."""
    path = tmp_path / "journal.sqlite"
    _written_by_release(path, version)
    before_ms = int(time.time() * 1000)
    since = set()
    for _ in range(2):
        journal = _reader(path)
        recovered = journal.recover()
        waits, ran = recovered.unfinished()
        assert (waits.accepted, waits.bound) == (accepted("waits"), None)
        assert ran.accepted == accepted("ran")
        assert ran.bound is not None
        assert ran.bound.engine_version == ran.text == ""
        assert (ran.tokens_out, ran.followed) == (0, False)
        assert list(recovered.finished()) == [(accepted("over"), ended("over"))]
        assert list(recovered.usage()) == ([(TENANT, USED)] if version >= 2 else [])
        since.add(recovered.usage_since_ms())
        journal.close()
    (since_ms,) = since
    assert since_ms is not None
    assert since_ms == 5 if version >= 2 else before_ms <= since_ms <= time.time() * 1000 + 1000
    fresh = tmp_path / "fresh.sqlite"
    made = _reader(fresh)
    made.recover()
    made.close()
    assert _schema(path) == _schema(fresh), "a journal that was brought forward differs from a new one"


@pytest.mark.parametrize("version", [0, *OLD_VERSIONS])
def test_a_step_that_is_interrupted_leaves_the_old_version_whole(tmp_path: Path, version: int) -> None:
    """Whatever statement fails, the file is as before; the next start takes the steps."""
    path = tmp_path / "journal.sqlite"
    statements = sum(len(step) for step in STEPS[version:]) + 1
    for survived in range(statements):
        path.unlink(missing_ok=True)
        if version:
            _written_by_release(path, version)
            before = _schema(path)

        def connect_to_fail(name: str, survived: int = survived) -> sqlite3.Connection:
            connection = sqlite3.connect(name, isolation_level=None, factory=_Failing)
            connection.left = survived
            return connection

        with pytest.raises(JournalError, match="the disk is gone"):
            SqliteJournal(str(path), lambda _: None, connect_to_fail).recover()
        if version:
            assert _schema(path) == before
        journal = _reader(path)
        assert len(list(journal.recover().unfinished())) == (2 if version else 0)
        journal.close()


class _Failing(sqlite3.Connection):
    """Lets some statements of a step pass, and fails at the next."""

    left = 0

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql.split(maxsplit=1)[0] in ("CREATE", "INSERT", "ALTER", "UPDATE"):
            if not self.left:
                raise sqlite3.OperationalError("the disk is gone")
            self.left -= 1
        return super().execute(sql, parameters)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_schema_is_refused(tmp_path: Path, version: int) -> None:
    """A journal of a release with a newer schema is left alone."""
    path = tmp_path / "journal.sqlite"
    _written_by_release(path, SCHEMA_VERSION)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE schema_version SET version = ?", (version,))
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match=rf"schema {version}, this one knows {SCHEMA_VERSION}\); start that release"):
        _reader(path).recover()
    assert _schema(path)[0] == version
    assert path.read_bytes() == before


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    """A database of another program is neither used nor changed in mode."""
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"some other program; name another journal\.path"):
        _reader(path).recover()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["other.sqlite"]
