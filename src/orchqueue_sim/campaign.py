"""Many runs, or one told in full: what `make sim` and `make sim-replay` do."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import repeat
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import msgspec

from orchqueue_sim.level2 import mutants as level2_mutants
from orchqueue_sim.level2 import world as level2
from orchqueue_sim.level2.plan import draw as draw_level2
from orchqueue_sim.marks import Trace
from orchqueue_sim.mutants import BED
from orchqueue_sim.plan import draw
from orchqueue_sim.timeline import Timeline
from orchqueue_sim.world import Report, run

SHOWN_AT_MOST = 5
CHUNK = 25
TELL_EVERY_S = 20.0
REGRESSIONS = {1: Path("tests/simulation/regressions.txt"), 2: Path("tests/simulation/level2/regressions.txt")}
BEDS = {1: BED, 2: level2_mutants.BED}
Faults: TypeAlias = frozenset[str] | None


def play_core(seed: int, trace: Trace | None, faults: Faults) -> Report:
    """Run a seed of level 1; `faults` replaces those that it would draw."""
    return run(seed, trace, draw(seed, faults))


def play_daemon(seed: int, trace: Trace | None, faults: Faults) -> Report:
    """Run a seed of level 2; `faults` replaces those that it would draw."""
    return level2.run(seed, trace, draw_level2(seed, faults))


RUNS: dict[int, Callable[[int, Trace | None, Faults], Report]] = {1: play_core, 2: play_daemon}


class Tally(msgspec.Struct):
    """What a campaign found."""

    runs: int = 0
    failed: list[Report] = msgspec.field(default_factory=list)
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    refused: int = 0
    lives: int = 0
    virtual_ms: int = 0

    def add(self, report: Report) -> None:
        """Count one run."""
        self.runs += 1
        self.outcomes.update(report.outcomes)
        self.refused += report.refused
        self.lives += report.lives
        self.virtual_ms += report.virtual_ms
        if report.problem:
            self.failed.append(report)


def run_all(seeds: Iterable[int], processes: int = 1, level: int = 1, faults: Faults = None) -> Iterator[Report]:
    """Run every seed, in order, on as many processes as given."""
    if processes <= 1:
        yield from (RUNS[level](seed, None, faults) for seed in seeds)
        return
    # A Ctrl-C reaches every process of the terminal; only this one may hear it.
    with ProcessPoolExecutor(processes, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(RUNS[level], seeds, repeat(None), repeat(faults), chunksize=CHUNK)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def campaign(
    first: int, count: int, processes: int | None = None, level: int = 1, faults: Faults = None,
    clock: Callable[[], float] = monotonic,
) -> int:  # fmt: skip
    """Run `count` seeds from `first` and tell what was found; a long one tells how far it is.

    Shape: the exit status, 1 when some promise was broken.
    """
    began = told = clock()
    tally = Tally()
    for report in run_all(range(first, first + count), processes or os.cpu_count() or 1, level, faults):
        tally.add(report)
        if report.problem and len(tally.failed) <= SHOWN_AT_MOST:
            print(f"{report.text}\n", flush=True)
        if clock() - told >= TELL_EVERY_S:
            told = clock()
            rate = tally.runs / (told - began) * 60
            print(f"{tally.runs} of {count} seeds, {rate:.0f} a minute, failed: {len(tally.failed)}", flush=True)
    took_s = max(0.001, clock() - began)
    ended = ", ".join(f"{name} {n}" for name, n in tally.outcomes.most_common())
    print(f"ends told: {ended or 'none'}; requests refused: {tally.refused}; daemon lives: {tally.lives}")
    print(
        f"{tally.runs - len(tally.failed)} of {tally.runs} seeds kept every promise "
        f"({tally.runs / took_s * 60:.0f} seeds a minute, {tally.virtual_ms / 3_600_000:.0f} virtual hours)"
    )
    if tally.failed:
        print(f"failing seeds: {' '.join(str(r.plan.seed) for r in tally.failed)}; keep them in {REGRESSIONS[level]}")
    return 1 if tally.failed else 0


def replay(seed: int, only: str = "", level: int = 1, faults: Faults = None) -> int:
    """Repeat one seed and print what happened.

    Shape: the exit status, 1 when a promise was broken.
    """
    plan = draw(seed, faults) if level == 1 else draw_level2(seed, faults)
    print(f"seed {seed}: {plan.story}")
    timeline = Timeline(only)
    report = RUNS[level](seed, timeline.note, faults)
    with suppress(BrokenPipeError):  # Whoever reads with `head` has seen enough.
        sys.stdout.writelines(f"{line}\n" for line in timeline.lines)
        print(report.text if report.problem else f"seed {seed} kept every promise in {report.steps} steps", flush=True)
    return 1 if report.problem else 0


def kept_seeds(path: Path = REGRESSIONS[1]) -> list[int]:
    """Read the seeds that failed once; a line is a seed, the rest of it says what it found.

    Req: ORCH-4239
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `run` and `replay` to the command line of `orchq-sim`."""
    many = commands.add_parser("run", help="simulate whole runs with faults and audit each")
    many.add_argument("--seeds", type=_at_least_one, default=200, help="how many runs")
    many.add_argument("--start", type=int, default=0, help="the first seed")
    many.add_argument("--processes", type=int, default=None, help="default: one for each core")
    many.set_defaults(act=_run)
    one = commands.add_parser("replay", help="repeat one run and tell its story")
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--only", default="", help="tell only what mentions this, for example a task id")
    one.set_defaults(act=_replay)
    for command in (many, one):
        command.add_argument("--level", type=int, choices=sorted(RUNS), default=1, help="2: the whole daemon over HTTP")
        names = sorted({name for bed in BEDS.values() for name in bed.mutants})
        told = f"plant this bug of the level and see it caught; there are {', '.join(names)}"
        command.add_argument("--mutant", metavar="BUG", choices=names, help=told)


def _at_least_one(text: str) -> int:
    # Of no seeds it could only be said that they all kept every promise.
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    plant, faults = _planted(args)
    with plant:
        return campaign(args.start, args.seeds, 1 if args.mutant else args.processes, args.level, faults)


def _replay(args: argparse.Namespace) -> int:
    plant, faults = _planted(args)
    with plant:
        return replay(args.seed, args.only, args.level, faults)


def _planted(args: argparse.Namespace) -> tuple[AbstractContextManager[object], Faults]:
    """Find the bug that was asked for, and the faults of the runs that look for it."""
    bed, name = BEDS[args.level], args.mutant
    if name is None:
        return nullcontext(), None
    if name not in bed.mutants:
        sys.exit(f"{name} is no mutant of level {args.level}; there are: {', '.join(sorted(bed.mutants))}")
    return bed.mutants[name](), bed.focus.get(name)
