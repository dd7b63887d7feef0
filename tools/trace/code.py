"""Read what code and tests cite, from their syntax trees: nothing is imported.

Code cites by a line `Req: ORCH-nnnn, ORCH-nnnn` in the docstring of a module, a class or a function; files of the
deployment by the same line in a comment. Tests cite by `@pytest.mark.req("ORCH-nnnn")` and `pytestmark`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tools.tidy_tree import Tree, parsed
from tools.trace.model import Citation, Evidence, Fault, Place, cited_ids

CODE_FOLDERS = ("src/", "tools/", "tests/")
# Verification is itself promised: only there is the machinery of the tests the code that keeps the promise.
PROOF_SECTION = "Proof"
DEPLOYED = re.compile(r"^(deploy/.*\.(ya?ml|json)|\.ci/.*|\.github/.*\.(ya?ml|md)|Makefile)$")
_REQ_LINE = re.compile(r"^\s*Req:(.*)$")
_REQ_COMMENT = re.compile(r"^\s*(?:#+|<!--) *Req:(.*?)(?: *-->)?$")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read_code(tree: Tree, evidence: Evidence) -> None:
    """Collect what code and tests cite."""
    for name in tree.files:
        if DEPLOYED.match(name):
            _read_comments(name, tree.text(name) or "", evidence)
        if not (name.startswith(CODE_FOLDERS) and name.endswith(".py")):
            continue
        text = tree.text(name) or ""
        cites, marks = "Req:" in text, "mark.req" in text
        module = parsed(text) if cites or marks else None
        if module is None:
            continue
        is_test = name.rpartition("/")[2].startswith("test_")
        if cites and not is_test:
            for qualified, node in _documented(module, ""):
                _read_docstring(name, qualified, node, evidence)
        if marks and name.startswith("tests/"):
            _read_marks(name, module, evidence, proves=is_test)


def _read_comments(name: str, text: str, evidence: Evidence) -> None:
    for number, line in enumerate(text.splitlines(), start=1):
        found = _REQ_COMMENT.match(line)
        if found:
            for requirement in cited_ids(_split(found[1]), Place(name, number), evidence.faults):
                evidence.citations.append(Citation(requirement, "code", name, "", number))


def _split(listed: str) -> list[str]:
    return [one.strip() for one in listed.split(",")]


def _documented(node: Documented, qualified: str) -> Iterator[tuple[str, Documented]]:
    yield qualified, node
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(inner, f"{qualified}.{inner.name}".lstrip("."))


def _read_docstring(name: str, qualified: str, node: Documented, evidence: Evidence) -> None:
    first = node.body[0] if node.body else None
    if not (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    ):
        return
    for offset, line in enumerate(first.value.value.split("\n")):
        found = _REQ_LINE.match(line)
        if found:
            number = first.value.lineno + offset
            for requirement in cited_ids(_split(found[1]), Place(name, number), evidence.faults):
                known = evidence.requirements.get(requirement)
                keeps = not name.startswith("tests/") or (known is not None and known.section == PROOF_SECTION)
                kind = "code" if keeps else "machinery"
                evidence.citations.append(Citation(requirement, kind, name, qualified, number))


def _read_marks(name: str, module: ast.Module, evidence: Evidence, *, proves: bool) -> None:
    # A mark of a module, or of a machinery's own, counts only where there is a test that it can hold for.
    has_tests = proves and any(_is_test(node) for node in ast.walk(module))
    for qualified, call in _marks(module, ""):
        place = Place(name, call.lineno)
        literals = [one.value if isinstance(one, ast.Constant) else None for one in call.args]
        if not literals or call.keywords or None in literals:
            evidence.faults.append(
                Fault(place, "this mark does not spell out its ids", 'write them: @pytest.mark.req("ORCH-nnnn")')
            )
            continue
        for requirement in cited_ids(literals, place, evidence.faults):
            kind = "test" if has_tests else "mark"
            evidence.citations.append(Citation(requirement, kind, name, qualified, call.lineno))


def _is_test(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name.startswith(("test_", "Test"))
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id.startswith("Test") for target in node.targets
    )


def _is_mark(called: ast.expr) -> bool:
    if not (isinstance(called, ast.Attribute) and called.attr == "req"):
        return False
    owner = called.value
    return (owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")) == "mark"


def _marks(node: ast.AST, qualified: str) -> Iterator[tuple[str, ast.Call]]:
    for inner in ast.iter_child_nodes(node):
        name = qualified
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{qualified}::{inner.name}".removeprefix("::")
        if isinstance(inner, ast.Call) and _is_mark(inner.func):
            yield name, inner
        yield from _marks(inner, name)
