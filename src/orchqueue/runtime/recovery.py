"""Takes over what the journal holds, a little at a time, so that probes are answered meanwhile.

Req: ORCH-4011, ORCH-4377
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from orchqueue.core.events import TaskRecovered, TaskRestored, UsageBooked
from orchqueue.core.records import Accepted, Ended
from orchqueue.ports.clock import Clock
from orchqueue.ports.journal import Journal, Unfinished
from orchqueue.ports.telemetry import LogValue, Telemetry
from orchqueue.runtime.loop import Loop
from orchqueue.runtime.streams import Streams

TASKS_A_TURN = 64
TOLD_EVERY_MS = 1_000

T = TypeVar("T")


class Progress:
    """How far recovery has come, for those who are told to wait. `pending` is empty once everything is there."""

    def __init__(self) -> None:
        self.pending = "recovering: the journal is being read"

    def reach(self, done: int, total: int) -> None:
        """Note how many tasks are there."""
        self.pending = f"recovering {done} of {total} tasks"

    def finish(self) -> None:
        """Note that all are."""
        self.pending = ""


class _Held(msgspec.Struct):
    booked: UsageBooked
    finished: list[tuple[Accepted, Ended]]
    unfinished: list[Unfinished]


class Recovery:
    """One start's recovery."""

    def __init__(self, journal: Journal, loop: Loop, streams: Streams, telemetry: Telemetry, clock: Clock) -> None:
        self.progress = Progress()
        self._journal, self._loop, self._streams = journal, loop, streams
        self._telemetry, self._clock = telemetry, clock
        self._abandoned = threading.Event()
        self._told_at_ms = 0

    def abandon(self) -> None:
        """Stop soon: what was not taken over stays in the journal."""
        self._abandoned.set()

    async def run(self) -> bool:
        """Read everything, open the journal, then hand task after task to the core, ended ones first.

        Shape: False where it was abandoned.
        Errors: JournalError.
        Cost: the loop turns every TASKS_A_TURN tasks, and while a thread reads.
        """
        held = await asyncio.to_thread(self._read)
        if self._abandoned.is_set():
            return False
        self._journal.open(self._loop)
        self._loop.deliver(held.booked)
        total, done = len(held.finished) + len(held.unfinished), 0
        for events in (self._restored(held), self._recovered(held)):
            for event in events:
                if done % TASKS_A_TURN == 0:
                    self._tell(done, total)
                    await asyncio.sleep(0)
                    if self._abandoned.is_set():
                        return False
                self._loop.deliver(event)
                done += 1
        self.progress.finish()
        counts: dict[str, LogValue] = {"waiting_tasks": len(held.unfinished), "ended_tasks": len(held.finished)}
        self._telemetry.log("info", "journal_recovered", counts)
        return True

    def _read(self) -> _Held:
        recovered = self._journal.recover()
        booked = UsageBooked(recovered.usage_since_ms(), tuple(recovered.usage()))
        return _Held(
            booked, self._unless_abandoned(recovered.finished()), self._unless_abandoned(recovered.unfinished())
        )

    def _unless_abandoned(self, found: Iterable[T]) -> list[T]:
        kept: list[T] = []
        for one in found:
            if self._abandoned.is_set():
                break
            kept.append(one)
        return kept

    def _restored(self, held: _Held) -> Iterable[TaskRestored]:
        for accepted, ended in held.finished:
            self._streams.restore(accepted, ended)
            yield TaskRestored(accepted, ended)

    def _recovered(self, held: _Held) -> Iterable[TaskRecovered]:
        for task in held.unfinished:
            if task.text and task.bound is not None:
                self._streams.resume(task.accepted, task.bound, task.text)
            yield TaskRecovered(task.accepted, task.bound, task.text, task.tokens_out, task.followed)

    def _tell(self, done: int, total: int) -> None:
        self.progress.reach(done, total)
        now_ms = self._clock.now_ms()
        if now_ms - self._told_at_ms >= TOLD_EVERY_MS:
            self._told_at_ms = now_ms
            self._telemetry.log("info", "recovering", {"tasks_done": done, "tasks_total": total})
