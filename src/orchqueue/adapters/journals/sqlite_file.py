"""The journal's file: schema, statements, and how it is opened. One connection, used by one thread at a time.

Req: ORCH-4185
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias, TypeVar

import msgspec

from orchqueue.core.ids import ReplicaId, TaskKey, Tenant, task_key
from orchqueue.core.records import Accepted, AnyRecord, Booking, Bound, Ended, Followed, Forgotten, Spoken
from orchqueue.ports.errors import JournalError
from orchqueue.ports.journal import Unfinished

SCHEMA_VERSION = 3
APPLICATION_ID = 0x4F51_4A31

Connect: TypeAlias = Callable[[str], sqlite3.Connection]
Statement: TypeAlias = tuple[str, tuple[str | bytes | int, ...]]

_SCHEMA = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE tasks (
  number INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  accepted BLOB NOT NULL,
  bound INTEGER NOT NULL DEFAULT 0,
  ended_number INTEGER,
  ended BLOB
);
CREATE INDEX tasks_by_end ON tasks (ended_number) WHERE ended_number IS NOT NULL;
"""
# Since version 2. What was used before the tables were made is not in them: usage is whole from the next second on.
_USAGE = """
CREATE TABLE usage (
  day INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  key_id TEXT NOT NULL,
  model_ref TEXT NOT NULL,
  accepted INTEGER NOT NULL,
  succeeded INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  canceled INTEGER NOT NULL,
  tokens_in INTEGER NOT NULL,
  tokens_out INTEGER NOT NULL,
  decode_ms INTEGER NOT NULL,
  PRIMARY KEY (day, tenant, key_id, model_ref)
) WITHOUT ROWID;
CREATE TABLE usage_since (since_ms INTEGER NOT NULL);
INSERT INTO usage_since VALUES ((CAST(strftime('%s', 'now') AS INTEGER) + 1) * 1000);
"""
# Since version 3. `tasks.bound` holds the latest start; in older rows it is 1 where there was one.
_TEXTS = """
ALTER TABLE tasks ADD COLUMN followed INTEGER NOT NULL DEFAULT 0;
CREATE TABLE texts (
  key TEXT NOT NULL,
  at_bytes INTEGER NOT NULL,
  text BLOB NOT NULL,
  tokens_out INTEGER NOT NULL,
  PRIMARY KEY (key, at_bytes)
) WITHOUT ROWID;
"""
_ACCEPT = "INSERT OR REPLACE INTO tasks (key, accepted) VALUES (?, ?)"
_BIND = "UPDATE tasks SET bound = ? WHERE key = ?"
_SPEAK = "INSERT OR REPLACE INTO texts SELECT ?1, ?2, ?3, ?4 FROM tasks WHERE key = ?1 AND ended_number IS NULL"
_FOLLOW = "UPDATE tasks SET followed = 1 WHERE key = ?"
_SILENCE = "DELETE FROM texts WHERE key = ?"
_END = (
    "UPDATE tasks SET ended = ?, ended_number = (SELECT coalesce(max(ended_number), 0) + 1 FROM tasks"
    " WHERE ended_number IS NOT NULL) WHERE key = ?"
)
_DELETE = "DELETE FROM tasks WHERE key = ?"
_DROP_DAY = "DELETE FROM usage WHERE day = ?"
_SINCE = "UPDATE usage_since SET since_ms = max(since_ms, ?)"
_BOOK = (
    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " accepted = accepted + excluded.accepted, succeeded = succeeded + excluded.succeeded,"
    " failed = failed + excluded.failed, canceled = canceled + excluded.canceled,"
    " tokens_in = tokens_in + excluded.tokens_in, tokens_out = tokens_out + excluded.tokens_out,"
    " decode_ms = decode_ms + excluded.decode_ms"
)

R = TypeVar("R")

_encode = msgspec.json.Encoder().encode
_decode_accepted = msgspec.json.Decoder(Accepted).decode
_decode_bound = msgspec.json.Decoder(Bound).decode
_decode_ended = msgspec.json.Decoder(Ended).decode


def connect(path: str) -> sqlite3.Connection:
    """Open a connection as the journal wants it: no implicit transactions, no waiting for locks.

    Req: ORCH-4085
    """
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def statements_of(record: AnyRecord) -> Sequence[Statement]:
    """Encode a record as the statements that put it into effect.

    Cost: once per record; about 2 µs for a short prompt.
    """
    key: TaskKey = task_key(record.tenant, record.task_id)
    match record:
        case Accepted():
            return ((_SILENCE, (key,)), (_ACCEPT, (key, _encode(record))))
        case Bound():
            return ((_BIND, (_encode(record), key)),)
        case Spoken():
            return ((_SPEAK, (key, record.at_bytes, record.text.encode(), record.tokens_out)),)
        case Followed():
            return ((_FOLLOW, (key,)),)
        case Ended():
            return ((_END, (_encode(record), key)), (_SILENCE, (key,)))
        case Forgotten():
            return _forget(key, record)


def _forget(key: TaskKey, record: Forgotten) -> Sequence[Statement]:
    """Delete the task and book what it used, as one with it.

    Req: ORCH-4308
    """
    return (
        (_DELETE, (key,)),
        (_SILENCE, (key,)),
        *((_DROP_DAY, (day,)) for day in record.dropped_days),
        *((_BOOK, (b.day, record.tenant, *msgspec.structs.astuple(b)[1:])) for b in record.booked),
        (_SINCE, (record.usage_since_ms,)),
    )


class JournalFile:
    """The open file. Every method raises sqlite3.Error where it does not say otherwise."""

    def __init__(self, path: str, connect_to: Connect = connect) -> None:
        self._path = path
        self._connect = connect_to
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Create or open the file, and check that it is ours, whole and of a schema that we know.

        Errors: JournalError that says what to do.
        """
        try:
            _create_private(self._path)
            self._connection = self._prepared()
            self._check_or_create(self._connection)
            _sync_directory(self._path)
        except OSError as error:
            self.drop()
            message = f"the journal {self._path} cannot be opened: {error.strerror}; check the path and its permissions"
            raise JournalError(message) from error
        except sqlite3.Error as error:
            self.drop()
            raise JournalError(_explain(self._path, error)) from error
        except JournalError:
            self.drop()
            raise

    def reopen(self) -> None:
        """Start from what the disk really holds: after a failed sync, the old connection may believe too much."""
        self.drop()
        self._connection = self._prepared()

    def commit(self, statements: Sequence[Statement]) -> None:
        """Carry out statements in order, as one durable transaction."""
        connection = self._open_connection()
        connection.execute("BEGIN IMMEDIATE")
        for sql, run in groupby(statements, key=lambda statement: statement[0]):
            connection.executemany(sql, [values for _, values in run])
        connection.execute("COMMIT")

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
                raise JournalError(_damaged(self._path, f"the text of task {key} has a gap at byte {len(text)}"))
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
            raise JournalError(_explain(self._path, error)) from error

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the journal file is not open")
        return self._connection

    def _prepared(self) -> sqlite3.Connection:
        connection = self._connect(self._path)
        try:
            # EXCLUSIVE before WAL: no second process can read or write beside us, and no shared-memory file is needed.
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _check_or_create(self, connection: sqlite3.Connection) -> None:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION_ID}; {_SCHEMA} {_USAGE} {_TEXTS}"
            )
            connection.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))
            connection.execute("COMMIT")
            return
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID or "schema_version" not in tables:
            raise JournalError(f"{self._path} is a database of some other program; name another journal.path")
        (version,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
        if version not in range(1, SCHEMA_VERSION + 1):
            message = (
                f"the journal {self._path} was written by another release (schema {version}, this one knows"
                f" {SCHEMA_VERSION}); start that release, or use another data directory"
            )
            raise JournalError(message)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise JournalError(_damaged(self._path, str(verdict)))
        if version < SCHEMA_VERSION:
            connection.executescript(f"BEGIN IMMEDIATE; {'' if version > 1 else _USAGE} {_TEXTS}")
            connection.execute("UPDATE schema_version SET version = ?", (SCHEMA_VERSION,))
            connection.execute("COMMIT")


def _decoded(decode: Callable[[bytes], R], path: str, key: str, data: bytes | int) -> R:
    try:
        if isinstance(data, bytes):
            return decode(data)
        raise TypeError("it is no blob")
    except (msgspec.DecodeError, TypeError) as error:
        raise JournalError(_damaged(path, f"the record of task {key}: {error}")) from error


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


def _sync_directory(path: str) -> None:
    """Make the file's name durable: SQLite syncs what is in it."""
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(path: str, error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return f"the journal {path} is in use by another process; stop that one, or use another data directory"
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return _damaged(path, str(error))
    return f"the journal {path} cannot be used: {error} ({name or 'sqlite'})"


def _damaged(path: str, detail: str) -> str:
    told = " ".join(detail.split())
    return f"the journal {path} is damaged: {told}; restore it from a copy, or move it aside to start without its tasks"
