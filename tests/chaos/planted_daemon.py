"""`orchestratord` with one bug in it, named by the first argument. Everything else in this process is the real daemon.

Req: ORCH-4348
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from orchqueue.adapters.journals import sqlite
from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_file import JournalFile
from orchqueue.adapters.journals.sqlite_statements import Statement, statements_of
from orchqueue.core import attempt_flow, failover_flow
from orchqueue.core.effects import EmitTokens
from orchqueue.core.ids import TaskKey
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import AnyRecord, Ended
from orchqueue.core.state import State
from orchqueue.core.task import Task
from orchqueue.daemon.main import main
from orchqueue.ports.journal import Unfinished

SLOW_DISK_S = 0.3


def acknowledge_before_commit() -> None:
    """Tell that records are safe while a slow disk still has to take them."""
    append, commit = SqliteJournal.append, JournalFile.commit

    def hasty(self: SqliteJournal, records: Sequence[AnyRecord]) -> int:
        last = append(self, records)
        self._tell(lambda watcher: watcher.committed(last))
        return last

    def nothing(self: SqliteJournal, seq: int) -> None:
        """Say nothing later: it was said too early."""

    def slow(self: JournalFile, statements: Sequence[Statement]) -> None:
        threading.Event().wait(SLOW_DISK_S)
        commit(self, statements)

    SqliteJournal.append = hasty  # type: ignore[method-assign]
    SqliteJournal._tell_committed = nothing  # type: ignore[method-assign]
    JournalFile.commit = slow  # type: ignore[method-assign]


def forget_one_in_recovery() -> None:
    """Leave out the last of the tasks that were not finished."""
    unfinished = JournalFile.unfinished

    def all_but_one(self: JournalFile) -> Iterator[Unfinished]:
        yield from list(unfinished(self))[:-1]

    JournalFile.unfinished = all_but_one  # type: ignore[method-assign]


def forget_cancels() -> None:
    """Answer cancels, and keep nothing of them."""

    def all_but_cancels(record: AnyRecord) -> Sequence[Statement]:
        cancelled = isinstance(record, Ended) and record.outcome is Outcome.CANCELED_BY_CLIENT
        return () if cancelled else statements_of(record)

    setattr(sqlite, "statements_of", all_but_cancels)  # noqa: B010


def lose_a_character_in_replay() -> None:
    """Suppress one character too many where a replay goes beyond what was sent."""
    rejoin, emit = failover_flow.rejoin, EmitTokens
    joined: set[str] = set()

    def remember(state: State, task: Task, texts: tuple[str, ...], now_ms: int) -> tuple[str, ...]:
        rest = rejoin(state, task, texts, now_ms)
        if task.replay_bytes is None:
            joined.add(task.key)
        return rest

    def emit_less(key: TaskKey, texts: tuple[str, ...]) -> EmitTokens:
        if key in joined and texts:
            joined.discard(key)
            texts = (texts[0][1:], *texts[1:])
        return emit(key, texts)

    setattr(attempt_flow, "rejoin", remember)  # noqa: B010
    setattr(attempt_flow, "EmitTokens", emit_less)  # noqa: B010


BUGS: dict[str, Callable[[], None]] = {
    "acknowledge-before-commit": acknowledge_before_commit,
    "forget-one-in-recovery": forget_one_in_recovery,
    "forget-cancels": forget_cancels,
    "lose-a-character-in-replay": lose_a_character_in_replay,
}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    sys.exit(main())
