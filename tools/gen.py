"""Run every generator: `python -m tools.gen` writes, `python -m tools.gen --check` only compares.

A generator is a function without arguments that returns {path: text}; new ones are added to `GENERATORS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tools import gen_config_docs, gen_config_schema, gen_contract, gen_types

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
    return {
        path: text
        for generate in generators
        for path, text in generate().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not current")
    only_check: bool = parser.parse_args(arguments).check
    stale = stale_files()
    for path, text in stale.items():
        name = path.relative_to(ROOT)
        if only_check:
            print(f"{name} is not current: run `make gen` and commit what it writes", file=sys.stderr)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {name}")
    return 1 if stale and only_check else 0


if __name__ == "__main__":
    sys.exit(main())
