"""Read requirements from the specifications.

A requirement is `### ORCH-nnnn — Title` under a `## Section`, then the line `LEVEL · STATUS`, then text up to the next
heading that holds exactly one keyword of RFC 2119, its level. A retired one is `### ORCH-nnnn-DEPR — Title` and
`LEVEL · retired`. Before the first section a file may explain itself freely; after it no keyword stands outside a
requirement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tools.tidy_tree import Tree
from tools.trace.model import LEVELS, Evidence, Fault, Place, Requirement

FOLDER = "specs/"
_HEADING = re.compile(r"^### (ORCH-\d{4}(?:-DEPR)?) — (\S.*?)\s*$")
_STANDING = re.compile(r"^(MUST|SHOULD|MAY) · (built|planned|retired)$")
_KEYWORD = re.compile(
    r"\b(MUST NOT|MUST|SHOULD NOT|SHOULD|MAY NOT|MAY|SHALL NOT|SHALL|REQUIRED|NOT RECOMMENDED|RECOMMENDED|OPTIONAL)\b"
)
_CODE = re.compile(r"`[^`]*`")


@dataclass
class _Block:
    """A heading with the lines below it."""

    line: int
    heading: str
    section: str
    body: list[tuple[int, str]] = field(default_factory=list)


def _blocks(text: str) -> Iterator[_Block]:
    section = ""
    block = _Block(1, "", "")
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(("```", "~~~")):
            fenced = not fenced
            continue
        if fenced or not re.match(r"#{1,6} ", line):
            block.body.append((number, "" if fenced else line))
            continue
        yield block
        if line.startswith("## "):
            section = line[3:].strip()
        block = _Block(number, line, section)
    yield block


def read_specs(tree: Tree, evidence: Evidence) -> None:
    """Collect the requirements of every specification, and what is wrong with their form."""
    titles: dict[str, Requirement] = {}
    for name in tree.files:
        if not (name.startswith(FOLDER) and name.endswith(".md")):
            continue
        for block in _blocks(tree.text(name) or ""):
            found = _requirement(name, block, evidence.faults)
            if found is None:
                continue
            twin = evidence.requirements.get(found.id)
            if twin is not None:
                problem = f"{found.id} stands already at {twin.place.path}:{twin.place.line}"
                evidence.taken_twice.append(Fault(found.place, problem, "give this one a free id from 4000 up"))
                continue
            namesake = titles.setdefault(found.title, found)
            if namesake is not found:
                problem = f"{found.id} has the title of {namesake.id}"
                evidence.faults.append(Fault(found.place, problem, "a title is what people find it by: choose another"))
            evidence.requirements[found.id] = found
    _both_alive_and_retired(evidence)


def _both_alive_and_retired(evidence: Evidence) -> None:
    for requirement in evidence.requirements.values():
        alive = evidence.requirements.get(requirement.id.removesuffix("-DEPR"))
        if requirement.retired and alive is not None:
            problem = f"{alive.id} is retired at {requirement.place.path}:{requirement.place.line} and used here again"
            evidence.taken_twice.append(Fault(alive.place, problem, "give this one a free id from 4000 up"))


def _requirement(name: str, block: _Block, faults: list[Fault]) -> Requirement | None:
    place = Place(name, block.line)
    heading = _HEADING.match(block.heading)
    if heading is None:
        if "ORCH-" in block.heading:
            faults.append(Fault(place, "this heading is no requirement", "write `### ORCH-nnnn — Title`"))
        elif block.section:
            _no_keywords(name, block, faults)
        return None
    if not block.section:
        faults.append(Fault(place, f"{heading[1]} stands under no section", "put a `## Section` above it"))
    standing = _STANDING.match(block.body[0][1]) if block.body else None
    retired = heading[1].endswith("-DEPR")
    if standing is None or retired != (standing[2] == "retired"):
        wanted = "LEVEL · retired" if retired else "LEVEL · STATUS"
        faults.append(
            Fault(
                Place(name, block.line + 1),
                f"{heading[1]} does not tell its level and status",
                f"write `{wanted}` below the heading, LEVEL one of {', '.join(LEVELS)}, STATUS built or planned "
                "(retired ids, and only they, end in -DEPR)",
            )
        )
        # It is known all the same: else each citation of it would be told as well.
        return Requirement(heading[1], heading[2], LEVELS[0], "planned", block.section, place)
    if not retired:
        _one_keyword(heading[1], standing[1], name, block, faults)
    return Requirement(heading[1], heading[2], standing[1], standing[2], block.section, place)


def _keywords(block: _Block) -> Iterator[tuple[int, str]]:
    # Code may run over a line's end, so that lines are looked at together.
    text = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code.group()), "\n".join(line for _, line in block.body))
    for keyword in _KEYWORD.finditer(text):
        yield block.body[text.count("\n", 0, keyword.start())][0], keyword.group()


def _no_keywords(name: str, block: _Block, faults: list[Fault]) -> None:
    for number, keyword in _keywords(block):
        faults.append(
            Fault(
                Place(name, number),
                f"{keyword} stands outside a requirement",
                "make it one, or say it in small letters",
            )
        )


def _one_keyword(identifier: str, level: str, name: str, block: _Block, faults: list[Fault]) -> None:
    standing_line = block.body[0][0]
    found = [(number, keyword) for number, keyword in _keywords(block) if number != standing_line]
    remedy = f"say one thing with one {level} (or {level} NOT), and the rest in requirements of their own"
    if not found:
        faults.append(Fault(Place(name, block.line), f"{identifier} says no {level}", remedy))
    for number, keyword in found[1:]:
        faults.append(Fault(Place(name, number), f"{identifier} says a second keyword, {keyword}", remedy))
    for number, keyword in found[:1]:
        if keyword not in {level, "MAY" if level == "MAY" else f"{level} NOT"}:
            faults.append(Fault(Place(name, number), f"{identifier} is a {level} and says {keyword}", remedy))
