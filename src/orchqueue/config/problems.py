"""What is wrong with a configuration, every fault at once.

Req: ORCH-3030
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from orchqueue.core.outcome import Fault

Path: TypeAlias = tuple[str | int, ...]


class Problem(msgspec.Struct, frozen=True):
    """One fault: where it is, what it is, how to mend it.

    Units: `line` and `column` count from 1; 0 where the fault has no place in the text.
    """

    path: str
    line: int
    column: int
    message: str
    fix: str = ""

    def render(self, source: str) -> str:
        """Write the problem as one line, in the form that editors jump to."""
        place = f"{source}:{self.line}:{self.column}" if self.line else source
        where = f"{self.path}: " if self.path else ""
        fix = f" ({self.fix})" if self.fix else ""
        return f"{place}: {where}{self.message}{fix}"

    def fault(self) -> Fault:
        """Say the same as a fault with a JSON pointer, for an answer over HTTP.

        >>> Problem("pools[0].id", 3, 1, "is missing").fault().pointer
        '/pools/0/id'
        """
        pointer = re.sub(r"\[(\d+)\]", r"/\1", self.path).replace(".", "/")
        place = f"line {self.line}: " if self.line else ""
        fix = f" ({self.fix})" if self.fix else ""
        return Fault(f"/{pointer}" if pointer else "", f"{place}{self.message}{fix}")


class ConfigError(Exception):
    """A configuration cannot be used; lists every problem found.

    Req: ORCH-4199
    """

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(self.render())

    def render(self) -> str:
        """Write all problems, one a line."""
        count = len(self.problems)
        head = f"{self.source}: {count} problem{'s' if count != 1 else ''}; nothing was started"
        return "\n".join([head, *(problem.render(self.source) for problem in self.problems)])


def render_path(path: Path) -> str:
    """Write a path as people do.

    >>> render_path(("pools", 0, "queue", "capacity"))
    'pools[0].queue.capacity'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def show(value: object) -> str:
    """Write a value from the file into a message, bounded in length.

    >>> show(True), show("x" * 100)
    ('true', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'")
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 40 else f"'{value[:37]}…'"
    return str(value)[:40]


def closest(word: object, known: Iterable[str]) -> str:
    """Ask whether a known word was meant; empty when none is near.

    >>> closest("replica", ["replicas", "retry"])
    "did you mean 'replicas'?"
    """
    near = difflib.get_close_matches(str(word)[:64], list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""
