"""Run the benchmarks one after the other: `python -m benchmarks [NAME…] [--quick]`, or `make bench ONLY=core`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from benchmarks.figures import RESULTS, Report, print_table, write
from benchmarks.harness import HarnessError, build

MODULES = {
    "core": "core_events",
    "core-scale": "core_scale",
    "relay": "relay",
    "first-token": "first_token",
    "admission": "admission",
    "memory": "memory",
    "cancel": "cancel",
    "prediction": "prediction",
    "recovery": "recovery",
    "failover": "failover",
    "determinism": "determinism",
}
WITHOUT_HARNESS = {"core", "core-scale", "cancel", "prediction", "recovery", "failover", "determinism"}


def main() -> int:
    """Run what is named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*MODULES, []], metavar="NAME", help=f"of {', '.join(MODULES)}; default all"
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean little")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON (default: benchmarks/results)")
    wish = parser.parse_args()
    names = wish.names or list(MODULES)
    if not WITHOUT_HARNESS.issuperset(names):
        try:
            build()
        except HarnessError as error:
            print(error, file=sys.stderr)
            return 1
    for name in names:
        begun = time.monotonic()
        report: Report = importlib.import_module(f"benchmarks.{MODULES[name]}").measure(wish.quick)
        print_table(report)
        print(f"  written to {write(report, wish.out)} after {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
