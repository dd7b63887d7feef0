"""Write `COMPLIANCE.md`: what is promised, built and proven, for somebody who has a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tools.tidy_text import slug
from tools.trace.index import anchor, by_file, contract_parts
from tools.trace.model import LEVELS, Citation, Evidence, Requirement

SHOWN_NAMES = 2
MAIN_SPEC = "specs/orchestrator-spec.md"
HEAD = """\
# Compliance

<!-- Written by `make gen`. Do not edit: mend the specification, the links or the code instead. -->

What OrchQueue promises, what of it is built, and what shows that it is true. Every promise is one numbered sentence in
[specs/](specs/) with a level, MUST, SHOULD or MAY, as in RFC 2119.
"""
COLUMNS = """\
## How to read the tables

| Word or column | Means |
|---|---|
| promised | stands in a specification and is not retired |
| built | the specification says that the running system does it |
| proven | built, and at least one test that runs in `make test` shows it and at least one piece of code claims it |
| planned | promised, and not built yet; the [list of them](#planned) stands at the end |
| Contract | operations of the [OpenAPI files](contracts/openapi/), with the statuses that keep this promise |
| Pact | how many recorded exchanges of the [consumer's pact](contracts/pacts/) rest on it |
| Tests | how many tests show it, and where |
| Code | the modules whose docstrings name it |
| Metric | the metrics of [ci/metrics.lint.json](ci/metrics.lint.json) that tell of it |

Every single test, function, interaction and status is in [requirements/index.yaml](requirements/index.yaml).
`python -m tools.trace --check` fails when a link is missing, leads nowhere, or is not written down here.
"""


def proven(requirement: Requirement, citations: list[Citation]) -> bool:
    """Tell whether a requirement is built and both tests and code name it."""
    kinds = {citation.kind for citation in citations}
    return requirement.status == "built" and {"test", "code"} <= kinds


def render_report(evidence: Evidence) -> str:
    """Write the page."""
    cited = evidence.by_requirement()
    living = [one for _, one in sorted(evidence.requirements.items()) if not one.retired]
    sections: dict[str, list[Requirement]] = {}
    # In the order in which the specifications tell them, the general one first.
    for one in sorted(living, key=lambda one: (one.place.path != MAIN_SPEC, one.place)):
        sections.setdefault(one.section, []).append(one)
    parts = [
        HEAD,
        _at_a_glance(living, sections, cited),
        COLUMNS,
        *(_section(name, ones, cited) for name, ones in sections.items()),
        _unproven(living, cited),
        _planned(living, cited),
        _retired([one for _, one in sorted(evidence.requirements.items()) if one.retired]),
    ]
    return "\n".join(part for part in parts if part)


def _count(ones: Iterable[Requirement], condition: Callable[[Requirement], bool]) -> int:
    return sum(condition(one) for one in ones)


def _row(name: str, ones: list[Requirement], cited: dict[str, list[Citation]]) -> str:
    figures = (
        len(ones),
        _count(ones, lambda one: one.status == "built"),
        _count(ones, lambda one: proven(one, cited.get(one.id, []))),
        _count(ones, lambda one: one.status == "planned"),
    )
    return f"| {name} | " + " | ".join(map(str, figures)) + " |\n"


def _at_a_glance(
    living: list[Requirement], sections: dict[str, list[Requirement]], cited: dict[str, list[Citation]]
) -> str:
    built = [one for one in living if one.status == "built"]
    shown = _count(built, lambda one: proven(one, cited.get(one.id, [])))
    early = _count(living, lambda one: one.status == "planned" and _has_evidence(cited.get(one.id, [])))
    words = [
        f"Of {len(living)} promises {len(built)} are built, and {shown} of these are proven, by tests and code that name them."
    ]
    if shown < len(built):
        words.append(f"{len(built) - shown} are built and [not proven](#built-and-not-proven).")
    words.append(f"{len(living) - len(built)} are [planned](#planned).")
    if early:
        words.append(f"For {early} of the planned ones evidence exists: tests and code name them already.")
    table = [
        "## At a glance\n\n",
        "\n".join(words),
        "\n\n| Level | promised | built | proven | planned |\n|---|--:|--:|--:|--:|\n",
    ]
    table += [_row(level, [one for one in living if one.level == level], cited) for level in LEVELS]
    table.append(_row("**all**", living, cited))
    table.append("\n| Section | promised | built | proven | planned |\n|---|--:|--:|--:|--:|\n")
    table += [_row(f"[{name}](#{slug(name)})", ones, cited) for name, ones in sections.items()]
    return "".join(table)


def _has_evidence(citations: list[Citation]) -> bool:
    return {"test", "code"} <= {citation.kind for citation in citations}


def _section(name: str, ones: list[Requirement], cited: dict[str, list[Citation]]) -> str:
    lines = [f"## {name}\n\n| Id | Promise | Level | Status | Contract | Pact | Tests | Code | Metric |\n"]
    lines.append("|---|---|---|---|---|--:|---|---|---|\n")
    for one in ones:
        own = cited.get(one.id, [])
        cells = (
            f"[{one.id}]({anchor(one)})",
            one.title.replace("|", "\\|"),
            one.level,
            "proven" if proven(one, own) else one.status,
            _contract_cell(own),
            _number(sum(citation.kind == "pact" for citation in own)),
            _tests_cell(own),
            _files_cell(by_file(own, "code")),
            _shortened([f"`{citation.name}`" for citation in own if citation.kind == "metric"]),
        )
        lines.append("| " + " | ".join(cells).replace("|  |", "| |").rstrip() + " |\n")
    return "".join(lines)


def _number(count: int) -> str:
    return str(count) if count else "–"


def _shortened(names: list[str]) -> str:
    if not names:
        return "–"
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" +{rest}" if rest > 0 else "")


def _contract_cell(own: list[Citation]) -> str:
    files = {citation.name.partition(" ")[0]: citation.path for citation in own if citation.kind == "contract"}
    names = []
    for operation, parts in contract_parts(own).items():
        own_parts = [part for part in parts if part == "operation" or part.isdigit()]
        statuses = "/".join(part for part in own_parts if part.isdigit())
        shown = [f"{operation} {statuses}".rstrip()] if own_parts else parts
        names += [f"[{name}]({files[operation]})" for name in shown]
    return _shortened(names)


def _tests_cell(own: list[Citation]) -> str:
    files = by_file(own, "test")
    count = sum(map(len, files.values()))
    return f"{count} in {_files_cell(files)}" if count else "–"


def _files_cell(files: dict[str, list[str]]) -> str:
    return _shortened([f"[{_short_name(path)}]({path})" for path in files])


def _short_name(path: str) -> str:
    folder, _, name = path.rpartition("/")
    stem = name.removesuffix(".py")
    return folder.rpartition("/")[2] if stem in {"__init__", "__main__"} else stem


def _unproven(living: list[Requirement], cited: dict[str, list[Citation]]) -> str:
    ones = [one for one in living if one.status == "built" and not proven(one, cited.get(one.id, []))]
    if not ones:
        return ""
    return "## Built and not proven\n\n" + "".join(f"- {_line(one)}\n" for one in ones)


def _planned(living: list[Requirement], cited: dict[str, list[Citation]]) -> str:
    planned = [one for one in living if one.status == "planned"]
    if not planned:
        return "## Planned\n\nNothing: all that is promised is built.\n"
    return "## Planned\n\n" + "".join(
        f"- {_line(one)}{' (evidence exists)' if _has_evidence(cited.get(one.id, [])) else ''}\n" for one in planned
    )


def _line(one: Requirement) -> str:
    return f"[{one.id}]({anchor(one)}) {one.title}, {one.level}"


def _retired(ones: list[Requirement]) -> str:
    if not ones:
        return ""
    return "## Retired\n\n" + "".join(f"- [{one.id}]({anchor(one)}) {one.title}\n" for one in ones)
