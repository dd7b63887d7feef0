"""Run the stages of `make test` in their order and close with one total.

`python -m tools.stages` runs all; `python -m tools.stages NAME…` only those named; `--list` names them.
A stage whose folders hold no test yet is left out. The last line is always `N passed, M failed`, where a broken
check of the precommit stage counts as one failed; the exit status is 0 only when something ran and nothing failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from tools import check

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: a name and the test folders that it runs."""

    name: str
    folders: tuple[str, ...] = ()
    doctests: tuple[str, ...] = ()


DOCTESTS = ("tools", *(f"src/orchqueue/{part}" for part in ("core", "runtime", "http", "config", "client")))
STAGES = (
    Stage("precommit"),
    Stage("tidy", ("tests/tidy",)),
    Stage("unit", ("tests/unit",), DOCTESTS),
    Stage("openapi", ("tests/contract/openapi",)),
    Stage("consumer", ("tests/contract/consumer",)),
    Stage("stub", ("tests/contract/stub",)),
    Stage("provider", ("tests/contract/provider",)),
    Stage("edge", ("tests/contract/edge",)),
    Stage("conformance", ("tests/conformance",)),
    Stage("properties", ("tests/properties",)),
    Stage("simulation", ("tests/simulation",)),
    Stage("metrics", ("tests/metrics",)),
    Stage("e2e", ("tests/e2e",)),
    Stage("chaos", ("tests/chaos",)),
    Stage("determinism", ("tests/determinism",)),
    Stage("haiku", ("tests/haiku",)),
    Stage("docs", ("tests/docs",)),
)


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


def targets(stage: Stage, root: Path) -> list[str]:
    """List the folders of a stage that hold tests, and the code whose doctests it runs."""
    folders = [folder for folder in stage.folders if any((root / folder).rglob("test_*.py"))]
    return folders + [folder for folder in stage.doctests if (root / folder).is_dir()]


def run_pytest(stage: Stage, root: Path) -> Tally:
    """Run one stage in a process of its own; a run that ends badly without a failed test counts as one failed."""
    chosen = targets(stage, root)
    if not chosen:
        return Tally()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        doctests = ["--doctest-modules"] if stage.doctests else []
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *doctests, *chosen]
        status = subprocess.run(command, cwd=root, check=False).returncode
        tally = read_tally(report)
    if status != 0 and tally.failed == 0:
        return tally + Tally(failed=1)
    return tally


def run_stage(stage: Stage, root: Path) -> Tally:
    """Run one stage, announcing it."""
    if stage.name == "precommit":
        print("== precommit", flush=True)
        return Tally(failed=check.run_checks(root))
    if not targets(stage, root):
        return Tally()
    print(f"== {stage.name}", flush=True)
    return run_pytest(stage, root)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run the stages of the test pipeline.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="stages to run; all when none is named")
    parser.add_argument("--list", action="store_true", help="name the stages")
    options = parser.parse_args(argv)
    known = {stage.name: stage for stage in STAGES}
    unknown = [name for name in options.names if name not in known]
    if options.list or unknown:
        print("\n".join(known))
        if unknown:
            print(f"unknown stage: {' '.join(unknown)}; the stages are listed above", file=sys.stderr)
        return 2 if unknown else 0
    total = Tally()
    for stage in [known[name] for name in options.names] or STAGES:
        total += run_stage(stage, ROOT)
    print(total.closing_line(), flush=True)
    only_checks = options.names == ["precommit"]
    return 0 if total.failed == 0 and (total.passed > 0 or only_checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
