"""A journal that forgets with the process, and commits late as a disk would.

Whoever answers before the commit is caught by the delay, from the first day on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from orchqueue.adapters.journals.usage_rows import UsageRows
from orchqueue.core.ids import TaskKey, Tenant, task_key
from orchqueue.core.records import Accepted, AnyRecord, Booking, Bound, Ended, Followed, Forgotten, Spoken
from orchqueue.ports.errors import JournalError
from orchqueue.ports.journal import JournalWatcher, Schedule, Unfinished

RETRY_MS = 100


class _Row(msgspec.Struct):
    accepted: Accepted
    bound: Bound | None = None
    text: bytearray = msgspec.field(default_factory=bytearray)
    tokens_out: int = 0
    followed: bool = False
    ended: Ended | None = None


class MemoryDisk:
    """What is committed; give the same one to the next journal to play a restart."""

    def __init__(self) -> None:
        self._rows: dict[TaskKey, _Row] = {}
        self._ended: dict[TaskKey, None] = {}
        self._usage = UsageRows()

    def apply(self, record: AnyRecord) -> None:
        """Put one record into effect."""
        key = task_key(record.tenant, record.task_id)
        row = self._rows.get(key)
        match record:
            case Accepted():
                self._remove(key)
                self._rows[key] = _Row(record)
            case Bound():
                if row is not None:
                    row.bound = record
            case Spoken():
                if row is not None and row.ended is None:
                    row.text[record.at_bytes :] = record.text.encode()
                    row.tokens_out = record.tokens_out
            case Followed():
                if row is not None:
                    row.followed = True
            case Ended():
                if row is not None:
                    row.ended = record
                    row.text.clear()
                    self._ended[key] = None
            case Forgotten():
                self._remove(key)
                self._usage.apply(record)

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield accepted tasks without an end, in order of acceptance."""
        rows = [row for row in self._rows.values() if row.ended is None]
        return (Unfinished(row.accepted, row.bound, row.text.decode(), row.tokens_out, row.followed) for row in rows)

    def finished(self) -> Iterator[tuple[Accepted, Ended]]:
        """Yield ended tasks that are still kept, oldest first."""
        rows = [self._rows[key] for key in self._ended]
        return ((row.accepted, row.ended) for row in rows if row.ended is not None)

    def usage(self) -> Iterator[tuple[Tenant, Booking]]:
        """Yield what forgotten tasks used, the oldest day first."""
        return self._usage.rows()

    def usage_since_ms(self) -> int | None:
        """Tell since when usage is whole."""
        return self._usage.since_ms

    def _remove(self, key: TaskKey) -> None:
        self._rows.pop(key, None)
        self._ended.pop(key, None)


class MemoryJournal:
    """The journal port over a `MemoryDisk`.

    Units: `delay_ms` gives the time each commit takes.
    Req: ORCH-4013
    """

    def __init__(self, schedule: Schedule, delay_ms: Callable[[], int], disk: MemoryDisk | None = None) -> None:
        self._schedule = schedule
        self._delay_ms = delay_ms
        self._disk = disk if disk is not None else MemoryDisk()
        self._watcher: JournalWatcher | None = None
        self._pending: list[AnyRecord] = []
        self._last_seq = 0
        self._committing = 0
        self._fault = ""
        self._stalled = False
        self._closed = False

    def recover(self) -> MemoryDisk:
        """Give what the disk held before this journal."""
        return self._disk

    def open(self, watcher: JournalWatcher) -> None:
        """Begin to accept records."""
        self._watcher = watcher

    def append(self, records: Sequence[AnyRecord]) -> int:
        """Queue records; they are committed together, later.

        Errors: JournalError when closed or not open yet.
        """
        if self._watcher is None or self._closed:
            raise JournalError("the journal is not open; records cannot be appended")
        self._pending.extend(records)
        self._last_seq += len(records)
        if self._pending and not self._committing:
            self._begin()
        return self._last_seq

    def fail(self, reason: str) -> None:
        """Let every commit fail from now on; what is appended meanwhile waits."""
        self._fault = reason

    def heal(self) -> None:
        """Let commits succeed again."""
        self._fault = ""

    def crash(self) -> None:
        """Lose everything that is not committed and fall silent, as a dead process does."""
        self._closed = True
        self._watcher = None
        self._pending.clear()

    def used_bytes(self) -> int:
        """Tell that memory has no bound of its own."""
        return 0

    def close(self) -> None:
        """Commit what is queued.

        Errors: JournalError when commits fail now.
        """
        if self._closed:
            return
        self._closed = True
        if self._fault and self._pending:
            raise JournalError(f"{len(self._pending)} records could not be committed: {self._fault}")
        self._committing = len(self._pending)
        self._commit()

    def _begin(self) -> None:
        self._committing = len(self._pending)
        self._schedule(self._delay_ms(), self._due)

    def _due(self) -> None:
        if self._closed:
            return
        if not self._fault:
            self._commit()
            if self._pending:
                self._begin()
            return
        if not self._stalled and self._watcher is not None:
            self._stalled = True
            self._watcher.stalled(self._fault)
        self._schedule(RETRY_MS, self._due)

    def _commit(self) -> None:
        batch, self._pending = self._pending[: self._committing], self._pending[self._committing :]
        self._committing = 0
        for record in batch:
            self._disk.apply(record)
        if self._watcher is None:
            return
        if self._stalled:
            self._stalled = False
            self._watcher.healed()
        if batch:
            self._watcher.committed(self._last_seq - len(self._pending))
