"""Read what pact interactions and metrics cite, from their JSON files."""

from __future__ import annotations

import json
from typing import cast

from tools.tidy_tree import Tree
from tools.trace.model import Citation, Evidence, Fault, Place, cited_ids

PACTS = "contracts/pacts/"
METRICS = "ci/metrics.lint.json"


def read_records(tree: Tree, evidence: Evidence) -> None:
    """Collect what pact interactions and metrics cite, and which cite nothing."""
    for name in tree.files:
        if name.startswith(PACTS) and name.endswith(".json"):
            _read(
                name,
                tree.text(name) or "",
                evidence,
                kind="pact",
                entries="interactions",
                named="description",
                where=("comments", "references", "requirements"),
                remedy="give the interaction its `req` and record the pact again",
            )
        if name == METRICS:
            _read(
                name,
                tree.text(name) or "",
                evidence,
                kind="metric",
                entries="metrics",
                named="name",
                where=("req",),
                remedy='name the requirement that promises it: "req": ["ORCH-nnnn"]',
            )


def _read(
    path: str,
    text: str,
    evidence: Evidence,
    *,
    kind: str,
    entries: str,
    named: str,
    where: tuple[str, ...],
    remedy: str,
) -> None:
    try:
        loaded: object = json.loads(text)
    except json.JSONDecodeError as error:
        evidence.faults.append(Fault(Place(path, error.lineno), f"{error.msg}", "mend the JSON"))
        return
    listed = _at(loaded, (entries,))
    lines = text.splitlines()
    below = 0
    for entry in listed if isinstance(listed, list) else []:
        name = str(_at(entry, (named,)))
        # Entries stand in the file in the order in which they are read.
        said = f'"{named}": {json.dumps(name, ensure_ascii=False)}'
        below = next((number for number in range(below, len(lines)) if said in lines[number]), below - 1) + 1
        place = Place(path, max(below, 1))
        cited = _at(entry, where)
        found = list(cast("dict[str, object]", cited)) if isinstance(cited, dict) else cited
        if not found:
            evidence.faults.append(Fault(place, f"{kind} {name!r} cites no requirement", remedy))
            continue
        for requirement in cited_ids(found, place, evidence.faults):
            evidence.citations.append(Citation(requirement, kind, path, name, place.line))


def _at(value: object, where: tuple[str, ...]) -> object:
    for key in where:
        value = cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None
    return value
