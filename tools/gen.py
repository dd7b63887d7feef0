"""Run every generator: `python -m tools.gen` writes, `python -m tools.gen --check` only compares and prints the difference.

A generator is a function without arguments that returns {path: text}; new ones are added to `GENERATORS`.

Req: ORCH-4235
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tools import gen_config_docs, gen_config_schema, gen_contract, gen_types, stale

ROOT = Path(__file__).resolve().parent.parent

Generator = Callable[[], Mapping[Path, str]]
GENERATORS: tuple[Generator, ...] = (
    gen_contract.generate,
    gen_types.generate,
    gen_config_schema.generate,
    gen_config_docs.generate,
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
    return stale.settle(stale_files(), ROOT, only_check=only_check)


if __name__ == "__main__":
    sys.exit(main())
