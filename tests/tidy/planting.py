"""Small trees with planted faults."""

from collections.abc import Callable, Iterable
from pathlib import Path

from tools.tidy_tree import Finding, Tree

Rule = Callable[[Tree], Iterable[Finding]]


def plant(root: Path, files: dict[str, str]) -> Tree:
    """Write the files below a root and return them as a tree."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Tree(root)


def problems(rule: Rule, root: Path, files: dict[str, str]) -> list[str]:
    """Return what one rule says about a planted tree, one line each."""
    return [str(finding) for finding in rule(plant(root, files))]
