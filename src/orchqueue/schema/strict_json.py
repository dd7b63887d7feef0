"""JSON as the contract wants it: one meaning, or a fault that says where.

Two passes. The first takes what is beyond doubt at the speed of the standard library. Only when it stumbles does the
second read again, marking every fault in place, so that all of them can be named at once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from orchqueue.schema.contract import JsonValue
from orchqueue.schema.data import Fault

DEPTH_MAX = 64
VALUES_MAX = 50_000
FAULTS_MAX = 32
INTEGER_MAX = 2**63 - 1
NUMBER_CHARS_MAX = 64
# Integers up to here are exact as floats, so that 1e3 can be read as 1000.
EXACT_FLOAT_MAX = 2**53
POINTER_STEP_CHARS_MAX = 64
POINTER_CHARS_MAX = 1000

_DOUBTFUL_ESCAPE = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
# The last quote is optional: an open string then ends the search instead of starting it anew at every quote.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class _DoubtfulError(Exception):
    """The fast pass met something that only the marking pass can judge."""


class _Mark:
    """Stands where something is wrong; `inner` is what to look into for more."""

    __slots__ = ("inner", "messages")

    def __init__(self, messages: list[tuple[str | None, str]], inner: object = None) -> None:
        self.messages = messages
        self.inner = inner


def _number_fault(text: str) -> str | None:
    if len(text) > NUMBER_CHARS_MAX:
        return f"must be written with at most {NUMBER_CHARS_MAX} characters"
    if text.lstrip("-").isdigit():
        return None if abs(int(text)) <= INTEGER_MAX else f"must lie between -{INTEGER_MAX} and {INTEGER_MAX}"
    return None if math.isfinite(float(text)) else "must be a number that fits into 64 bits"


def _number(text: str) -> int | float:
    if text.lstrip("-").isdigit():
        return int(text)
    value = float(text)
    return int(value) if value.is_integer() and abs(value) <= EXACT_FLOAT_MAX else value


def _sure_number(text: str) -> int | float:
    if _number_fault(text) is not None:
        raise _DoubtfulError
    return _number(text)


def _sure_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DoubtfulError
    return found


def _sure_constant(_text: str) -> object:
    raise _DoubtfulError


def _marked_number(text: str) -> object:
    fault = _number_fault(text)
    return _number(text) if fault is None else _Mark([(None, fault)])


def _marked_object(pairs: list[tuple[str, object]]) -> object:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for key, _ in pairs:
        if key in seen:
            twice[key] = None
        seen.add(key)
    return _Mark([(key, "must be named only once in its object") for key in twice], found)


def _marked_constant(text: str) -> object:
    return _Mark([(None, f"must be a number; {text} is not JSON")])


_FAST = json.JSONDecoder(
    object_pairs_hook=_sure_object, parse_int=_sure_number, parse_float=_sure_number, parse_constant=_sure_constant
)
_MARKING = json.JSONDecoder(
    object_pairs_hook=_marked_object,
    parse_int=_marked_number,
    parse_float=_marked_number,
    parse_constant=_marked_constant,
)


def decode_json(body: bytes) -> tuple[JsonValue, list[Fault]]:
    """Read a body strictly.

    Refused, each with its place: what is not UTF-8 or not JSON, a key twice in one object, NaN and Infinity, integers
    beyond 64 bits, lone surrogates, U+0000, more than 64 levels or 50 000 values. A number without a fractional part becomes an int.

    Shape: (value, []) or (None, faults), at most 32 of them.
    Errors: none, whatever the bytes are.
    Cost: linear; 2 µs for a small body. Read megabytes off the event loop.
    Req: ORCH-4033

    >>> decode_json(b'{"max_tokens": 1.0}')
    ({'max_tokens': 1}, [])
    >>> decode_json(b'{"a": 1, "a": 2}')
    (None, [Fault(pointer='/a', message='must be named only once in its object')])
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, [Fault(pointer="", message=f"must be UTF-8; byte {error.start} is not")]
    if not text.strip(" \t\r\n"):
        return None, [Fault(pointer="", message="must be JSON; the body is empty")]
    if _holds_too_much(body):
        return None, [Fault(pointer="", message=f"must hold at most {VALUES_MAX} values")]
    marked = False
    try:
        try:
            value: object = _FAST.decode(text)
        except _DoubtfulError:
            marked = True
            value = _MARKING.decode(text)
    except json.JSONDecodeError as error:
        return None, [Fault(pointer="", message=f"must be JSON; line {error.lineno} column {error.colno}: {error.msg}")]
    except RecursionError:
        return None, [Fault(pointer="", message=f"must be nested at most {DEPTH_MAX} levels deep")]
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and _is_too_deep(value):
        return None, [Fault(pointer="", message=f"must be nested at most {DEPTH_MAX} levels deep")]
    if marked or _DOUBTFUL_ESCAPE.search(body):
        faults = _collect(value)
        if faults:
            return None, faults
    return value, []  # type: ignore[return-value]  # without marks only JSON's own types are left


def _holds_too_much(body: bytes) -> bool:
    """Bound what parsing can cost: megabytes of `[],[],[]` would hold up everybody else for seconds.

    Req: ORCH-4071
    """
    if _separators(body) <= VALUES_MAX:
        return False
    return _separators(_STRINGS.sub(b"", body)) > VALUES_MAX


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _is_too_deep(value: object) -> bool:
    level = [value] if isinstance(value, (dict, list, _Mark)) else []
    for _ in range(DEPTH_MAX):
        level = [inner for node in level for inner in _inner_values(node) if isinstance(inner, (dict, list, _Mark))]
        if not level:
            return False
    return True


def _inner_values(node: object) -> Iterator[object]:
    node = node.inner if isinstance(node, _Mark) else node
    if isinstance(node, dict):
        return iter(node.values())
    return iter(node) if isinstance(node, list) else iter(())


_Link = tuple["_Link", str | int] | None


def _collect(value: object) -> list[Fault]:
    """Name what is marked and every string that may not be, in the order of the body."""
    faults: list[Fault] = []
    waiting: list[tuple[object, _Link]] = [(value, None)]
    while waiting and len(faults) < FAULTS_MAX:
        node, link = waiting.pop()
        if isinstance(node, _Mark):
            for key, message in node.messages:
                faults.append(Fault(pointer=_pointer_of(link if key is None else (link, key)), message=message))
            node = node.inner
        if isinstance(node, str):
            faults += [Fault(pointer=_pointer_of(link), message=message) for message in _string_faults(node)]
        elif isinstance(node, list):
            waiting += [(inner, (link, place)) for place, inner in reversed(list(enumerate(node)))]
        elif isinstance(node, dict):
            for key in node:
                faults += [Fault(pointer=_pointer_of((link, key)), message=message) for message in _string_faults(key)]
            waiting += [(inner, (link, key)) for key, inner in reversed(node.items())]
    return faults[:FAULTS_MAX]


def _string_faults(text: str) -> Iterator[str]:
    if "\0" in text:
        yield "must not contain U+0000"
    if _SURROGATE.search(text):
        yield "must not contain half of a surrogate pair"


def _pointer_of(link: _Link) -> str:
    steps: list[str | int] = []
    while link is not None:
        link, step = link
        steps.append(step)
    return pointer(reversed(steps))


def pointer(steps: Iterator[str | int]) -> str:
    """Write an RFC 6901 JSON pointer; over-long steps end in an ellipsis, what is no character becomes U+FFFD.

    >>> pointer(iter(["a/b", 0, "~"]))
    '/a~1b/0/~0'
    """
    written = ""
    for step in steps:
        text = _SURROGATE.sub("\ufffd", str(step))
        short = text if len(text) <= POINTER_STEP_CHARS_MAX else text[:POINTER_STEP_CHARS_MAX] + "…"
        written += "/" + short.replace("~", "~0").replace("/", "~1")
        if len(written) > POINTER_CHARS_MAX:
            return written[:POINTER_CHARS_MAX] + "…"
    return written
