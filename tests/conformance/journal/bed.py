"""What the conformance suite needs of a journal: one to work on, a way to make its disk fail, and restarts."""

import asyncio
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from orchqueue.adapters.journals.memory import MemoryDisk, MemoryJournal
from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_file import Durability
from orchqueue.core.ids import PoolId, ReplicaId, TaskId, Tenant
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Booking, Bound, Ended, Followed, Forgotten, Spoken
from orchqueue.core.request import TaskSpec
from orchqueue.ports.journal import Journal
from orchqueue_sim.disk import Disk
from orchqueue_sim.level2.journal import SimulatedJournal, Trouble
from orchqueue_sim.marks import Chronicle
from tests.waiting import until_async

TENANT = Tenant("acme")


def accepted(name: str, prompt: str = "hello") -> Accepted:
    """Make an acceptance of a task called `name`."""
    spec = TaskSpec(prompt=prompt, seed=7)
    return Accepted(TENANT, TaskId(name), spec, PoolId("p"), True, "v1", 2, 1000)


def bound(name: str) -> Bound:
    """Make a start."""
    return Bound(TENANT, TaskId(name), ReplicaId("p-0"), 1)


def spoken(name: str, at_bytes: int, text: str, tokens_out: int = 1) -> Spoken:
    """Make a piece of a running task's text."""
    return Spoken(TENANT, TaskId(name), at_bytes, text, tokens_out)


def followed(name: str) -> Followed:
    """Make a reader."""
    return Followed(TENANT, TaskId(name))


def ended(name: str, text: str = "an answer") -> Ended:
    """Make an end."""
    return Ended(TENANT, TaskId(name), Outcome.COMPLETED, 2000, 3000, tokens_out=2, text=text)


def forgotten(name: str, *booked: Booking, dropped_days: tuple[int, ...] = (), since_ms: int = 0) -> Forgotten:
    """Make a forgetting, with what is booked for it."""
    return Forgotten(TENANT, TaskId(name), booked, dropped_days, since_ms)


class Watcher:
    """Remembers what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[str | int] = []
        self.reasons: list[str] = []

    @property
    def seq(self) -> int:
        """Give the highest number that was told to be durable."""
        return max((entry for entry in self.told if isinstance(entry, int)), default=0)

    def committed(self, seq: int) -> None:
        asyncio.get_running_loop()
        self.told.append(seq)

    def stalled(self, reason: str) -> None:
        asyncio.get_running_loop()
        assert reason
        self.reasons.append(reason)
        self.told.append("stalled")

    def healed(self) -> None:
        asyncio.get_running_loop()
        self.told.append("healed")

    async def reach(self, seq: int) -> None:
        """Wait until record `seq` is durable."""
        await until_async(lambda: self.seq >= seq, what=f"commit of {seq}, told so far: {self.told[-5:]}")


class Bed(Protocol):
    """One journal's world."""

    def journal(self) -> Journal:
        """Make a journal over the same storage as before."""
        ...

    def break_disk(self) -> None:
        """Let commits fail."""
        ...

    def mend_disk(self) -> None:
        """Let commits succeed."""
        ...


class MemoryBed:
    """The memory journal."""

    def __init__(self, _: Path) -> None:
        self._disk = MemoryDisk()
        self._random = random.Random(4)
        self._journal: MemoryJournal | None = None

    def journal(self) -> Journal:
        loop = asyncio.get_running_loop()

        def schedule(delay_ms: int, callback: Callable[[], None]) -> None:
            loop.call_later(delay_ms / 1000, callback)

        self._journal = MemoryJournal(schedule, lambda: self._random.randint(0, 4), self._disk)
        return self._journal

    def break_disk(self) -> None:
        assert self._journal is not None
        self._journal.fail("the disk is full")

    def mend_disk(self) -> None:
        assert self._journal is not None
        self._journal.heal()


class SqliteBed:
    """The SQLite journal over a connection whose commits can be made to fail."""

    durability: Durability = "full"

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / "journal.sqlite")
        self._broken = False

    def journal(self) -> Journal:
        return SqliteJournal(
            self._path, asyncio.get_running_loop().call_soon_threadsafe, self._connect, self.durability
        )

    def break_disk(self) -> None:
        self._broken = True

    def mend_disk(self) -> None:
        self._broken = False

    def _connect(self, path: str) -> sqlite3.Connection:
        # Without cached statements each COMMIT is judged anew.
        connection = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=0
        )
        connection.set_authorizer(self._judge)
        return connection

    def _judge(self, action: int, argument: str | None, *_: object) -> int:
        """Refuse the word COMMIT while the disk is broken."""
        refused = self._broken and action == sqlite3.SQLITE_TRANSACTION and argument == "COMMIT"
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


class RelaxedBed(SqliteBed):
    """The SQLite journal that syncs a moment later."""

    durability: Durability = "relaxed"


class SimulatedBed:
    """The journal that the simulator gives to the runtime."""

    def __init__(self, _: Path) -> None:
        self._disk = Disk()
        self._trouble = Trouble()
        self._random = random.Random(4)

    def journal(self) -> Journal:
        return SimulatedJournal(self._disk, self._trouble, self._random, 4, Chronicle(lambda: 0))

    def break_disk(self) -> None:
        self._trouble.fault, self._trouble.reason = "full_disk", "the disk is full"

    def mend_disk(self) -> None:
        self._trouble.reason = ""
