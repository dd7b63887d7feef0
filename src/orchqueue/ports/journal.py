"""The journal as a port.

Req: ORCH-4013
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from orchqueue.core.ids import Tenant
from orchqueue.core.records import Accepted, AnyRecord, Booking, Bound, Ended


class JournalWatcher(Protocol):
    """Who learns what became of appended records; called on the event loop's thread only."""

    def committed(self, seq: int) -> None:
        """All records up to and including number `seq` are durable."""
        ...

    def stalled(self, reason: str) -> None:
        """A commit failed; it is retried until it succeeds. Clients are shown the reason: words, never a path."""
        ...

    def healed(self) -> None:
        """Commits succeed again."""
        ...


class Unfinished(msgspec.Struct, frozen=True):
    """A task without an end: its latest start, if it had one, and what of its text was kept, whole from its first byte.

    Units: `tokens_out` were decoded up to the end of `text`. `followed`: a reader had attached.
    """

    accepted: Accepted
    bound: Bound | None = None
    text: str = ""
    tokens_out: int = 0
    followed: bool = False


class Recovered(Protocol):
    """What a journal held when it was opened; to be read before the journal is opened for appending."""

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield accepted tasks without an end, in order of acceptance."""
        ...

    def finished(self) -> Iterator[tuple[Accepted, Ended]]:
        """Yield ended tasks that are still kept, oldest first."""
        ...

    def usage(self) -> Iterator[tuple[Tenant, Booking]]:
        """Yield what forgotten tasks used, one row for each day, tenant, key and model, the oldest day first.

        Req: ORCH-4308
        """
        ...

    def usage_since_ms(self) -> int | None:
        """Tell since when usage is whole, None when that is not known."""
        ...


class Journal(Protocol):
    """An append-only log with group commit.

    Records are numbered 1, 2, 3 … in the order of `append`, across the life of this object.
    """

    def recover(self) -> Recovered:
        """Read what an earlier life left; call once, before the first append.

        Errors: JournalError.
        """
        ...

    def open(self, watcher: JournalWatcher) -> None:
        """Begin to accept records."""
        ...

    def append(self, records: Sequence[AnyRecord]) -> int:
        """Queue records for the next commit and return at once.

        Shape: the number of the last record.
        """
        ...

    def used_bytes(self) -> int:
        """Tell how much is kept where space is bounded; what was freed counts no more. 0: it is not bounded.

        Req: ORCH-4374
        """
        ...

    def close(self) -> None:
        """Commit what is queued and release the file."""
        ...


Schedule = Callable[[int, Callable[[], None]], None]
"""Run a callback after a number of milliseconds, on the event loop's thread."""
