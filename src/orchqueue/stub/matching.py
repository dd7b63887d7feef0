"""Compare a request with those that the pact knows, and say where it differs.

Req: ORCH-4041
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Final

import msgspec

from orchqueue.stub.pact import Body, ExpectedRequest, Interaction, Json, Matcher, Rule

_NEGOTIATED: Final = frozenset({"accept", "content-type"})
_SHOWN_CHARS: Final = 120
_TOKEN: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\*)\]|\['([^']*)'\]")


class Asked(msgspec.Struct, frozen=True):
    """A request as it arrived. `headers` by lower-case name, repeated ones joined."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: bytes


class Difference(msgspec.Struct, frozen=True):
    """One place where a request is not what an interaction expects.

    Shape: `where` is `/method`, `/path`, `/query/NAME`, `/header/NAME` or a JSON pointer below `/body`.
    """

    where: str
    expected: str
    got: str


class Near(msgspec.Struct, frozen=True):
    """An interaction that almost fits."""

    interaction: Interaction
    differences: tuple[Difference, ...]


def choose(interactions: Sequence[Interaction], asked: Asked) -> Interaction | None:
    """Find the interaction that a request is.

    1. It fits in every part.
    2. Of several, the one that says most about the request: a header more, a parameter more.
    3. Of those, one that succeeds; then the first.
    """
    fitting = [one for one in interactions if not any(differences(one.request, asked))]
    return min(fitting, key=lambda one: (-_said(one.request), one.response.status >= 400), default=None)


def nearest(interactions: Sequence[Interaction], asked: Asked, count: int = 3) -> list[Near]:
    """Find the interactions that differ least, the closest first."""
    found = [Near(one, tuple(differences(one.request, asked))) for one in interactions]
    return sorted(found, key=lambda near: _distance(near, asked))[:count]


def differences(expected: ExpectedRequest, asked: Asked) -> Iterator[Difference]:
    """Walk over every place where a request differs from what is expected."""
    if asked.method != expected.method:
        yield Difference("/method", expected.method, asked.method)
    yield from _scalar("/path", expected.path, asked.path, expected.rules.path)
    for name in {**expected.query, **asked.query}:
        wanted, given = expected.query.get(name), asked.query.get(name)
        where = f"/query/{name}"
        if wanted is None or given is None or len(wanted) != len(given):
            yield Difference(where, ", ".join(wanted or ["nothing"]), ", ".join(given or ["nothing"]))
        else:
            rule = expected.rules.query.get(name)
            for one, other in zip(wanted, given, strict=True):
                yield from _scalar(where, one, other, rule)
    header_rules = {name.lower(): rule for name, rule in expected.rules.header.items()}
    for name, values in expected.headers.items():
        value = ", ".join(values)
        given_value = asked.headers.get(name.lower())
        if given_value is None or not _header_fits(name, value, given_value, header_rules.get(name.lower())):
            rule = header_rules.get(name.lower())
            yield Difference(f"/header/{name}", _wanted(rule, value), _shown(given_value or "nothing"))
    if expected.body is not None:
        yield from _body(expected.body, asked.body, expected.rules.body)


def _said(request: ExpectedRequest) -> int:
    headers = sum(1 if name.lower() in _NEGOTIATED else 2 for name in request.headers)
    return headers + 2 * len(request.query)


def _distance(near: Near, asked: Asked) -> tuple[float, bool]:
    cost = 0.0
    for one in near.differences:
        # What is there with another value is nearer than what is missing or too much.
        cost += 1.5 if "nothing" in (one.expected, one.got) else 1
        if one.where == "/method":
            cost += 3
        elif one.where == "/path":
            steps = zip_longest(near.interaction.request.path.split("/"), asked.path.split("/"), fillvalue="")
            cost += 4 * sum(1 - SequenceMatcher(None, mine, theirs).ratio() for mine, theirs in steps)
    return cost, near.interaction.response.status >= 400


def _scalar(where: str, expected: str, given: str, rule: Rule | None) -> Iterator[Difference]:
    if not (expected == given if rule is None else _holds(rule, expected, given)):
        yield Difference(where, _wanted(rule, expected), _shown(given))


def _header_fits(name: str, expected: str, given: str, rule: Rule | None) -> bool:
    if rule is not None:
        return _holds(rule, expected, given)
    if name.lower() not in _NEGOTIATED:
        return _pieces(expected, ",") == _pieces(given, ",")
    # Parameters beyond the expected ones, such as a charset or a weight, change nothing.
    offered = [_pieces(one, ";") for one in _pieces(given.lower(), ",")]
    return all(any(set(_pieces(one, ";")) <= set(o) for o in offered) for one in _pieces(expected.lower(), ","))


def _pieces(text: str, at: str) -> list[str]:
    return [one.strip() for one in text.split(at)]


def _body(expected: Body, given: bytes, rules: Mapping[str, Rule]) -> Iterator[Difference]:
    if not expected.is_json:
        text = given.decode(errors="replace")
        yield from _scalar("/body", expected.as_bytes().decode(errors="replace"), text, rules.get("$"))
        return
    try:
        value: Json = msgspec.json.decode(given)
    except (msgspec.DecodeError, UnicodeDecodeError):
        yield Difference("/body", "JSON", _shown(given.decode(errors="replace")))
        return
    by_path = {_tokens(path): rule for path, rule in rules.items()}
    yield from _Comparison(by_path).walk(expected.content, value, (), kind_only=False)


class _Comparison:
    """Compares two JSON values under rules; a `type` rule holds for everything below it that has no other."""

    def __init__(self, rules: Mapping[tuple[str, ...], Rule]) -> None:
        self._rules = rules

    def walk(self, expected: Json, given: Json, path: tuple[str, ...], *, kind_only: bool) -> Iterator[Difference]:
        """Walk over the differences from here down."""
        rule = self._rule_of(path)
        if rule is not None:
            if not _holds(rule, expected, given):
                yield Difference(_pointer(path), _wanted(rule, expected), _shown(given))
                return
            kind_only = any(matcher.match == "type" for matcher in rule.matchers)
            if not kind_only:
                return
        if isinstance(expected, dict) and isinstance(given, dict):
            yield from self._objects(expected, given, path, kind_only=kind_only)
        elif isinstance(expected, list) and isinstance(given, list):
            yield from self._lists(expected, given, path, kind_only=kind_only)
        elif not (_same_kind(expected, given) if kind_only else _equal(expected, given)):
            wanted = f"{_kind(expected)} like {_shown(expected)}" if kind_only else _shown(expected)
            yield Difference(_pointer(path), wanted, _shown(given))

    def _objects(
        self, expected: dict[str, Json], given: dict[str, Json], path: tuple[str, ...], *, kind_only: bool
    ) -> Iterator[Difference]:
        for name, wanted in expected.items():
            if name in given:
                yield from self.walk(wanted, given[name], (*path, name), kind_only=kind_only)
            else:
                yield Difference(_pointer((*path, name)), _wanted(self._rule_of((*path, name)), wanted), "nothing")
        # A client must ask for exactly what the pact says, so that an option is never silently without effect.
        for name in () if kind_only else [one for one in given if one not in expected]:
            yield Difference(_pointer((*path, name)), "nothing", _shown(given[name]))

    def _lists(
        self, expected: list[Json], given: list[Json], path: tuple[str, ...], *, kind_only: bool
    ) -> Iterator[Difference]:
        if (not kind_only and len(expected) != len(given)) or (given and not expected):
            yield Difference(_pointer(path), _shown(expected), _shown(given))
            return
        for index, value in enumerate(given):
            wanted = expected[min(index, len(expected) - 1)]
            yield from self.walk(wanted, value, (*path, str(index)), kind_only=kind_only)

    def _rule_of(self, path: tuple[str, ...]) -> Rule | None:
        fitting = [known for known in self._rules if _leads_to(known, path)]
        return self._rules[min(fitting, key=lambda known: known.count("*"))] if fitting else None


def _leads_to(known: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return len(known) == len(path) and all(mine in ("*", step) for mine, step in zip(known, path, strict=True))


def _tokens(path: str) -> tuple[str, ...]:
    return tuple(match[1] or match[2] or match[3] for match in _TOKEN.finditer(path.removeprefix("$")))


def _holds(rule: Rule, expected: Json, given: Json) -> bool:
    results = (_FITS[matcher.match](matcher, expected, given) for matcher in rule.matchers)
    return all(results) if rule.combine == "AND" else any(results)


def _fits_type(matcher: Matcher, expected: Json, given: Json) -> bool:
    if not _same_kind(expected, given):
        return False
    size = len(given) if isinstance(given, list) else None
    return size is None or (matcher.min or 0) <= size <= (size if matcher.max is None else matcher.max)


def _is_integer(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FITS: dict[str, Callable[[Matcher, Json, Json], bool]] = {
    "equality": lambda _, expected, given: _equal(expected, given),
    "type": _fits_type,
    "regex": lambda matcher, _, given: isinstance(given, str) and re.search(matcher.regex, given) is not None,
    "integer": lambda _matcher, _expected, given: _is_integer(given),
    "decimal": lambda _matcher, _expected, given: isinstance(given, float),
    "number": lambda _matcher, _expected, given: _is_integer(given) or isinstance(given, float),
    "boolean": lambda _matcher, _expected, given: isinstance(given, bool),
    "null": lambda _matcher, _expected, given: given is None,
    "include": lambda matcher, _, given: isinstance(given, str) and matcher.value in given,
    "notEmpty": lambda _matcher, _expected, given: bool(given),
}


def _equal(expected: Json, given: Json) -> bool:
    return _same_kind(expected, given) and bool(expected == given)


def _same_kind(expected: Json, given: Json) -> bool:
    return _kind(expected) == _kind(given)


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "true or false"), (str, "text"), (dict, "an object"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "a number"


def _wanted(rule: Rule | None, expected: Json) -> str:
    if rule is None:
        return _shown(expected)
    words = []
    for matcher in rule.matchers:
        match matcher.match:
            case "equality":
                words.append(_shown(expected))
            case "type":
                words.append(_kind(expected))
            case "regex":
                words.append(f"a match of {matcher.regex}")
            case "include":
                words.append(f"text with {matcher.value}")
            case other:
                words.append(other)
    return f"{(' and ' if rule.combine == 'AND' else ' or ').join(words)}, such as {_shown(expected)}"


def _shown(value: Json) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _pointer(path: tuple[str, ...]) -> str:
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in ("body", *path))
