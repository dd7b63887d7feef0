"""YAML text to plain values with the place of each, and nothing else that YAML can do.

Bounded in size, depth and expansion: a configuration may come from somebody else's hands.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from orchqueue.config.problems import Path, Problem, render_path

Value: TypeAlias = "str | int | float | bool | None | list[Value] | dict[str, Value]"
Place: TypeAlias = tuple[int, int]

SIZE_LIMIT_BYTES = 256 << 10
DEPTH_LIMIT = 32
NODE_LIMIT = 20_000

_CORE = "tag:yaml.org,2002:"
_TRUE = frozenset({"true", "True", "TRUE"})
_BASES = {"0x": 16, "0o": 8}


class Document(msgspec.Struct):
    """What the text says and where.

    `keys` holds the places of mapping keys, `places` those of values, `unusable` the paths of values that are told
    of in `problems` already.
    """

    value: Value
    places: dict[Path, Place] = {}
    keys: dict[Path, Place] = {}
    problems: list[Problem] = []
    unusable: set[Path] = set()

    def problem(self, path: Path, message: str, fix: str = "", *, at_key: bool = False) -> Problem:
        """Make a problem that knows its place; a path that is not in the text takes its parent's place."""
        line, column = 0, 0
        for end in range(len(path), -1, -1):
            table = self.keys if at_key else self.places
            found = table.get(path[:end]) or self.places.get(path[:end])
            if found is not None:
                line, column = found
                break
        return Problem(render_path(path), line, column, message, fix)


class _TooBig(Exception):
    """The document is deeper or expands further than any configuration does."""


def read_document(data: bytes) -> Document:
    """Parse YAML bytes. What is wrong is in `problems`; `value` is None when nothing is left to check.

    Cost: bounded by SIZE_LIMIT_BYTES, DEPTH_LIMIT and NODE_LIMIT.
    Req: ORCH-4201
    """
    document = Document(None)
    if len(data) > SIZE_LIMIT_BYTES:
        fix = f"a configuration has at most {SIZE_LIMIT_BYTES} bytes"
        document.problems.append(Problem("", 0, 0, f"the file has {len(data)} bytes", fix))
        return document
    try:
        text = data.decode("utf-8-sig")
        node = YAML(typ="safe", pure=True).compose(text)
        if node is not None:
            document.value = _Builder(document).build(node, (), 0)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        document.problems.append(Problem("", line, 1, "the file is not UTF-8 text", "save it as UTF-8"))
    except MarkedYAMLError as error:
        document.problems.append(_syntax_problem(error))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(Problem("", line, 1, "a character that YAML does not allow", "remove it"))
    except (_TooBig, RecursionError):
        fix = f"at most {DEPTH_LIMIT} levels and {NODE_LIMIT} values, aliases expanded"
        document.problems.append(Problem("", 0, 0, "the file is nested too deep or expands too far", fix))
        document.value = None
    except YAMLError as error:
        document.problems.append(Problem("", 0, 0, f"not YAML: {str(error)[:200]}"))
    return document


def _syntax_problem(error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
    parts = [str(part) for part in (error.context, error.problem) if part]
    return Problem("", line, column, "not YAML: " + ", ".join(parts)[:200], "check indentation, colons and quotes")


class _Builder:
    """Turns a node tree into plain values."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._left = NODE_LIMIT

    def build(self, node: Node, path: Path, depth: int) -> Value:
        """Build one node."""
        self._left -= 1
        if depth > DEPTH_LIMIT or self._left < 0:
            raise _TooBig
        self._document.places[path] = _place(node)
        if isinstance(node, MappingNode | SequenceNode) and str(node.tag) not in (_CORE + "map", _CORE + "seq"):
            self._complain_of_tag(node, path)
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path, depth: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or key_node.tag == _CORE + "merge":
                self._complain(key_node, path, "only plain names can be keys", "write the fields out; no '<<' merging")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in result:
                first = self._document.keys[here][0]
                self._complain(key_node, here, f"the field is there twice, first on line {first}", "keep one of them")
                continue
            self._document.keys[here] = _place(key_node)
            result[key] = self.build(value_node, here, depth + 1)
        return result

    def _scalar(self, node: Node, path: Path) -> Value:
        tag, text = str(node.tag), str(node.value)
        if tag in (_CORE + "str", _CORE + "timestamp"):
            return text
        if tag == _CORE + "null":
            return None
        if tag == _CORE + "bool":
            return text in _TRUE
        try:
            if tag == _CORE + "int":
                return _integer(text)
            if tag == _CORE + "float":
                number = float(text.replace("_", ""))
                if math.isfinite(number):
                    return number
        except ValueError:
            pass
        if tag in (_CORE + "int", _CORE + "float"):
            self._complain(node, path, "not a number that can be used", "write plain decimal digits")
        else:
            self._complain_of_tag(node, path)
        self._document.unusable.add(path)
        return None

    def _complain_of_tag(self, node: Node, path: Path) -> None:
        self._complain(node, path, f"the YAML tag {str(node.tag)[:60]} is not allowed here", "write a plain value")

    def _complain(self, node: Node, path: Path, message: str, fix: str) -> None:
        line, column = _place(node)
        self._document.problems.append(Problem(render_path(path), line, column, message, fix))


def _place(node: Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits.removeprefix("+"))
    return sign * int(digits, _BASES.get(digits[:2], 10))
