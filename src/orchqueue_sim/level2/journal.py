"""The journal port over a simulated disk: commits come late, fail, fill up, and a crash may hit either side of one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random

from orchqueue.core.ids import Tenant
from orchqueue.core.outcome import MEANINGS
from orchqueue.core.records import Accepted, AnyRecord, Booking, Bound, Ended
from orchqueue.ports.errors import JournalError
from orchqueue.ports.journal import JournalWatcher, Unfinished
from orchqueue_sim.disk import Disk
from orchqueue_sim.marks import Chronicle

RETRY_S = 0.1
STALL_SHOWS_S = 0.5


class Trouble:
    """What ails the disk now. `reason` empty: commits succeed."""

    def __init__(self) -> None:
        self.reason = ""
        self.fault = ""
        self.slow_ms = 0
        self.stalled_at_s = -STALL_SHOWS_S

    def shows_at(self, now_s: float) -> bool:
        """Tell whether clients may still receive what was told while commits failed."""
        return now_s - self.stalled_at_s < STALL_SHOWS_S


class Kept:
    """What a disk held when it was opened."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield accepted tasks without an end."""
        return iter(self._disk.unfinished())

    def finished(self) -> Iterator[tuple[Accepted, Ended]]:
        """Yield ended tasks."""
        return iter(self._disk.finished())

    def usage(self) -> Iterator[tuple[Tenant, Booking]]:
        """Yield what forgotten tasks used."""
        return self._disk.usage.rows()

    def usage_since_ms(self) -> int | None:
        """Tell since when usage is whole."""
        return self._disk.usage.since_ms


class SimulatedJournal:
    """One daemon life's journal. Implements `ports.journal.Journal`.

    `history` counts what was decided in this life, as the daemon's own counters should.

    Req: ORCH-4013
    """

    def __init__(self, disk: Disk, trouble: Trouble, rng: Random, delay_ms: int, chronicle: Chronicle) -> None:
        self._disk, self._trouble, self._rng, self._delay_ms, self._chronicle = disk, trouble, rng, delay_ms, chronicle
        self.doom: Callable[[int], str] = lambda _records: ""
        self.on_doom: Callable[[], None] = lambda: None
        self._watcher: JournalWatcher | None = None
        self._queued: list[AnyRecord] = []
        self._flying: list[AnyRecord] = []
        self._appended = 0
        self._committed = 0
        self.stalled = False
        self._closed = False
        self.history: Counter[tuple[str, str]] = Counter()

    def recover(self) -> Kept:
        """Read what an earlier life left."""
        return Kept(self._disk)

    def open(self, watcher: JournalWatcher) -> None:
        """Begin to accept records."""
        self._watcher = watcher

    def append(self, records: Sequence[AnyRecord]) -> int:
        """Queue records for the next commit."""
        if self._watcher is None or self._closed:
            raise JournalError("the journal is not open")
        for record in records:
            self._count(record)
        self._queued.extend(records)
        self._appended += len(records)
        if self._queued and not self._flying:
            self._fly()
        return self._appended

    def used_bytes(self) -> int:
        """Tell that memory has no bound of its own."""
        return 0

    def close(self) -> None:
        """Commit what is queued.

        Errors: JournalError while the disk fails.
        """
        if self._closed:
            return
        self._closed = True
        if self._trouble.reason and (self._flying or self._queued):
            raise JournalError(f"records could not be committed: {self._trouble.reason}")
        self._disk.commit(self._flying + self._queued)

    def crash(self, fault: str = "") -> None:
        """Lose what was not committed; a commit in flight has reached the disk, or not, or a part of it where the tail tears."""
        if self._closed:
            return
        self._closed = True
        flying = len(self._flying)
        kept = {"crash_before_commit": 0, "crash_after_commit": flying}.get(fault, self._rng.choice((0, flying)))
        if fault == "torn_tail":
            kept = self._rng.randint(1, max(1, flying - 1))
        story = f"{kept} of {flying} records in flight reach the disk, {len(self._queued)} more are lost"
        if fault:
            self._chronicle.struck(fault, story)
        self._chronicle.tell("journal", story)
        self._disk.commit(self._flying[:kept])

    def _fly(self) -> None:
        self._flying, self._queued = self._queued, []
        delay_ms = self._rng.randint(0, self._delay_ms) + self._rng.randint(0, self._trouble.slow_ms)
        if self._trouble.slow_ms and delay_ms:
            self._chronicle.struck("busy_disk", f"a commit takes {delay_ms} ms")
        asyncio.get_running_loop().call_later(delay_ms / 1000, self._land)

    def _land(self) -> None:
        if self._closed or self._watcher is None:
            return
        if self._trouble.reason:
            self._trouble.stalled_at_s = asyncio.get_running_loop().time()
            if not self.stalled:
                self.stalled = True
                self._chronicle.struck(self._trouble.fault, self._trouble.reason)
                self._watcher.stalled(self._trouble.reason)
            asyncio.get_running_loop().call_later(RETRY_S, self._land)
            return
        doom = self.doom(len(self._flying))
        if doom:
            self.crash(doom)
            self.on_doom()
            return
        self._disk.commit(self._flying)
        self._committed += len(self._flying)
        self._flying = []
        if self.stalled:
            self.stalled = False
            self._chronicle.tell("journal", "heals")
            self._watcher.healed()
        self._watcher.committed(self._committed)
        if self._queued and not self._flying:
            self._fly()

    def _count(self, record: AnyRecord) -> None:
        match record:
            case Accepted():
                self.history["tasks_enqueued_total", ""] += 1
            case Bound():
                self.history["tasks_started_total", ""] += 1
            case Ended():
                reason = MEANINGS[record.outcome].cancel_reason
                if reason:
                    self.history["tasks_canceled_total", reason] += 1
                self.history["tokens_out_total", ""] += record.tokens_out
