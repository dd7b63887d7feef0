"""Find functions, methods and classes that nothing uses, and options of the configuration that nothing reads.

Fields of other structures are left alone: they are read by encoders, which no reader of source can see.
Names that a framework calls are listed in `[tool.vulture]` of pyproject.toml.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from vulture import Vulture  # type: ignore[import-untyped]  # it ships no types
from vulture.config import make_config  # type: ignore[import-untyped]  # it ships no types

from tools.tidy_tree import GENERATED

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {"variable", "attribute"}
OPTIONS = Path("src/orchqueue/config/types.py")


class Item(Protocol):
    """What vulture says about one name."""

    typ: str
    name: str
    filename: Path
    first_lineno: int


def unused(root: Path) -> list[str]:
    """Return one line for each unused name below a root that has a pyproject.toml."""
    os.chdir(root)
    config = make_config([])
    finder = Vulture(ignore_names=config["ignore_names"], ignore_decorators=config["ignore_decorators"])
    finder.scavenge([path for path in config["paths"] if Path(path).exists()], exclude=config["exclude"])
    items: Iterable[Item] = finder.get_unused_code(min_confidence=config["min_confidence"])
    placed = [(place(item, root), item) for item in items]
    return [
        f"{path}:{item.first_lineno}: unused {item.typ} '{item.name}'"
        for path, item in placed
        if str(path) not in GENERATED and (item.typ not in FIELDS or path == OPTIONS)
    ]


def place(item: Item, root: Path) -> Path:
    """Return the path of an item relative to the root."""
    return (root / item.filename).resolve().relative_to(root.resolve())


def main() -> int:
    """Run the command line."""
    found = unused(ROOT)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
