"""What was found so far, and what it comes to."""

from __future__ import annotations

from typing import Literal

import msgspec

from orchqueue.verify.comparison import Divergence, NotComparable, compare
from orchqueue.verify.snapshot import Snapshot
from orchqueue.verify.target import Target

Verdict = Literal["equal", "different", "incomplete"]
FAILURES_KEPT = 16


class ReplicaRuns(msgspec.Struct, frozen=True):
    """How much of what was compared came from one replica."""

    replica_id: str
    pool_id: str
    runs: int


class Report(msgspec.Struct, frozen=True):
    """What a verification comes to.

    Shape: `seeds_equal` ran on everything that is compared and gave one text; `seeds_missing` did not get that far. `compared` is
    `itself` where there was one replica only, which then ran every seed twice. `cuts_differ`: runs with equal text that came in
    other pieces.
    """

    verdict: Verdict
    compared: Literal["replicas", "itself"]
    determinism: Literal["strict", "best_effort"]
    engine: str
    engine_version: str
    model: str
    model_digest: str
    replicas: tuple[ReplicaRuns, ...]
    under: tuple[str, ...]
    seeds: int
    seeds_equal: int
    seeds_different: tuple[int, ...]
    seeds_missing: tuple[int, ...]
    max_tokens: int
    runs: int
    cuts_differ: int
    took_ms: int
    divergences: tuple[Divergence, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...]


class Findings:
    """The runs of one target, compared as they come in."""

    def __init__(self, target: Target, seeds: range) -> None:
        self.target = target
        self.seeds = seeds
        self.snapshots: dict[int, list[Snapshot]] = {seed: [] for seed in seeds}
        self.divergences: list[Divergence] = []
        self.failures: list[str] = []
        self.cuts_differ = 0
        self.runs = 0

    def add(self, snapshot: Snapshot) -> None:
        """Take a run in; what came from a replica that is not asked about counts for nothing."""
        self.runs += 1
        if self.target.replica_ids and snapshot.replica_id not in self.target.replica_ids:
            return
        earlier = self.snapshots.get(snapshot.seed)
        if earlier is None:
            self.fail(f"{snapshot.replica_id} used seed {snapshot.seed}, which nobody asked for")
        elif not earlier or self._is_comparable(earlier[0], snapshot):
            earlier.append(snapshot)

    def fail(self, failure: str) -> None:
        """Note that a task brought no text to compare."""
        if failure not in self.failures and len(self.failures) < FAILURES_KEPT:
            self.failures.append(failure)

    def lacks(self, seed: int, replica_id: str | None = None) -> bool:
        """Tell whether a seed has to run still, on this replica or at all."""
        runs = self.snapshots[seed]
        seen = {run.replica_id for run in runs}
        wanted = self.target.replica_ids
        if len(wanted) == 1:
            return len(runs) < 2
        if not wanted:
            return len(seen) < 2 and replica_id not in seen
        if replica_id is None:
            return not seen.issuperset(wanted)
        return replica_id in wanted and replica_id not in seen

    @property
    def wanted_runs(self) -> int:
        """Count the runs that are needed when each goes where it should."""
        return len(self.seeds) * max(2, len(self.target.replica_ids))

    @property
    def done_runs(self) -> int:
        """Count those of them that are done."""
        kinds = max(2, len(self.target.replica_ids))
        alone = len(self.target.replica_ids) == 1
        return sum(
            min(kinds, len(runs) if alone else len({run.replica_id for run in runs}))
            for runs in self.snapshots.values()
        )

    def by_replica(self) -> dict[str, int]:
        """Count the runs of each replica."""
        counts = dict.fromkeys(self.target.replica_ids, 0)
        for run in self.all_runs():
            counts[run.replica_id] = counts.get(run.replica_id, 0) + 1
        return counts

    def all_runs(self) -> list[Snapshot]:
        """List all runs by seed."""
        return [run for seed in self.seeds for run in self.snapshots[seed]]

    @property
    def seeds_different(self) -> tuple[int, ...]:
        """Name the seeds that gave two texts."""
        return tuple(sorted({one.seed for one in self.divergences}))

    def report(self, max_tokens: int, took_ms: int, under: tuple[str, ...], notes: tuple[str, ...] = ()) -> Report:
        """Sum up.

        Req: ORCH-4402
        """
        different = self.seeds_different
        missing = tuple(seed for seed in self.seeds if self.lacks(seed) and seed not in different)
        first = next(iter(self.all_runs()), None)
        pools = {run.replica_id: run.pool_id for run in self.all_runs()}
        counts = self.by_replica()
        return Report(
            verdict="different" if different else "incomplete" if missing or not self.seeds else "equal",
            compared="itself" if len(self.target.replica_ids) == 1 else "replicas",
            determinism="strict" if self.target.strict else "best_effort",
            engine=first.engine if first else "",
            engine_version=first.engine_version if first else "",
            model=self.target.model,
            model_digest=first.model_digest if first else "",
            replicas=tuple(ReplicaRuns(name, pools.get(name, ""), runs) for name, runs in sorted(counts.items())),
            under=under,
            seeds=len(self.seeds),
            seeds_equal=len(self.seeds) - len(different) - len(missing),
            seeds_different=different,
            seeds_missing=missing,
            max_tokens=max_tokens,
            runs=self.runs,
            cuts_differ=self.cuts_differ,
            took_ms=took_ms,
            divergences=tuple(self.divergences),
            failures=tuple(self.failures),
            notes=(*self.target.notes, *notes),
        )

    def _is_comparable(self, first: Snapshot, later: Snapshot) -> bool:
        try:
            found = compare(first, later)
        except NotComparable as error:
            self.fail(str(error))
            return False
        if found is not None:
            self.divergences.append(found)
        elif first.tokens != later.tokens:
            self.cuts_differ += 1
        return True
