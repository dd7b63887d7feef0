"""What only the memory journal can do: play a crash, and be late by a seed."""

from collections.abc import Callable

import pytest

from orchqueue.adapters.journals.memory import MemoryDisk, MemoryJournal
from orchqueue.ports.errors import JournalError
from tests.conformance.journal.bed import accepted


class _Hand:
    """A schedule that runs when told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Callable[[], None]]] = []

    def __call__(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self.waiting.append((delay_ms, callback))

    def run(self) -> int:
        """Run the first and give its delay."""
        delay_ms, callback = self.waiting.pop(0)
        callback()
        return delay_ms


class _Told:
    def __init__(self) -> None:
        self.told: list[object] = []

    def committed(self, seq: int) -> None:
        self.told.append(seq)

    def stalled(self, reason: str) -> None:
        self.told.append(reason)

    def healed(self) -> None:
        self.told.append("healed")


@pytest.mark.req("ORCH-4013")
def test_a_commit_holds_what_was_queued_when_it_began() -> None:
    """What comes during a commit waits for the next one, and delays come from the caller."""
    hand, told, delays = _Hand(), _Told(), iter([3, 9])
    journal = MemoryJournal(hand, lambda: next(delays))
    journal.open(told)
    journal.append([accepted("a")])
    journal.append([accepted("b")])
    assert hand.run() == 3
    assert told.told == [1]
    assert hand.run() == 9
    assert told.told == [1, 2]
    assert hand.waiting == []


@pytest.mark.req("ORCH-4011")
def test_a_crash_keeps_what_was_committed_and_loses_the_rest() -> None:
    """After a crash the disk holds exactly what had been told, and the dead journal says no more."""
    hand, told, disk = _Hand(), _Told(), MemoryDisk()
    journal = MemoryJournal(hand, lambda: 1, disk)
    journal.open(told)
    journal.append([accepted("kept")])
    hand.run()
    journal.append([accepted("lost")])
    journal.crash()
    hand.run()
    assert told.told == [1]
    assert [task.accepted.task_id for task in MemoryJournal(hand, lambda: 1, disk).recover().unfinished()] == ["kept"]


@pytest.mark.req("ORCH-4013")
def test_closing_on_a_failing_disk_says_what_is_lost() -> None:
    """Records that cannot be committed at the end are an error, not a silence."""
    hand, told = _Hand(), _Told()
    journal = MemoryJournal(hand, lambda: 1)
    journal.open(told)
    journal.append([accepted("a"), accepted("b")])
    journal.fail("no space")
    hand.run()
    assert told.told == ["no space"]
    with pytest.raises(JournalError, match="2 records could not be committed: no space"):
        journal.close()
