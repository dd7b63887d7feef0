"""Run the command line of traceability.

`python -m tools.trace` writes `requirements/index.yaml` and `COMPLIANCE.md`, unless an id was lost or used again;
`--check` writes nothing and prints what is stale as a unified diff. Each broken rule is one line: file, line, what is
wrong, what to do. The exit status is 1 when a rule is broken or something is stale.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.stale import differing, settle
from tools.trace.output import ROOT, faults, read_evidence, refusals, render


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Judge, then write or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.trace", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not current")
    options = parser.parse_args(arguments)
    evidence = read_evidence(root)
    broken = faults(root, evidence)
    for fault in broken:
        print(fault, file=sys.stderr)
    if not options.check and refusals(root, evidence):
        print("nothing was written: first mend what was lost or used twice", file=sys.stderr)
        return 1
    status = settle(differing(render(root, evidence)), root, only_check=options.check)
    return 1 if broken else status


if __name__ == "__main__":
    sys.exit(main())
