"""What traceability knows: requirements, citations of them, and faults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

REQUIREMENT_ID = re.compile(r"ORCH-\d{4}(-DEPR)?")
LEVELS = ("MUST", "SHOULD", "MAY")
RETIRED_SUFFIX = "-DEPR"


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file; the path is relative to the root."""

    path: str
    line: int


@dataclass(frozen=True, order=True)
class Fault:
    """One broken rule: where, what, and what to do."""

    place: Place
    problem: str
    remedy: str

    def __str__(self) -> str:
        """Format as one line of a report.

        >>> str(Fault(Place("specs/a.md", 3), "ORCH-2001 stands twice", "give the second a free id"))
        'specs/a.md:3: ORCH-2001 stands twice; give the second a free id'
        """
        return f"{self.place.path}:{self.place.line}: {self.problem}; {self.remedy}"


@dataclass(frozen=True)
class Requirement:
    """One heading of a specification."""

    id: str
    title: str
    level: str
    status: str
    section: str
    place: Place

    @property
    def retired(self) -> bool:
        """Tell whether it is kept only so that its number stays taken."""
        return self.id.endswith(RETIRED_SUFFIX)

    @property
    def heading(self) -> str:
        """Return the text of its heading."""
        return f"{self.id} — {self.title}"


@dataclass(frozen=True, order=True)
class Citation:
    """One place that names a requirement: an operation, an interaction, a metric, a test or a piece of code."""

    requirement: str
    kind: str
    path: str
    name: str
    line: int

    @property
    def place(self) -> Place:
        """Return where it stands."""
        return Place(self.path, self.line)


@dataclass
class Evidence:
    """Everything that a tree says about its requirements, and the faults found while reading it."""

    requirements: dict[str, Requirement] = field(default_factory=dict)
    citations: list[Citation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    taken_twice: list[Fault] = field(default_factory=list)

    def of(self, requirement: str, kind: str) -> list[Citation]:
        """Return the citations of one requirement of one kind, in order."""
        return [one for one in self.by_requirement().get(requirement, ()) if one.kind == kind]

    def by_requirement(self) -> dict[str, list[Citation]]:
        """Group the citations by requirement, each group in order."""
        grouped: dict[str, list[Citation]] = {}
        for citation in sorted(self.citations):
            grouped.setdefault(citation.requirement, []).append(citation)
        return grouped


def cited_ids(listed: object, place: Place, faults: list[Fault]) -> Iterator[str]:
    """Yield the requirement ids of a citation; whatever is none becomes a fault.

    Shape: one id or a list of ids.
    """
    for entry in listed if isinstance(listed, list | tuple) else [listed]:
        if isinstance(entry, str) and REQUIREMENT_ID.fullmatch(entry):
            yield entry
        else:
            faults.append(Fault(place, f"{entry!r} is no requirement id", "write ORCH- and four digits"))
