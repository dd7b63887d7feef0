"""The journal's file: how it is opened, committed to, read and kept small. One connection, used by one thread at a time.

Req: ORCH-4185
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from orchqueue.adapters.journals import sqlite_failures as failures
from orchqueue.adapters.journals.sqlite_schema import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    bring_forward,
    version_of,
)
from orchqueue.adapters.journals.sqlite_statements import Statement, carry_out
from orchqueue.core.ids import ReplicaId, Tenant
from orchqueue.core.records import Accepted, Booking, Bound, Ended
from orchqueue.ports.errors import JournalError
from orchqueue.ports.journal import Unfinished

Connect: TypeAlias = Callable[[str], sqlite3.Connection]

WAL_BYTES = 4 << 20
VACUUM_STEP_PAGES = 128
KEPT_FREE_PAGES = 256
MARKS = 0x7FFF_FFFF
INCREMENTAL = 2

Durability: TypeAlias = Literal["full", "relaxed"]

R = TypeVar("R")

_decode_accepted = msgspec.json.Decoder(Accepted).decode
_decode_bound = msgspec.json.Decoder(Bound).decode
_decode_ended = msgspec.json.Decoder(Ended).decode


def connect(path: str) -> sqlite3.Connection:
    """Open a connection as the journal wants it: no implicit transactions, no waiting for locks.

    Req: ORCH-4085
    """
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


class JournalFile:
    """The open file. Every method raises sqlite3.Error where it does not say otherwise.

    A commit is one sync of the write-ahead log with `full`, none with `relaxed`; the first one after the log was begun
    anew syncs the log's head too, with both. What else is synced is synced by `tidy`, never by `commit`.

    Units: `used_bytes`: what is in use after the last commit; what is free in the file is used before it grows.

    Req: ORCH-4372
    """

    def __init__(self, path: str, connect_to: Connect = connect, durability: Durability = "full") -> None:
        self._path = path
        self._connect = connect_to
        self._synchronous = {"full": "FULL", "relaxed": "NORMAL"}[durability]
        self._connection: sqlite3.Connection | None = None
        self._mark = 0
        self._page_bytes = 0
        self.used_bytes = 0

    def open(self) -> None:
        """Create or open the file, check that it is ours and whole, and bring it to the schema that we know.

        Errors: JournalError that says what to do.
        """
        try:
            _create_private(self._path)
            connection, version = self._prepared()
            self._connection = connection
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise JournalError(failures.damaged(self._path, str(verdict)))
            bring_forward(connection, version)
            self._mark = self._mark_on_disk(connection)
            (self._page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            self.used_bytes = self._measure(connection)
            _sync_directories(self._path)
        except OSError as error:
            self.drop()
            raise JournalError(failures.of_system(self._path, error)) from error
        except sqlite3.Error as error:
            self.drop()
            raise JournalError(failures.for_operators(self._path, error)) from error
        except JournalError:
            self.drop()
            raise

    def reopen(self) -> None:
        """Start from what the disk really holds: after a failed sync, the old connection may believe too much.

        The kernel may have let go of pages that it could not write, and then calls them written. So the log that is left
        is written once more, over itself, and synced, before anybody rests on it.

        Errors: OSError, sqlite3.Error.
        Req: ORCH-4187
        """
        self.drop()
        _write_over_itself(self._path + "-wal")
        try:
            self._connection, version = self._prepared()
        except JournalError:
            version = 0
        if version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError("somebody has replaced the journal's file: bring it back")

    def commit(self, statements: Sequence[Statement]) -> None:
        """Carry out statements in order, as one durable transaction.

        A commit that failed may have reached the disk all the same. Each carries a mark, so that a second try finds out.
        """
        connection = self._open_connection()
        mark = self._mark % MARKS + 1
        if self._mark_on_disk(connection) != mark:
            connection.execute("BEGIN IMMEDIATE")
            carry_out(connection, statements)
            connection.execute(f"PRAGMA user_version={mark}")
            connection.execute("COMMIT")
        self._mark = mark
        self.used_bytes = self._measure(connection)

    def log_bytes(self) -> int:
        """Tell how long the write-ahead log is."""
        try:
            return os.stat(self._path + "-wal").st_size
        except FileNotFoundError:
            return 0

    def tidy(self) -> bool:
        """Give some free pages back, bring what the log holds into the file, and begin the log anew.

        Afterwards everything is synced, and nothing forgotten is left in the log. A quarter of the file may stay free for
        what comes next.

        Shape: whether there are more pages to give back.
        Cost: VACUUM_STEP_PAGES to move, and WAL_BYTES and one batch to write, at most.
        Req: ORCH-4085, ORCH-4376
        """
        connection = self._open_connection()
        spare = self._spare_pages(connection)
        if spare > 0:
            # As a script: it has a row without columns for each page, and `execute` stops at the first.
            connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return spare > VACUUM_STEP_PAGES

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield accepted tasks without an end in order of acceptance.

        Errors: JournalError.
        """
        sql = "SELECT key, accepted, bound, followed FROM tasks WHERE ended_number IS NULL ORDER BY number"
        for key, accepted, bound, followed in self._rows(sql):
            task = _decoded(_decode_accepted, self._path, key, accepted)
            if bound == 0:
                yield Unfinished(task, followed=bool(followed))
            elif bound == 1:
                yield Unfinished(task, Bound(task.tenant, task.task_id, ReplicaId("-"), 1), followed=bool(followed))
            else:
                start = _decoded(_decode_bound, self._path, key, bound)
                yield Unfinished(task, start, *self._text(key), bool(followed))

    def _text(self, key: str) -> tuple[str, int]:
        text, tokens_out = bytearray(), 0
        for at_bytes, piece, tokens in self._rows(
            "SELECT at_bytes, text, tokens_out FROM texts WHERE key = ? ORDER BY at_bytes", key
        ):
            if at_bytes > len(text):
                raise JournalError(
                    failures.damaged(self._path, f"the text of task {key} has a gap at byte {len(text)}")
                )
            text[at_bytes:] = piece
            tokens_out = tokens
        return text.decode(), tokens_out

    def finished(self) -> Iterator[tuple[Accepted, Ended]]:
        """Yield ended tasks, the first ended first.

        Errors: JournalError.
        """
        sql = "SELECT key, accepted, ended FROM tasks WHERE ended_number IS NOT NULL ORDER BY ended_number"
        for key, accepted, ended in self._rows(sql):
            yield (
                _decoded(_decode_accepted, self._path, key, accepted),
                _decoded(_decode_ended, self._path, key, ended),
            )

    def usage(self) -> Iterator[tuple[Tenant, Booking]]:
        """Yield what forgotten tasks used, the oldest day first.

        Errors: JournalError.
        """
        for day, tenant, *amounts in self._rows("SELECT * FROM usage ORDER BY day, tenant, key_id, model_ref"):
            yield Tenant(tenant), Booking(day, *amounts)

    def usage_since_ms(self) -> int | None:
        """Tell since when usage is whole.

        Errors: JournalError.
        """
        return next((since_ms for (since_ms,) in self._rows("SELECT since_ms FROM usage_since")), None)

    def drop(self) -> None:
        """Let go of the connection whatever state it is in; an unfinished transaction is undone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _rows(self, sql: str, *values: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._open_connection().execute(sql, values)
        except sqlite3.Error as error:
            raise JournalError(failures.for_operators(self._path, error)) from error

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the journal file is not open")
        return self._connection

    @staticmethod
    def _mark_on_disk(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def _measure(self, connection: sqlite3.Connection) -> int:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * self._page_bytes

    @staticmethod
    def _spare_pages(connection: sqlite3.Connection) -> int:
        (kind,) = connection.execute("PRAGMA auto_vacuum").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return int(free) - max(KEPT_FREE_PAGES, int(pages) // 4) if kind == INCREMENTAL else 0

    def _prepared(self) -> tuple[sqlite3.Connection, int]:
        connection = self._connect(self._path)
        try:
            # Nothing is changed in a file before we know that it is ours.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            version = version_of(connection, self._path)
            # EXCLUSIVE before WAL: no second process can read or write beside us, and no shared-memory file is needed.
            if version == 0:
                # A file keeps the way of giving pages back with which it was made; to ask for the same again writes to it.
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            for pragma in (
                "journal_mode=WAL",
                "wal_autocheckpoint=0",
                f"synchronous={self._synchronous}",
                "secure_delete=ON",
            ):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        except (sqlite3.Error, JournalError):
            connection.close()
            raise
        return connection, version


def _decoded(decode: Callable[[bytes], R], path: str, key: str, data: bytes | int) -> R:
    try:
        if isinstance(data, bytes):
            return decode(data)
        raise TypeError("it is no blob")
    except (msgspec.DecodeError, TypeError) as error:
        raise JournalError(failures.damaged(path, f"the record of task {key}: {error}")) from error


def _create_private(path: str) -> None:
    """Make sure that the file exists and only its owner reads it: it holds prompts and answers.

    Req: ORCH-4184
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        head = os.read(descriptor, 100)
        # Nobody else's file is touched: ours is empty or carries our application id (bytes 68 to 71 of the header).
        if not head or head[68:72] == APPLICATION_ID.to_bytes(4, "big"):
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _sync_directories(path: str) -> None:
    """Make the names on the way to the file durable: SQLite syncs what is in it.

    Directories above its own may have been made just before; where we may not sync one, it is older than we are.

    Req: ORCH-4372
    """
    directory = os.path.dirname(os.path.abspath(path))
    _sync(directory)
    with contextlib.suppress(OSError):
        while not os.path.ismount(directory):
            directory = os.path.dirname(directory)
            _sync(directory)


def _write_over_itself(path: str) -> None:
    with contextlib.suppress(FileNotFoundError), open(path, "r+b", buffering=0) as log:
        at = 0
        while piece := os.pread(log.fileno(), 1 << 20, at):
            at += os.pwrite(log.fileno(), piece, at)
        os.fsync(log.fileno())


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
