"""Power is cut in the middle of writing, again and again: what the disk had not synced is lost, torn or out of order."""

import asyncio
import random
from pathlib import Path

import pytest

from orchqueue.adapters.journals.sqlite import SqliteJournal
from orchqueue.adapters.journals.sqlite_file import Durability
from tests.conformance.journal.bed import Watcher, accepted, ended, forgotten
from tests.conformance.journal.forgetful_disk import ForgetfulDisk
from tests.conformance.journal.watched_disk import WatchedDisk

pytestmark = pytest.mark.req("ORCH-4372", "ORCH-4013")

TASKS = 150
CUTS = 40


class Cuts:
    """Cuts power at random moments, and knows what had been told, and what had been synced with the file, by then."""

    def __init__(self, seed: int, directory: Path, disk: WatchedDisk) -> None:
        self.moments: list[tuple[Path, int, int]] = []
        self.told = self.synced = 0
        self._random, self._directory, self._disk = random.Random(seed), directory, disk
        self._memory = disk.memory = ForgetfulDisk(seed)
        disk.before_each = self._perhaps

    def _perhaps(self) -> None:
        if self._disk.seen[-1:] == ["sync file"]:
            self.synced = self.told
        if len(self.moments) < CUTS and self.told and self._random.random() < 0.08:
            path = self._directory / f"cut-{len(self.moments)}" / "j"
            self._memory.lose_power(path)
            self.moments.append((path, self.told, self.synced))


async def _write_under_cuts(path: Path, disk: WatchedDisk, cuts: Cuts, durability: Durability) -> None:
    """Accept tasks one after the other; every third ends, and every ninth is forgotten."""
    loop = asyncio.get_running_loop()
    journal = SqliteJournal(str(path), loop.call_soon_threadsafe, disk.connect, durability)
    watcher = Watcher()
    journal.recover()
    journal.open(watcher)
    for number in range(TASKS):
        name = f"{number:04d}"
        records = [accepted(name, "p" * (number * 37 % 9000))]
        if number % 3 == 0:
            records = [*records, ended(name)]  # type: ignore[list-item]
        if number % 9 == 0:
            records = [*records, forgotten(name)]  # type: ignore[list-item]
        await watcher.reach(journal.append(records))
        cuts.told = number + 1
    disk.before_each = lambda: None
    journal.close()


def _left(path: Path) -> list[str]:
    """Open what a power cut left, and name the tasks that are there, in order of acceptance."""
    journal = SqliteJournal(str(path), lambda _: None)
    recovered = journal.recover()
    found = [task.accepted.task_id for task in recovered.unfinished()]
    found += [task.task_id for task, _ in recovered.finished()]
    journal.close()
    return sorted(found)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("durability", ["full", "relaxed"])
async def test_what_was_told_is_there_after_a_power_cut_as_far_as_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, seed: int
) -> None:
    """With full all of it is, with relaxed the latest may be missing, and with both there is no damage and no gap."""
    monkeypatch.setattr("orchqueue.adapters.journals.sqlite.WAL_BYTES", 60_000)
    disk = WatchedDisk()
    disk.install()
    cuts = Cuts(seed, tmp_path, disk)
    await _write_under_cuts(tmp_path / "j", disk, cuts, durability)
    disk.remove()
    missing = 0
    for path, told, synced in cuts.moments:
        found = _left(path)
        survived = int(found[-1]) + 1 if found else 0
        assert found == [f"{number:04d}" for number in range(survived) if number % 9], f"a gap in {path}"
        promised = told if durability == "full" else synced
        last = max((number for number in range(promised) if number % 9), default=-1)
        assert survived >= last + 1, f"{path}: {survived} of {promised} tasks are there"
        missing += survived < told - 1
    assert len(cuts.moments) == CUTS
    assert bool(missing) == (durability == "relaxed"), "the cuts are too mild to show a difference"
