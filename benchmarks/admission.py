"""How many tasks a second are accepted, each 202 after its task is on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.figures import Report, command, median
from benchmarks.harness import Harness
from benchmarks.machine import core_wait_s
from benchmarks.servers import Server, daemon
from benchmarks.syncs import PlainSqlite, Syncs
from orchqueue.core.ids import PoolId, TaskId, Tenant
from orchqueue.core.records import Accepted
from orchqueue.core.request import TaskSpec

STORY = (
    "POST /v1/tasks a second with durable 202s, by concurrent connections; without a durable journal; and what SQLite alone "
    "commits in groups of the same size."
)
SLOTS = 8
PLAIN_GROUPS = 200
WORTH_TELLING_PERCENT = 10


class Taken(msgspec.Struct):
    """What one round of posts took."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    core_wait_percent: float
    syncs: float = 0.0
    plain_per_s: float = 0.0


class Bench:
    """Two daemons that differ in their journal only, and SQLite by itself beside them."""

    def __init__(self, engine: Harness, durable: Server, undurable: Server, syncs: Syncs, plain: PlainSqlite) -> None:
        self._engine = engine
        self._durable = durable
        self._undurable = undurable
        self._syncs = syncs
        self._plain = plain
        self._template = engine.template("task", "/v1/tasks", body())
        self._record = msgspec.json.encode(record())
        self.durable: dict[int, list[Taken]] = {}
        self.undurable: dict[int, list[Taken]] = {}

    def round(self, concurrency: int, total: int, *, durable_first: bool) -> None:
        """Post to both, in turn, and let SQLite alone commit as many at once as the durable one did."""
        for is_durable in (durable_first, not durable_first):
            if not is_durable:
                self.undurable.setdefault(concurrency, []).append(self._post(self._undurable, concurrency, total))
                continue
            before = self._syncs.count()
            taken = self._post(self._durable, concurrency, total)
            taken.syncs = (self._syncs.count() - before) / total
            groups = [max(1, round(1 / taken.syncs))] * PLAIN_GROUPS
            taken.plain_per_s = self._plain.rows_per_s(self._record, groups)
            self.durable.setdefault(concurrency, []).append(taken)

    def _post(self, server: Server, concurrency: int, total: int) -> Taken:
        cpu_before_s, wait_before_s = server.cpu_s(), core_wait_s(server.process.pid)
        said = self._engine.post(server.port, self._template, concurrency, total)
        elapsed_s = float(said["elapsed_s"])
        return Taken(
            per_s=total / elapsed_s,
            p50_ms=float(said["first_p50_ms"]),
            p99_ms=float(said["first_p99_ms"]),
            cpu_us=(server.cpu_s() - cpu_before_s) / total * 1e6,
            core_wait_percent=100 * (core_wait_s(server.process.pid) - wait_before_s) / elapsed_s,
        )


def body() -> dict[str, object]:
    """Build a task that waits: the slots are held by the first ones."""
    return {"prompt": "@00000000 why is the sky blue?", "max_tokens": 64, "priority": "batch"}


def record() -> Accepted:
    """Make the journal's record of such a task."""
    spec = TaskSpec(prompt=str(body()["prompt"]), max_tokens=64, priority="batch", seed=1)
    return Accepted(
        tenant=Tenant("default"),
        task_id=TaskId("0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"),
        spec=spec,
        pool_id=PoolId("bench"),
        strict=False,
        profile="v1",
        prompt_tokens=31,
        accepted_at_ms=1_764_000_000_000,
        correlation_id="0b9c6a3e57c14b0f9a6f0a4d9c1f8e11",
        model_ref="repo:bench/harness",
    )


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Bring everything up."""
    syncs, plain = Syncs(folder), PlainSqlite(folder / "plain.sqlite")
    try:
        with (
            Harness(folder) as engine,
            daemon(folder / "full", engine, slots=SLOTS, env=syncs.env) as durable,
            daemon(folder / "memory", engine, slots=SLOTS, durability="memory") as undurable,
        ):
            yield Bench(engine, durable, undurable, syncs, plain)
    finally:
        plain.close()


def measure(quick: bool) -> Report:
    """Alternate rounds over the two journals."""
    report = Report("admission", quick)
    rounds, sizes = (1, {1: 50, 64: 500}) if quick else (5, {1: 300, 8: 2_000, 64: 6_000, 256: 6_000})
    with tempfile.TemporaryDirectory() as name, bench(Path(name)) as running:
        for number in range(rounds):
            for concurrency, total in sizes.items():
                running.round(concurrency, total, durable_first=number % 2 == 0)
    for concurrency in sizes:
        durable, undurable = running.durable[concurrency], running.undurable[concurrency]
        for journal, found in (("durable", durable), ("in memory", undurable)):
            label = f"{journal}, {concurrency} at once"
            waited = median([taken.core_wait_percent for taken in found])
            note = f"ready without a core {waited:.0f} % of the time" if waited >= WORTH_TELLING_PERCENT else ""
            report.add(f"{label}: accepted a second", median([taken.per_s for taken in found]), "1/s", note)
            report.add(f"{label}: answer p50", median([taken.p50_ms for taken in found]), "ms")
            report.add(f"{label}: answer p99", median([taken.p99_ms for taken in found]), "ms")
            report.add(f"{label}: CPU a task", median([taken.cpu_us for taken in found]), "µs")
        label = f"durable, {concurrency} at once"
        pairs = list(zip(durable, undurable, strict=True))
        report.add(f"{label}: share of in memory", median([100 * d.per_s / u.per_s for d, u in pairs]), "%")
        # Neighbours on the core take time from both, and change neither's own.
        report.add(f"{label}: CPU of in memory", median([100 * u.cpu_us / d.cpu_us for d, u in pairs]), "% of it")
        report.add(f"{label}: syncs a task", median([taken.syncs for taken in durable]), "1")
        report.add(f"{label}: SQLite alone", median([taken.plain_per_s for taken in durable]), "rows/s")
        report.add(f"{label}: share of SQLite alone", median([100 * t.per_s / t.plain_per_s for t in durable]), "%")
    return report


if __name__ == "__main__":
    command("admission", STORY, measure)
