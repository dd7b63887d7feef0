"""Read a tree, and write what it says about its requirements.

Req: ORCH-4042
"""

from __future__ import annotations

from pathlib import Path

from tools.tidy_tree import Tree
from tools.trace.code import read_code
from tools.trace.contracts import read_contracts
from tools.trace.history import INDEX, broken_history
from tools.trace.index import render_index
from tools.trace.model import Evidence, Fault
from tools.trace.records import read_records
from tools.trace.report import render_report
from tools.trace.rules import broken_rules
from tools.trace.spec import FOLDER, read_specs


class IdsLost(Exception):
    """Ids were lost or used again; each line says which, and what to do."""


ROOT = Path(__file__).resolve().parents[2]
REPORT = "COMPLIANCE.md"


def read_evidence(root: Path = ROOT) -> Evidence:
    """Read every source of requirements and citations below a root.

    Req: ORCH-4042
    """
    tree = Tree(root)
    evidence = Evidence()
    read_specs(tree, evidence)
    read_contracts(tree, evidence)
    read_code(tree, evidence)
    read_records(tree, evidence)
    return evidence


def faults(root: Path, evidence: Evidence) -> list[Fault]:
    """List every broken rule once: what happened to ids, then the specifications, then whatever cites them.

    Req: ORCH-4042
    """
    first = refusals(root, evidence)
    rest = sorted(broken_rules(Tree(root), evidence), key=lambda fault: not fault.place.path.startswith(FOLDER))
    return list(dict.fromkeys([*first, *rest]))


def refusals(root: Path, evidence: Evidence) -> list[Fault]:
    """List the faults that must be mended before anything is written: what is written is what ids are held against.

    Req: ORCH-4042
    """
    return sorted({*evidence.taken_twice, *broken_history(root, evidence)})


def render(root: Path, evidence: Evidence) -> dict[Path, str]:
    """Write the index and the page.

    Req: ORCH-4042
    """
    return {root / INDEX: render_index(evidence), root / REPORT: render_report(evidence)}


def generate() -> dict[Path, str]:
    """Write the index and the page of this tree.

    Errors: IdsLost.
    """
    evidence = read_evidence(ROOT)
    lost = refusals(ROOT, evidence)
    if lost:
        raise IdsLost("\n".join(map(str, lost)))
    return render(ROOT, evidence)
