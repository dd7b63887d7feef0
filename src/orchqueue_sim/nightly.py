"""Hours of seeds that nobody has run before: both levels in turn, on every core, until time is up or somebody stops it.

Req: ORCH-4344
"""

from __future__ import annotations

import argparse
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from datetime import UTC, date, datetime
from pathlib import Path
from time import monotonic

import msgspec

from orchqueue_sim import crowd, plan
from orchqueue_sim.campaign import REGRESSIONS, RUNS
from orchqueue_sim.level2 import plan as level2_plan
from orchqueue_sim.level2 import visitors
from orchqueue_sim.marks import expected

SEEDS_A_DAY = 10_000_000
BATCHES = {1: 100, 2: 20}
MINUTES = 60.0
TELL_EVERY_S = 60.0
NAMED_AT_MOST = 6
FAILURES = Path("sim-failures.txt")
WANTED = {
    1: expected(1, plan.FAULTS, crowd.DEEDS),
    2: expected(2, level2_plan.FAULTS, visitors.DEEDS),
}


class Batch(msgspec.Struct):
    """What some seeds of one level brought; a failure is a seed and the first line of what went wrong."""

    level: int
    runs: int
    failures: list[tuple[int, str]]
    marks: frozenset[str]


class Night(msgspec.Struct):
    """What a night has brought so far."""

    runs: Counter[int] = msgspec.field(default_factory=Counter)
    failures: list[tuple[int, int]] = msgspec.field(default_factory=list)
    marks: dict[int, frozenset[str]] = msgspec.field(default_factory=lambda: dict.fromkeys(RUNS, frozenset()))

    def story(self, took_s: float) -> str:
        """Tell in one line how far it has come."""
        parts = []
        for level, wanted in WANTED.items():
            missing = sorted(wanted - self.marks[level])
            named = f" (not yet: {', '.join(missing[:NAMED_AT_MOST])})" if missing else ""
            rate = self.runs[level] / max(0.001, took_s) * 60
            reached = f"{len(wanted) - len(missing)} of {len(wanted)} marks{named}"
            parts.append(f"level {level}: {self.runs[level]} seeds, {rate:.0f} a minute, {reached}")
        return f"{took_s / 60:.0f} min; {'; '.join(parts)}; failed: {len(self.failures)}"


def first_seed(day: date) -> int:
    """Give every day ten million seeds of its own.

    >>> first_seed(date(2026, 1, 1)) - first_seed(date(2025, 12, 31))
    10000000
    """
    return day.toordinal() * SEEDS_A_DAY


def run_batch(level: int, seeds: range) -> Batch:
    """Run some seeds of a level."""
    reports = [RUNS[level](seed, None, None) for seed in seeds]
    failures = [(report.plan.seed, " ".join(report.problem.split()[:40])) for report in reports if report.problem]
    return Batch(level, len(reports), failures, frozenset().union(*(report.marks for report in reports)))


Work = Callable[[int, range], Batch]


def nightly(
    first: int, minutes: float, processes: int, failures: Path = FAILURES, work: Work = run_batch,
    clock: Callable[[], float] = monotonic,
) -> int:  # fmt: skip
    """Run seeds from `first` until the time is up or Ctrl-C; append those that fail to a file.

    Shape: the exit status, 1 when some promise was broken.
    """
    began_s = told_s = clock()
    night = Night()
    print(f"seeds from {first} for {minutes:g} minutes on {processes} processes; Ctrl-C ends it with a summary")
    try:
        for batch in _batches(first, processes, lambda: clock() - began_s < minutes * 60, work):
            _take(night, batch, failures)
            if clock() - told_s >= TELL_EVERY_S:
                told_s = clock()
                print(night.story(told_s - began_s), flush=True)
    except KeyboardInterrupt:
        print("stopped by hand")
    print(night.story(clock() - began_s))
    if night.failures:
        print(f"{len(night.failures)} seeds broke a promise; the commands that repeat them stand in {failures}")
        for level in sorted({level for level, _ in night.failures}):
            print(f"keep one of level {level} for ever: a line `SEED what it found` in {REGRESSIONS[level]}")
    return 1 if night.failures else 0


def _take(night: Night, batch: Batch, failures: Path) -> None:
    night.runs[batch.level] += batch.runs
    night.marks[batch.level] |= batch.marks
    for seed, problem in batch.failures:
        night.failures.append((batch.level, seed))
        command = f"make sim-replay LEVEL={batch.level} SEED={seed}"
        print(f"{command}  # {problem}", flush=True)
        with failures.open("a", encoding="utf-8") as file:
            file.write(f"{command}  # {problem}\n")


def _todo(first: int) -> Iterator[tuple[int, range]]:
    """Alternate the levels for ever."""
    done = dict.fromkeys(BATCHES, 0)
    while True:
        for level, count in BATCHES.items():
            begin = first + done[level]
            done[level] += count
            yield level, range(begin, begin + count)


def _batches(first: int, processes: int, goes_on: Callable[[], bool], work: Work) -> Iterator[Batch]:
    todo = _todo(first)
    if processes <= 1:
        while goes_on():
            yield work(*next(todo))
        return
    # A Ctrl-C reaches every process of the terminal; only this one may hear it.
    with ProcessPoolExecutor(processes, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        flying: set[Future[Batch]] = {pool.submit(work, *next(todo)) for _ in range(processes)}
        try:
            while flying:
                ready, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
                    if goes_on():
                        flying.add(pool.submit(work, *next(todo)))
        finally:
            pool.shutdown(cancel_futures=True)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `nightly` to the command line of `orchq-sim`."""
    night = commands.add_parser("nightly", help="simulate for hours, both levels in turn")
    night.add_argument("--minutes", type=float, default=MINUTES)
    night.add_argument("--hours", type=float, default=None, help="instead of minutes")
    night.add_argument("--start", type=int, default=None, help="the first seed; default: one of today's")
    night.add_argument("--processes", type=int, default=None, help="default: one for each core")
    night.add_argument("--failures", type=Path, default=FAILURES, help="where failing seeds are appended")
    night.set_defaults(act=_act)


def _act(args: argparse.Namespace) -> int:
    # Whoever ends the job from outside gets the summary as well; a shell in the background ignores Ctrl-C otherwise.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    first = first_seed(datetime.now(UTC).date()) if args.start is None else args.start
    minutes = args.minutes if args.hours is None else args.hours * 60
    return nightly(first, minutes, args.processes or os.cpu_count() or 1, args.failures)
