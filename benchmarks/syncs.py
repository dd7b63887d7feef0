"""Counts how often a server waits for the disk, and finds what SQLite alone can commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.harness import compiled
from orchqueue.adapters.journals.sqlite_file import JournalFile

SOURCE = Path(__file__).with_name("syncs.c")
LIBRARY = Path(__file__).resolve().parent / "build" / "syncs.so"


class Syncs:
    """A counter of the syncs of whatever process gets `env`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "syncs"
        self._file.write_bytes(bytes(8))
        self._library = compiled(SOURCE, LIBRARY, "-O2", "-Wall", "-shared", "-fPIC", "-ldl")

    @property
    def env(self) -> Mapping[str, str]:
        """Give the environment that makes a process count."""
        return {"LD_PRELOAD": str(self._library), "SYNCS_FILE": str(self._file)}

    def count(self) -> int:
        """Tell how many syncs there were."""
        return int.from_bytes(self._file.read_bytes(), "little")


class PlainSqlite:
    """One connection to a file as the journal makes it, and nothing else: no threads, no server, no encoding."""

    def __init__(self, path: Path) -> None:
        made = JournalFile(str(path))
        made.open()
        made.drop()
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._number = 0

    def rows_per_s(self, record: bytes, groups: Sequence[int]) -> float:
        """Commit so many rows at once, group after group, each with its sync."""
        rows = []
        for size in groups:
            numbers = range(self._number, self._number + size)
            rows.append([(f"default/task-{number:08}", record) for number in numbers])
            self._number += size
        begun_s = perf_counter()
        for group in rows:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO tasks (key, accepted) VALUES (?, ?)", group)
            self._connection.execute("COMMIT")
        return sum(groups) / (perf_counter() - begun_s)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
