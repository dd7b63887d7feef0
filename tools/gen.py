"""Run every generator: `python -m tools.gen` writes, `python -m tools.gen --check` only compares and prints the difference.

A generator is a function without arguments that returns {path: text}; new ones are added to `GENERATORS`.

Req: ORCH-4235
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tools import gen_config_docs, gen_config_schema, gen_contract, gen_engines_docs, gen_metrics_docs, gen_types, stale
from tools.trace import output as trace

ROOT = Path(__file__).resolve().parent.parent

Generator = Callable[[], Mapping[Path, str]]
GENERATORS: tuple[Generator, ...] = (
    gen_contract.generate,
    gen_types.generate,
    gen_config_schema.generate,
    gen_config_docs.generate,
    gen_metrics_docs.generate,
    gen_engines_docs.generate,
    trace.generate,
)


def stale_files(generators: tuple[Generator, ...] = GENERATORS) -> dict[Path, str]:
    """Find the files that differ from what their generator would write now.

    Shape: {path: text it should have}.
    """
    return {path: text for generate in generators for path, text in stale.differing(generate()).items()}


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not current")
    only_check: bool = parser.parse_args(arguments).check
    try:
        found = stale_files()
    except trace.IdsLost as error:
        print(f"{error}\nnothing was written: first mend what became of these ids", file=sys.stderr)
        return 1
    return stale.settle(found, ROOT, only_check=only_check)


if __name__ == "__main__":
    sys.exit(main())
