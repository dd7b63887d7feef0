"""Write `requirements/index.yaml`: per requirement everything that cites it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tools.tidy_text import slug
from tools.trace.model import Citation, Evidence, Requirement

HEAD = """\
# Written by `make gen` from specs/, contracts/, ci/metrics.lint.json, src/, tools/ and tests/. Do not edit.
# COMPLIANCE.md is the same for people. Ids that stand here once stay for ever.
"""


def anchor(requirement: Requirement) -> str:
    """Return the link to a requirement, relative to the root."""
    return f"{requirement.place.path}#{slug(requirement.heading)}"


def render_index(evidence: Evidence) -> str:
    """Write the index.

    Cost: proportional to what is cited.
    """
    cited = evidence.by_requirement()
    lines = [HEAD]
    for identifier in sorted(evidence.requirements):
        requirement = evidence.requirements[identifier]
        lines.append(f"{identifier}:\n")
        lines += [f"  {key}: {_quoted(getattr(requirement, key))}\n" for key in ("title", "level", "status", "section")]
        lines.append(f"  spec: {_quoted(anchor(requirement))}\n")
        own = cited.get(identifier, [])
        lines += _mapping("contract", contract_parts(own))
        lines += _list("pact", _names(own, "pact"))
        lines += _list("metrics", _names(own, "metric"))
        lines += _mapping("tests", by_file(own, "test"))
        lines += _mapping("code", by_file(own, "code"))
    return "".join(lines)


def contract_parts(citations: list[Citation]) -> dict[str, list[str]]:
    """Group what the contract cites by operation: itself and its statuses, or the parts of other kinds.

    >>> contract_parts([Citation("ORCH-2001", "contract", "a.yaml", name, 1) for name in ("getTask", "getTask 404")])
    {'getTask': ['operation', '404']}
    """
    found: dict[str, list[str]] = {}
    for name in _names(citations, "contract"):
        head, _, rest = name.partition(" ")
        parts = found.setdefault(head, [])
        part = rest or "operation"
        if part not in parts:
            parts.append(part)
    return found


def by_file(citations: list[Citation], kind: str) -> dict[str, list[str]]:
    """Group tests or code by file; the whole file is named `module`."""
    found: dict[str, list[str]] = {}
    for citation in citations:
        if citation.kind == kind:
            names = found.setdefault(citation.path, [])
            if (name := citation.name or "module") not in names:
                names.append(name)
    return found


def _names(citations: list[Citation], kind: str) -> list[str]:
    return list(dict.fromkeys(citation.name for citation in citations if citation.kind == kind))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(key: str, names: list[str]) -> Iterator[str]:
    if names:
        yield f"  {key}:\n"
        yield from (f"    - {_quoted(name)}\n" for name in names)


def _mapping(key: str, groups: dict[str, list[str]]) -> Iterator[str]:
    if groups:
        yield f"  {key}:\n"
        yield from (f"    {name}: [{', '.join(map(_quoted, parts))}]\n" for name, parts in groups.items())
