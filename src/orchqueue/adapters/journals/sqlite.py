"""A journal in one SQLite file: a writer thread commits everything that came together in one transaction.

Req: ORCH-4011, ORCH-4013
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from orchqueue.adapters.journals import sqlite_failures as failures
from orchqueue.adapters.journals.sqlite_file import (
    WAL_BYTES,
    Connect,
    Durability,
    JournalFile,
    connect,
)
from orchqueue.adapters.journals.sqlite_statements import Statement, statements_of
from orchqueue.core.ids import Tenant
from orchqueue.core.records import Accepted, AnyRecord, Booking, Ended
from orchqueue.ports.errors import JournalError
from orchqueue.ports.journal import JournalWatcher, Unfinished

BATCH_LIMIT = 4096
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
CLOSE_PATIENCE_S = 5.0
QUIET_S = 1.0
LATEST_S: Mapping[Durability, float] = {"full": 30.0, "relaxed": 1.0}

CallSoon = Callable[[Callable[[], None]], object]


class SqliteJournal:
    """The journal port over a file.

    `call_soon` brings a callback to the event loop's thread from any other, as `loop.call_soon_threadsafe` does.

    Order: recover and read what it gives, then open, then append.

    Req: ORCH-4187
    """

    def __init__(
        self, path: str, call_soon: CallSoon, connect_to: Connect = connect, durability: Durability = "full"
    ) -> None:
        self._path = path
        self._call_soon = call_soon
        self._file = JournalFile(path, connect_to, durability)
        self._latest_s = LATEST_S[durability]
        self._untidy_since_s: float | None = None
        self._tidy_at_s: float | None = None
        self._watcher: JournalWatcher | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._pending: list[Sequence[Statement]] = []
        self._last_seq = 0
        self._committed_seq = 0
        self._close_by_s: float | None = None
        self._closed = False
        self._failure = ""

    def recover(self) -> _Recovered:
        """Open the file and give what an earlier life left.

        Errors: JournalError.
        """
        self._file.open()
        return _Recovered(self._file, lambda: self._thread is None)

    def open(self, watcher: JournalWatcher) -> None:
        """Start the writer."""
        self._watcher = watcher
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, records: Sequence[AnyRecord]) -> int:
        """Encode records and hand them to the writer.

        Errors: JournalError when closed or not open yet.
        Cost: about 2 µs a record; never waits for the disk.
        """
        if self._thread is None or self._closed:
            raise JournalError(f"the journal {self._path} is not open; records cannot be appended")
        encoded = [statements_of(record) for record in records]
        with self._changed:
            self._pending += encoded
            self._last_seq += len(encoded)
            self._changed.notify()
        return self._last_seq

    def used_bytes(self) -> int:
        """Tell how much of the file was in use after the last commit."""
        return self._file.used_bytes

    def close(self) -> None:
        """Commit what is queued, end the writer, release the file.

        Errors: JournalError when the disk would not take what was queued.
        Cost: waits for the disk, CLOSE_PATIENCE_S at most while it fails.
        """
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            with self._changed:
                self._close_by_s = time.monotonic() + CLOSE_PATIENCE_S
                self._changed.notify()
            self._thread.join()
        self._file.drop()
        lost = self._last_seq - self._committed_seq
        if lost:
            raise JournalError(f"{lost} records could not be committed to {self._path}: {self._failure}")

    def _write(self) -> None:
        """Commit batch after batch, and tidy between them, until closed and empty, or closed and out of patience."""
        while True:
            with self._changed:
                while not self._pending and self._close_by_s is None and not self._is_tidying_due():
                    self._changed.wait(None if self._tidy_at_s is None else self._tidy_at_s - time.monotonic())
                batch = self._pending[:BATCH_LIMIT]
                del self._pending[:BATCH_LIMIT]
            if batch:
                statements = [statement for record in batch for statement in record]
                if not self._do_until_done(partial(self._file.commit, statements)):
                    return
                self._committed_seq += len(batch)
                self._tell_committed(self._committed_seq)
                self._plan_tidying()
            elif self._close_by_s is not None:
                return
            if self._is_tidying_due() and not self._do_until_done(self._tidy):
                return

    def _plan_tidying(self) -> None:
        """Put tidying off while commits follow each other, but not for ever; a long log does not wait.

        Req: ORCH-4372, ORCH-4376
        """
        now_s = time.monotonic()
        if self._untidy_since_s is None:
            self._untidy_since_s = now_s
        self._tidy_at_s = min(self._untidy_since_s + self._latest_s, now_s + QUIET_S)
        if self._file.log_bytes() >= WAL_BYTES:
            self._tidy_at_s = now_s

    def _is_tidying_due(self) -> bool:
        return self._tidy_at_s is not None and time.monotonic() >= self._tidy_at_s

    def _tidy(self) -> None:
        more = self._file.tidy()
        self._untidy_since_s = None
        self._tidy_at_s = time.monotonic() if more else None

    def _do_until_done(self, act: Callable[[], None]) -> bool:
        """Do something to the file, again and again if it must be. False: closed before it could be done."""
        delay_s = RETRY_FIRST_S
        failed = False
        while True:
            try:
                if failed:
                    self._file.reopen()
                act()
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing is durable until a try succeeds
                # Clients read this: where the file lies is none of their business.
                self._failure = failures.for_clients(error)
                if not failed:
                    failed = True
                    self._tell_stalled(self._failure)
                if not self._may_retry_after(delay_s):
                    return False
                delay_s = min(delay_s * 2, RETRY_MAX_S)
            else:
                if failed:
                    self._tell_healed()
                return True

    def _may_retry_after(self, delay_s: float) -> bool:
        """Wait before another try; a close ends the wait once, and gives up when its patience is over."""
        with self._changed:
            closing = self._close_by_s is not None
            self._changed.wait_for(lambda: (self._close_by_s is not None) != closing, delay_s)
            return self._close_by_s is None or time.monotonic() < self._close_by_s

    def _tell_committed(self, seq: int) -> None:
        self._tell(lambda watcher: watcher.committed(seq))

    def _tell_stalled(self, reason: str) -> None:
        self._tell(lambda watcher: watcher.stalled(reason))

    def _tell_healed(self) -> None:
        self._tell(lambda watcher: watcher.healed())

    def _tell(self, message: Callable[[JournalWatcher], None]) -> None:
        watcher = self._watcher
        if watcher is None:
            return
        # A closed loop raises: there is nobody left to tell, and the records are safe.
        with contextlib.suppress(RuntimeError):
            self._call_soon(lambda: message(watcher))


class _Recovered:
    """What the file held. It can be read until the journal is opened: after that the writer owns the connection."""

    def __init__(self, file: JournalFile, is_readable: Callable[[], bool]) -> None:
        self._file = file
        self._is_readable = is_readable

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield accepted tasks without an end, in order of acceptance."""
        return self._guarded().unfinished()

    def finished(self) -> Iterator[tuple[Accepted, Ended]]:
        """Yield ended tasks that are still kept, oldest first."""
        return self._guarded().finished()

    def usage(self) -> Iterator[tuple[Tenant, Booking]]:
        """Yield what forgotten tasks used, the oldest day first."""
        return self._guarded().usage()

    def usage_since_ms(self) -> int | None:
        """Tell since when usage is whole."""
        return self._guarded().usage_since_ms()

    def _guarded(self) -> JournalFile:
        if not self._is_readable():
            raise JournalError("read what was recovered before the journal is opened")
        return self._file
