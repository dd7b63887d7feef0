"""What a record changes in the journal's file, as statements.

Req: ORCH-4185
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import TypeAlias

import msgspec

from orchqueue.core.ids import TaskKey, task_key
from orchqueue.core.records import Accepted, AnyRecord, Bound, Ended, Followed, Forgotten, Spoken

Values: TypeAlias = tuple[str | bytes | int, ...]
Statement: TypeAlias = tuple[str, Values]

_ACCEPT = "INSERT OR REPLACE INTO tasks (key, accepted) VALUES (?, ?)"
ROWS_AT_ONCE = 32
_ACCEPT_MANY = _ACCEPT + ", (?, ?)" * (ROWS_AT_ONCE - 1)
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

_encode = msgspec.json.Encoder().encode


def statements_of(record: AnyRecord) -> Sequence[Statement]:
    """Encode a record as the statements that put it into effect.

    Cost: once per record; about 2 µs for a short prompt.
    """
    key: TaskKey = task_key(record.tenant, record.task_id)
    match record:
        case Accepted():
            return ((_ACCEPT, (key, _encode(record))),)
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


def carry_out(connection: sqlite3.Connection, statements: Sequence[Statement]) -> None:
    """Carry statements out inside the transaction that is open, those of a kind together.

    Errors: sqlite3.Error.
    """
    for sql, run in groupby(_acceptances_first(statements), key=itemgetter(0)):
        rows = [values for _, values in run]
        if sql == _ACCEPT:
            rows = _accept_many(connection, rows)
        connection.executemany(sql, rows)


def _acceptances_first(statements: Sequence[Statement]) -> Iterator[Statement]:
    """Put acceptances together. One may pass what was decided about other tasks, and only Forgotten stands before its own."""
    passed: list[Statement] = []
    forgotten = False
    for statement in statements:
        if statement[0] != _ACCEPT:
            passed.append(statement)
            forgotten = forgotten or statement[0] == _DELETE
            continue
        if forgotten:
            yield from passed
            passed, forgotten = [], False
        yield statement
    yield from passed


def _accept_many(connection: sqlite3.Connection, rows: list[Values]) -> list[Values]:
    """Insert as many rows as whole groups hold and return the rest.

    For each statement this thread must have the interpreter's lock again, and wait for it where the event loop is busy.
    """
    whole = len(rows) // ROWS_AT_ONCE * ROWS_AT_ONCE
    for begin in range(0, whole, ROWS_AT_ONCE):
        connection.execute(_ACCEPT_MANY, tuple(chain.from_iterable(rows[begin : begin + ROWS_AT_ONCE])))
    return rows[whole:]
