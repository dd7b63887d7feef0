"""A simulated journal: group commits that come late, fail for a while, and keep only what was committed.

Req: ORCH-4340
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from orchqueue.adapters.journals.usage_rows import UsageRows
from orchqueue.core.ids import TaskKey, task_key
from orchqueue.core.records import Accepted, AnyRecord, Bound, Ended, Followed, Forgotten, Spoken
from orchqueue.ports.journal import Unfinished
from orchqueue_sim.agenda import Agenda
from orchqueue_sim.marks import Chronicle

HARDLY_MS = 3


class Disk:
    """What survives a crash: the committed records, in order."""

    def __init__(self) -> None:
        self.accepted: dict[TaskKey, Accepted] = {}
        self.ended: dict[TaskKey, Ended] = {}
        self.bound: dict[TaskKey, Bound] = {}
        self.texts: dict[TaskKey, bytearray] = {}
        self.spoken_tokens: dict[TaskKey, int] = {}
        self.followed: set[TaskKey] = set()
        self.ever_accepted: set[TaskKey] = set()
        self.ever_ended: dict[TaskKey, str] = {}
        self.usage = UsageRows()

    def commit(self, records: list[AnyRecord]) -> None:
        """Make records durable."""
        for record in records:
            key = task_key(record.tenant, record.task_id)
            match record:
                case Accepted():
                    self.accepted[key] = record
                    self.ever_accepted.add(key)
                    self.texts[key] = bytearray()
                    self.spoken_tokens.pop(key, None)
                    self.followed.discard(key)
                    self.bound.pop(key, None)
                case Bound():
                    self.bound[key] = record
                case Spoken():
                    if key in self.texts:
                        self.texts[key][record.at_bytes :] = record.text.encode()
                        self.spoken_tokens[key] = record.tokens_out
                case Followed():
                    self.followed.add(key)
                case Ended():
                    self.ended[key] = record
                    self.texts.pop(key, None)
                    self.ever_ended[key] = record.text
                case Forgotten():
                    self.accepted.pop(key, None)
                    self.ended.pop(key, None)
                    self.bound.pop(key, None)
                    self.texts.pop(key, None)
                    self.usage.apply(record)

    def unfinished(self) -> list[Unfinished]:
        """List accepted tasks without an end, in order of acceptance."""
        left = [(k, a) for k, a in self.accepted.items() if k not in self.ended]
        return [self._unfinished(key, accepted) for key, accepted in left]

    def _unfinished(self, key: TaskKey, accepted: Accepted) -> Unfinished:
        text, tokens_out = self.texts[key].decode(), self.spoken_tokens.get(key, 0)
        return Unfinished(accepted, self.bound.get(key), text, tokens_out, key in self.followed)

    def finished(self) -> list[tuple[Accepted, Ended]]:
        """List ended tasks that are still kept, oldest first."""
        return [(self.accepted[k], e) for k, e in self.ended.items() if k in self.accepted]


class Writer:
    """One daemon life's access to the disk.

    `trouble` tells what ails the disk now, empty when nothing does. `doom` names the crash that is due, given how many
    records a commit has in flight; `on_doom` lets the daemon die of it.
    """

    def __init__(self, disk: Disk, agenda: Agenda, rng: Random, delay_ms: int, chronicle: Chronicle) -> None:
        self._disk, self._agenda, self._rng = disk, agenda, rng
        self._delay_ms, self._chronicle = delay_ms, chronicle
        self.trouble: Callable[[], tuple[str, str]] = lambda: ("", "")
        self.doom: Callable[[int], str] = lambda _records: ""
        self.on_doom: Callable[[str], None] = lambda _fault: None
        self._queued: list[AnyRecord] = []
        self._flying: list[AnyRecord] = []
        self._closed = False
        self.committed = 0
        self.appended = 0
        self.on_committed: Callable[[], None] = lambda: None
        self.on_stalled: Callable[[str], None] = lambda _reason: None
        self.on_healed: Callable[[], None] = lambda: None
        self._stalled = False

    @property
    def stalled(self) -> bool:
        """Tell whether commits fail now."""
        return self._stalled

    def append(self, record: AnyRecord) -> None:
        """Queue a record for the next commit."""
        self.appended += 1
        self._queued.append(record)
        if not self._flying:
            self._fly()

    def _fly(self) -> None:
        self._flying, self._queued = self._queued, []
        delay_ms = self._rng.randint(0, self._delay_ms)
        if delay_ms > HARDLY_MS:
            self._chronicle.struck("slow_disk", f"a commit of {len(self._flying)} records takes {delay_ms} ms")
        self._agenda.after(delay_ms, self._land)

    def _land(self) -> None:
        if self._closed:
            return
        fault, reason = self.trouble()
        if fault:
            self._chronicle.struck(fault, reason)
            self._stalled = True
            self.on_stalled(reason)
            self._agenda.after(self._rng.randint(5, 100), self._land)
            return
        doom = self.doom(len(self._flying))
        if doom:
            self._die(doom)
            return
        self._disk.commit(self._flying)
        self.committed += len(self._flying)
        self._flying = []
        if self._stalled:
            self._stalled = False
            self.on_healed()
        self.on_committed()
        if self._queued and not self._flying:
            self._fly()

    def _die(self, doom: str) -> None:
        """Crash just before the commit, just after it, or when a part of it has reached the disk."""
        last = len(self._flying) - 1
        kept = {"crash_before_commit": 0, "torn_tail": self._rng.randint(1, max(1, last))}.get(doom, last + 1)
        self._chronicle.struck(doom, f"{kept} of {last + 1} records in flight reach the disk")
        self._closed = True
        self._disk.commit(self._flying[:kept])
        self.on_doom(doom)

    def crash(self) -> None:
        """Lose what was not committed; a commit in flight may have reached the disk without anybody knowing."""
        if self._closed:
            return
        self._closed = True
        if self._rng.random() < 0.5:
            self._disk.commit(self._flying)

    def close(self) -> None:
        """Commit everything and stop."""
        self._closed = True
        self._disk.commit(self._flying + self._queued)
