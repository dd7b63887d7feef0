"""Run the stages of `make test` in their order, stop at the first red one, and close with one total.

`python -m tools.stages` runs all but those apart; `python -m tools.stages NAME…` only those named; `--list` names them; `--keep-going`
does not stop. The stages marked as such run on a GPU host where `--gpu` says so: `elsewhere` leaves them out here, `only`
runs nothing else there. The last line is always `N passed, M failed`, where a broken check of the precommit stage counts
as one failed; the exit status is 0 only when something ran and nothing failed.

A stage apart wants a real engine that `make setup` does not install; named without it, it is red and says what to run.

Req: ORCH-4047, ORCH-4434
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from tools import check

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: a name and the test folders, or single files, that it runs.

    `without`: folders inside them that belong to another stage. `covered`: source folders of which these tests must reach
    every line and branch. `gpu`: it is worth more where there is a GPU, and may be moved there. `apart`: the module whose `--check`
    tells whether what the stage wants was built; it is no part of `make test`, and runs where it is named.
    """

    name: str
    folders: tuple[str, ...] = ()
    doctests: tuple[str, ...] = ()
    gpu: bool = False
    without: tuple[str, ...] = ()
    covered: tuple[str, ...] = ()
    apart: str = ""


DOCTESTS = (
    "tools",
    *(f"src/orchqueue/{part}" for part in ("core", "runtime", "http", "config", "client", "stub", "verify")),
)
STAGES = (
    Stage("precommit"),
    Stage("tidy", ("tests/tidy",)),
    Stage("coverage", ("tests/unit/core",), covered=("src/orchqueue/core",)),
    Stage("unit", ("tests/unit",), DOCTESTS, without=("tests/unit/core",)),
    Stage("openapi", ("tests/contract/openapi",)),
    Stage("consumer", ("tests/contract/consumer",)),
    Stage("stub", ("tests/contract/stub",)),
    Stage("provider", ("tests/contract/provider",)),
    Stage("fuzz", ("tests/contract/fuzz",)),
    Stage("edge", ("tests/contract/edge",)),
    Stage("conformance", ("tests/conformance",)),
    Stage("properties", ("tests/properties",)),
    Stage("simulation", ("tests/simulation",)),
    Stage("metrics", ("tests/metrics",)),
    Stage("drift", ("tests/contract/test_planted_drift.py",)),
    Stage("e2e", ("tests/e2e",)),
    Stage("chaos", ("tests/chaos",)),
    Stage("determinism", ("tests/determinism",), gpu=True),
    Stage("haiku", ("tests/haiku",), gpu=True),
    Stage("docs", ("tests/docs",)),
    Stage("vllm", ("tests/engines/vllm",), apart="tools.engine_vllm"),
    Stage("triton", ("tests/engines/triton",), apart="tools.triton_install"),
)

SLOWEST = ("--durations=5", "--durations-min=5")
"""Each stage names its slowest tests, so that the suite's time can be seen where it is spent."""


@dataclass(frozen=True)
class Tally:
    """What a run counted."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Sum two runs."""
        return Tally(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def closing_line(self) -> str:
        """Format the total.

        >>> Tally(3, 1).closing_line()
        '3 passed, 1 failed'
        """
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def read_tally(report: Path) -> Tally:
    """Count the cases of a JUnit report; an absent or broken report counts as one failed."""
    try:
        cases = list(ET.parse(report).getroot().iter("testcase"))
    except (OSError, ET.ParseError):
        return Tally(failed=1)
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Tally(len({id(case) for case in cases}) - failed - skipped, failed, skipped)


@dataclass(frozen=True)
class StageRun:
    """How one stage went."""

    stage: Stage
    tally: Tally
    seconds: float

    def line(self) -> str:
        """Format the stage's line of the summary.

        >>> StageRun(Stage("consumer"), Tally(61, 1), 20.6).line()
        'RED    consumer      61 passed, 1 failed (21 s)'
        """
        verdict = "RED" if self.tally.failed else "green"
        counted = "the static checks" if self.tally == Tally() else self.tally.closing_line()
        return f"{verdict:6} {self.stage.name:13} {counted} ({self.seconds:.0f} s)"


def run_pytest(stage: Stage, root: Path) -> Tally:
    """Run one stage in a process of its own; a run that ends badly without a failed test counts as one failed.

    So does one that leaves a line or a branch unreached of what it has to cover.

    Req: ORCH-4390
    """
    with tempfile.TemporaryDirectory() as scratch:
        report, data = Path(scratch) / "report.xml", Path(scratch) / "coverage"
        traced = _coverage("run", data, f"--source={','.join(stage.covered)}") if stage.covered else [sys.executable]
        doctests = ["--doctest-modules"] if stage.doctests else []
        places = [*(f"--ignore={folder}" for folder in stage.without), *stage.folders, *stage.doctests]
        command = [*traced, "-m", "pytest", "-q", *SLOWEST, f"--junitxml={report}", *doctests, *places]
        status = subprocess.run(command, cwd=root, env=_environment(root), check=False).returncode
        tally = read_tally(report)
        if stage.covered and status == 0:
            status = subprocess.run(_coverage("report", data), cwd=root, check=False).returncode
    if status != 0 and tally.failed == 0:
        return tally + Tally(failed=1)
    return tally


def _environment(root: Path) -> dict[str, str]:
    """Have compiled modules kept, out of the tree: the tests start hundreds of daemons, and compiling is half of a start."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(root / ".venv" / "pycache")}


def _coverage(verb: str, data: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "coverage", verb, f"--data-file={data}", *options]


def run_stage(stage: Stage, root: Path) -> StageRun:
    """Run one stage, announcing it."""
    print(f"== {stage.name}", flush=True)
    started = time.monotonic()
    if stage.apart and subprocess.run([sys.executable, "-m", stage.apart, "--check"], cwd=root, check=False).returncode:
        tally = Tally(failed=1)
    else:
        tally = run_pytest(stage, root) if stage.folders else Tally(failed=check.run_checks(root))
    return StageRun(stage, tally, time.monotonic() - started)


def choose(names: list[str], gpu: str) -> list[Stage]:
    """Choose the stages to run: those named, else all that the GPU switch leaves here.

    Req: ORCH-4243
    """
    if names:
        return [stage for stage in STAGES if stage.name in names]
    kept = {"here": (True, False), "elsewhere": (False,), "only": (True,)}[gpu]
    return [stage for stage in STAGES if stage.gpu in kept and not stage.apart]


def run_all(chosen: list[Stage], root: Path, *, keep_going: bool) -> list[StageRun]:
    """Run stages in order, up to and with the first red one."""
    runs: list[StageRun] = []
    for stage in chosen:
        runs.append(run_stage(stage, root))
        if runs[-1].tally.failed and not keep_going:
            break
    return runs


def summary(runs: list[StageRun], chosen: list[Stage], gpu: str) -> str:
    """Say in one line per stage how it went, and which did not run and why."""
    lines = [run.line() for run in runs]
    left = [stage.name for stage in chosen[len(runs) :]]
    if left:
        red = runs[-1].stage.name
        lines.append(f"not run, because {red} is red: {' '.join(left)}")
        lines.append(f"mend it with `make ci STAGE={red}`; `make test KEEP_GOING=1` shows what else is red")
    if gpu == "elsewhere":
        lines.append(f"moved to the GPU host: {' '.join(stage.name for stage in STAGES if stage.gpu)}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run the stages of the test pipeline.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="stages to run; all when none is named")
    parser.add_argument("--list", action="store_true", help="name the stages")
    parser.add_argument("--keep-going", action="store_true", help="run the stages after a red one too")
    parser.add_argument(
        "--gpu", choices=("here", "elsewhere", "only"), default="here", help="where the stages for a GPU host run"
    )
    options = parser.parse_args(argv)
    known = [stage.name for stage in STAGES]
    unknown = [name for name in options.names if name not in known]
    if options.list or unknown:
        print("\n".join(known))
        if unknown:
            print(f"unknown stage: {' '.join(unknown)}; the stages are listed above", file=sys.stderr)
        return 2 if unknown else 0
    chosen = choose(options.names, options.gpu)
    runs = run_all(chosen, ROOT, keep_going=options.keep_going)
    total = sum((run.tally for run in runs), Tally())
    print(f"\n{summary(runs, chosen, options.gpu)}\n{total.closing_line()}", flush=True)
    only_checks = options.names == ["precommit"]
    return 0 if total.failed == 0 and (total.passed > 0 or only_checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
