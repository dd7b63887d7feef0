"""Run every static check, name each and say how to mend what it finds.

`python -m tools.check` runs all; `python -m tools.check NAME…` only those named.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SHOWN_LINES = 60


@dataclass(frozen=True)
class Check:
    """One static check and the way out when it fails."""

    name: str
    command: tuple[str, ...]
    remedy: str


CHECKS = (
    # The slowest first, so that the others fit beside it.
    Check("types", ("mypy",), "mend the types; a cast or an ignore needs its reason beside it"),
    Check("format", ("ruff", "format", "--check", "--output-format=concise"), "make format"),
    Check("lint", ("ruff", "check", "--output-format=concise"), "make format mends most; the rest by hand"),
    Check(
        "imports", ("lint-imports", "--no-logo"), "move the code to the layer it belongs to (CONTRIBUTING.md, layers)"
    ),
    Check("dependencies", ("deptry", ".", "--no-ansi"), "declare what is imported, drop what is not, then make lock"),
    Check(
        "dead code", ("python", "-m", "tools.dead_code"), "delete it; what a framework calls goes into [tool.vulture]"
    ),
    Check("spelling", ("typos",), "mend it, or add the word to [tool.typos] in pyproject.toml"),
    Check("tidy", ("python", "-m", "tools.tidy"), "each line names its rule; `python -m tools.tidy --list` explains"),
    Check("traceability", ("python", "-m", "tools.trace", "--check"), "each line says what to do (docs/contracts.md)"),
    Check("generated", ("python", "-m", "tools.gen", "--check"), "make gen"),
)


@dataclass(frozen=True)
class Verdict:
    """How one check ended."""

    check: Check
    ok: bool
    output: str
    seconds: float


def run_check(check: Check, root: Path) -> Verdict:
    """Run one check in a process of its own."""
    started = time.monotonic()
    command = [str(BIN / check.command[0]), *check.command[1:]]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    return Verdict(check, done.returncode == 0, done.stdout + done.stderr, time.monotonic() - started)


def shortened(verdict: Verdict) -> str:
    """Return the first lines of an output, and how to see the rest."""
    lines = verdict.output.rstrip().splitlines()
    if len(lines) <= SHOWN_LINES:
        return "\n".join(lines)
    command = " ".join((".venv/bin/" + verdict.check.command[0], *verdict.check.command[1:]))
    return "\n".join([*lines[:SHOWN_LINES], f"… {len(lines) - SHOWN_LINES} more lines: {command}"])


def run_checks(root: Path = ROOT, names: tuple[str, ...] = ()) -> int:
    """Run the checks side by side, print each verdict in order and return how many failed."""
    chosen = [check for check in CHECKS if not names or check.name in names]
    failed = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for verdict in pool.map(lambda check: run_check(check, root), chosen):
            if verdict.ok:
                print(f"ok      {verdict.check.name} ({verdict.seconds:.1f} s)", flush=True)
                continue
            failed += 1
            print(shortened(verdict), flush=True)
            print(f"FAILED  {verdict.check.name}: {verdict.check.remedy}", flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run the static checks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="checks to run; all when none is named")
    options = parser.parse_args(argv)
    known = {check.name for check in CHECKS}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown check: {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return 1 if run_checks(ROOT, tuple(options.names)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
