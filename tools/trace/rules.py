"""What must hold between requirements and whatever cites them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tools.tidy_tree import Tree
from tools.trace.model import RETIRED_SUFFIX, Evidence, Fault, Place, Requirement
from tools.trace.spec import FOLDER

GENERATED = {
    "COMPLIANCE.md",
    "requirements/index.yaml",
    "src/orchqueue/schema/contract.json",
    "src/orchqueue/adapters/metrics_contract.json",
}
# The tests of these rules spell out ids that do not exist.
PLANTING = ("tests/tidy/",)
_MENTION = re.compile(r"\bORCH-\d{4}(?:-DEPR)?\b(?!\d)")
_READ = (".py", ".yaml", ".yml", ".md", ".json")
_RETIRED_REMEDY = "cite the requirement that took its place, or drop this"


def broken_rules(tree: Tree, evidence: Evidence) -> list[Fault]:
    """List every fault of a tree, those found while reading included, in order and each once."""
    found = {
        *evidence.faults,
        *_unknown_mentions(tree, evidence),
        *_unknown_citations(evidence),
        *_unproven(evidence),
    }
    return sorted(found)


def _judge(identifier: str, place: Place, known: dict[str, Requirement], *, history: bool) -> Fault | None:
    if identifier in known:
        if not known[identifier].retired or history:
            return None
        return Fault(place, f"{identifier} is retired", _RETIRED_REMEDY)
    if identifier + RETIRED_SUFFIX in known:
        remedy = f"write {identifier}{RETIRED_SUFFIX} to speak of its past" if history else _RETIRED_REMEDY
        return Fault(place, f"{identifier} is retired", remedy)
    return Fault(place, f"{identifier} stands in no specification", f"mend the number, or add it to {FOLDER}")


def _unknown_mentions(tree: Tree, evidence: Evidence) -> Iterator[Fault]:
    for name in tree.files:
        if not name.endswith(_READ) or name in GENERATED or name.startswith(PLANTING):
            continue
        text = tree.text(name) or ""
        if "ORCH-" not in text:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            for identifier in _MENTION.findall(line):
                fault = _judge(identifier, Place(name, number), evidence.requirements, history=name.endswith(".md"))
                if fault is not None:
                    yield fault


def _unknown_citations(evidence: Evidence) -> Iterator[Fault]:
    for citation in evidence.citations:
        # Elsewhere a citation is a mention too, and told at its very line.
        if citation.path.startswith(PLANTING) or not citation.path.endswith(_READ):
            fault = _judge(citation.requirement, citation.place, evidence.requirements, history=False)
            if fault is not None:
                yield fault


def _unproven(evidence: Evidence) -> Iterator[Fault]:
    cited = evidence.by_requirement()
    for requirement in evidence.requirements.values():
        if requirement.level != "MUST" or requirement.status != "built":
            continue
        kinds = {citation.kind for citation in cited.get(requirement.id, ())}
        mark = f'@pytest.mark.req("{requirement.id}")'
        for kind, remedy in (
            ("test", f"mark the test that shows it with {mark}, or call it planned"),
            ("code", f"put `Req: {requirement.id}` into the docstring of what does it, or call it planned"),
        ):
            if kind not in kinds:
                yield Fault(requirement.place, f"{requirement.id} is a MUST, built, and has no {kind}", remedy)
