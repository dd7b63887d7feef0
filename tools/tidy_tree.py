"""The files that tidy rules look at, and the form of a finding."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

CODE_ROOTS = ("src", "tools", "tests", "benchmarks", "scripts", "examples")
GENERATED = ("src/orchqueue/schema/data.py", "src/orchqueue/schema/control.py")


@dataclass(frozen=True)
class Finding:
    """One broken rule at one place."""

    rule: str
    where: str
    problem: str

    def __str__(self) -> str:
        """Format as one line of a report."""
        return f"{self.where}: {self.problem} [{self.rule}]"


class Tree:
    """A working tree: what git tracks or would track, or every file where there is no git."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def files(self) -> list[str]:
        """List paths relative to the root, sorted, deleted ones left out."""
        if (self.root / ".git").exists():
            listing = subprocess.run(
                ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                cwd=self.root,
                check=True,
                capture_output=True,
                text=True,
            )
            names = set(listing.stdout.split("\0")) - {""}
        else:
            names = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if ".venv" not in path.parts}
        return sorted(name for name in names if (self.root / name).is_file())

    def text(self, name: str) -> str | None:
        """Read one file, or return None when it is not text."""
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            return None

    def modules(self, *roots: str, generated: bool = False) -> Iterator[tuple[str, str, ast.Module]]:
        """Yield name, text and syntax tree of each Python file below the roots."""
        for name in self.files:
            if not name.endswith(".py") or name.split("/")[0] not in (roots or CODE_ROOTS):
                continue
            if name in GENERATED and not generated:
                continue
            text = self.text(name)
            module = parsed(text) if text is not None else None
            if text is not None and module is not None:
                yield name, text, module


@lru_cache(maxsize=1024)  # each rule asks for all of them
def parsed(text: str) -> ast.Module | None:
    """Parse a module, or return None when it does not parse: the linter tells that better."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Yield every function and method of a module, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
