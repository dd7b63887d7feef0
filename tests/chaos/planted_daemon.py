"""`orchestratord` with one bug in it, named by the first argument. Everything else in this process is the real daemon.

Req: ORCH-4348
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_file import JournalFile, Statement
from orchqueue.daemon.main import main
from orchqueue.ports.journal import Unfinished

SLOW_DISK_S = 0.3


def acknowledge_before_commit() -> None:
    """Tell that records are safe while a slow disk still has to take them."""
    commit = SqliteJournal._commit_until_done

    def hasty(self: SqliteJournal, batch: Sequence[Sequence[Statement]]) -> bool:
        self._tell_committed(self._committed_seq + len(batch))
        threading.Event().wait(SLOW_DISK_S)
        return commit(self, batch)

    SqliteJournal._commit_until_done = hasty  # type: ignore[method-assign]


def forget_one_in_recovery() -> None:
    """Leave out the last of the tasks that were not finished."""
    unfinished = JournalFile.unfinished

    def all_but_one(self: JournalFile) -> Iterator[Unfinished]:
        yield from list(unfinished(self))[:-1]

    JournalFile.unfinished = all_but_one  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "acknowledge-before-commit": acknowledge_before_commit,
    "forget-one-in-recovery": forget_one_in_recovery,
}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    sys.exit(main())
