"""Read `x-req-id` from the OpenAPI files: every operation and every response has one, other parts may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tools.gen_contract import METHODS
from tools.tidy_tree import Tree
from tools.trace.model import Citation, Evidence, Fault, Place, cited_ids

FOLDER = "contracts/openapi/"
KIND = "contract"
_REMEDY = "name the requirement that promises it: `x-req-id: ORCH-nnnn`, then `make gen`"

Documents: TypeAlias = dict[str, Node]


def read_contracts(tree: Tree, evidence: Evidence) -> None:
    """Collect what operations, responses and other parts of the contract cite, and which cite nothing."""
    documents: Documents = {}
    for name in tree.files:
        if name.startswith(FOLDER) and name.endswith((".yaml", ".yml")):
            try:
                documents[name] = YAML(typ="safe", pure=True).compose(tree.text(name) or "")
            except MarkedYAMLError as error:
                line = error.problem_mark.line + 1 if error.problem_mark else 1
                evidence.faults.append(Fault(Place(name, line), f"{error.problem}", "mend the YAML"))
    seen: set[int] = set()
    for name, document in documents.items():
        for operation_id, method_line, operation in _operations(document):
            place = Place(name, method_line)
            _cite(name, place, operation, operation_id, evidence, seen, needed=f"operation {operation_id}")
            for status, line, response, home, shared in _responses(name, operation, documents):
                what = f"{operation_id} {status}"
                _cite(home, Place(home, line), response, what, evidence, seen, needed=f"response {shared or what}")
        _cite_others(name, document, (), evidence, seen)


def _entries(node: Node | None) -> Iterator[tuple[str, int, Node]]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark.line + 1, value


def _child(node: Node | None, key: str) -> Node | None:
    return next((value for name, _, value in _entries(node) if name == key), None)


def _operations(document: Node) -> Iterator[tuple[str, int, Node]]:
    for path, _, item in _entries(_child(document, "paths")):
        for method, line, operation in _entries(item):
            if method in METHODS:
                named = _child(operation, "operationId")
                yield str(named.value) if named is not None else f"{method.upper()} {path}", line, operation


def _responses(name: str, operation: Node, documents: Documents) -> Iterator[tuple[str, int, Node, str, str]]:
    for status, line, response in _entries(_child(operation, "responses")):
        home, shared = name, ""
        # A reference with its own x-req-id says what this operation promises by the shared response.
        while _child(response, "x-req-id") is None and (ref := _child(response, "$ref")) is not None:
            file, _, pointer = str(ref.value).partition("#")
            target = _pointed(documents.get(FOLDER + file if file else home), pointer)
            if target is None:
                break
            home, shared = FOLDER + file if file else home, pointer.rpartition("/")[2]
            line, response = target
        yield status, line, response, home, shared


def _pointed(node: Node | None, pointer: str) -> tuple[int, Node] | None:
    line = 1
    for step in pointer.strip("/").split("/"):
        found = next((entry for entry in _entries(node) if entry[0] == step), None)
        if found is None:
            return None
        _, line, node = found
    return None if node is None else (line, node)


def _ids(value: Node) -> object:
    if isinstance(value, SequenceNode):
        return [str(entry.value) for entry in value.value]
    return str(value.value) if isinstance(value, ScalarNode) else None


def _cite(
    path: str, place: Place, node: Node, name: str, evidence: Evidence, seen: set[int], *, needed: str = ""
) -> None:
    for key, line, value in _entries(node):
        if key == "x-req-id":
            listed = _ids(value)
            repeated: list[Fault] = []
            faults = repeated if id(value) in seen else evidence.faults
            seen.add(id(value))
            for requirement in cited_ids(listed, Place(path, line), faults):
                evidence.citations.append(Citation(requirement, KIND, path, name, line))
            if listed != []:
                return
    fault = Fault(place, f"{needed} has no x-req-id", _REMEDY)
    # A shared response is told once, not for each operation that refers to it.
    if needed and not any(known.place == place and known.remedy == _REMEDY for known in evidence.faults):
        evidence.faults.append(fault)


def _cite_others(path: str, node: Node, pointer: tuple[str, ...], evidence: Evidence, seen: set[int]) -> None:
    if isinstance(node, SequenceNode):
        for index, entry in enumerate(node.value):
            _cite_others(path, entry, (*pointer, str(index)), evidence, seen)
    for key, line, value in _entries(node):
        if key == "x-req-id" and id(value) not in seen:
            kind, _, part = "/".join(pointer).removeprefix("components/").partition("/")
            for requirement in cited_ids(_ids(value), Place(path, line), evidence.faults):
                evidence.citations.append(Citation(requirement, KIND, path, f"{kind.removesuffix('s')} {part}", line))
        elif key != "x-req-id":
            _cite_others(path, value, (*pointer, key), evidence, seen)
