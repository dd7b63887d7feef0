"""Ids are for ever: compare the specifications with the index that was committed last."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.trace.model import RETIRED_SUFFIX, Evidence, Fault, Place

INDEX = "requirements/index.yaml"
_ID = re.compile(r"^(ORCH-\d{4}(?:-DEPR)?):$")
_TITLE = re.compile(r'^  title: "(.*)"$')


@dataclass(frozen=True)
class Known:
    """An id as an index has it."""

    title: str
    line: int


def read_index(text: str) -> dict[str, Known]:
    r"""Read ids and titles from an index.

    >>> read_index('ORCH-2001:\n  title: "Posting a task"\n')
    {'ORCH-2001': Known(title='Posting a task', line=1)}
    """
    found: dict[str, Known] = {}
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if heading := _ID.match(line):
            current = heading[1]
            found[current] = Known("", number)
        elif (title := _TITLE.match(line)) and current:
            found[current] = Known(title[1].replace('\\"', '"').replace("\\\\", "\\"), found[current].line)
    return found


def committed_index(root: Path) -> str:
    """Return the index of the last commit, or where there is no git, the one that stands there."""
    if (root / ".git").exists():
        shown = subprocess.run(
            ["git", "show", f"HEAD:{INDEX}"], cwd=root, check=False, capture_output=True, encoding="utf-8"
        )
        if shown.returncode == 0:
            return shown.stdout
    path = root / INDEX
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def broken_history(root: Path, evidence: Evidence) -> Iterator[Fault]:
    """Find ids that vanished, came back from retirement, or gave their title to another id."""
    before = read_index(committed_index(root))
    now = evidence.requirements
    owners = {requirement.title: requirement for requirement in now.values()}
    for identifier, known in before.items():
        retired = identifier.endswith(RETIRED_SUFFIX)
        plain = identifier.removesuffix(RETIRED_SUFFIX)
        if retired and plain in now:
            problem = f"{plain} comes back from retirement"
            yield Fault(now[plain].place, problem, "a number is never used again: take a free one from 4000 up")
            continue
        successor = owners.get(known.title)
        kept = now.get(identifier) or now.get(plain + RETIRED_SUFFIX)
        moved = successor is not None and successor.id.removesuffix(RETIRED_SUFFIX) != plain
        if successor is not None and moved and (kept is None or kept.title != known.title):
            problem = f"{successor.id} has the title that {identifier} had"
            yield Fault(successor.place, problem, f"a promise keeps its number: call it {plain} again")
        elif kept is None:
            problem = f"{identifier} ({known.title}) vanished"
            remedy = f"put it back, or retire it: `### {plain}{RETIRED_SUFFIX} — {known.title}`, then `LEVEL · retired`"
            yield Fault(Place(INDEX, known.line), problem, remedy)
