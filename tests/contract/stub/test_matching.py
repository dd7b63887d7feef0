"""The rules by which a request is compared with the pact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import pytest

from orchqueue.stub.matching import Asked, choose, differences, nearest
from orchqueue.stub.pact import MATCHERS, Interaction, read_pact

pytestmark = pytest.mark.req("ORCH-4041")


def interaction(description: str = "one", status: int = 200, **request: Any) -> dict[str, Any]:
    """Write an interaction as a pact does."""
    whole = {"method": "POST", "path": "/x", **request}
    return {"description": description, "request": whole, "response": {"status": status}}


def known(*interactions: Mapping[str, Any]) -> tuple[Interaction, ...]:
    """Read interactions."""
    return read_pact(msgspec.json.encode({"interactions": interactions}))


def asked(body: object = None, path: str = "/x", method: str = "POST", **headers: str) -> Asked:
    """Make a request."""
    content = b"" if body is None else msgspec.json.encode(body)
    return Asked(method, path, {}, {name.replace("_", "-"): value for name, value in headers.items()}, content)


Matchers: TypeAlias = Mapping[str, Sequence[Mapping[str, object]]]


def differing(example: object, rules: Matchers, given: object, combine: str = "AND") -> list[str]:
    """Tell where a body differs from an example with rules."""
    body = {"content": example, "contentType": "application/json"}
    listed = {path: {"matchers": matchers, "combine": combine} for path, matchers in rules.items()}
    [one] = known(interaction(body=body, matchingRules={"body": listed}))
    return [difference.where for difference in differences(one.request, asked(given))]


FITS: dict[str, tuple[Mapping[str, object], object, object, object]] = {
    "equality": ({}, 1, 1, 2),
    "type": ({}, "a", "b", 1),
    "regex": ({"regex": "^[0-9]+$"}, "1", "22", "2x"),
    "integer": ({}, 1, 5, 1.5),
    "decimal": ({}, 1.5, 2.5, 2),
    "number": ({}, 1, 2.5, "2"),
    "boolean": ({}, True, False, 0),
    "null": ({}, None, None, 0),
    "include": ({"value": "b"}, "b", "abc", "ac"),
    "notEmpty": ({}, "a", "b", ""),
}


@pytest.mark.parametrize("kind", sorted(MATCHERS))
def test_each_matcher_takes_what_fits_and_nothing_else(kind: str) -> None:
    """Every matcher that a pact may use lets a right value pass and tells of a wrong one."""
    more, example, right, wrong = FITS[kind]
    rules = {"$.v": [{"match": kind, **more}]}
    assert differing({"v": example}, rules, {"v": right}) == []
    assert differing({"v": example}, rules, {"v": wrong}) == ["/body/v"]
    assert differing({"v": example}, rules, {}) == ["/body/v"]


@pytest.mark.parametrize(
    ("example", "rules", "given", "where"),
    [
        ({"a": True}, {}, {"a": 1}, ["/body/a"]),
        ({"a": [1, 2]}, {}, {"a": [1]}, ["/body/a"]),
        ({"a": [1, 2]}, {}, {"a": [1, 3]}, ["/body/a/1"]),
        ({"a": {"b/c": 1}}, {}, {"a": {"b/c": 2}}, ["/body/a/b~1c"]),
        ({"a": [{"b": 1}]}, {"$.a": [{"match": "type", "min": 1}]}, {"a": [{"b": 2}, {"b": 3}]}, []),
        ({"a": [{"b": 1}]}, {"$.a": [{"match": "type", "min": 1}]}, {"a": [{"b": 2}, {"b": "x"}]}, ["/body/a/1/b"]),
        ({"a": [{"b": 1}]}, {"$.a": [{"match": "type", "min": 1}]}, {"a": []}, ["/body/a"]),
        ({"a": [1]}, {"$.a": [{"match": "type", "max": 2}]}, {"a": [1, 2, 3]}, ["/body/a"]),
        ({"a": [{"b": 1}]}, {"$.a": [{"match": "type"}], "$.a[*].b": [{"match": "equality"}]}, {"a": [{"b": 2}]}, ["/body/a/0/b"]),
        ({"a": [1, 1]}, {"$.a[*]": [{"match": "integer"}], "$.a[1]": [{"match": "equality"}]}, {"a": [5, 2]}, ["/body/a/1"]),
        ({"a b": 1}, {"$['a b']": [{"match": "integer"}]}, {"a b": 7}, []),
        ({"a": 1}, {"$": [{"match": "type"}]}, {"a": 2, "b": 3}, []),
    ],
)  # fmt: skip
def test_bodies_are_compared_place_by_place(example: object, rules: Matchers, given: object, where: list[str]) -> None:
    """Without a rule a place must be equal, with one it must fit; `type` holds below its place too, until another rule does."""
    assert differing(example, rules, given) == where


def test_rules_are_joined_as_they_say() -> None:
    """Of several matchers all must hold, or one."""
    both = {"$.v": [{"match": "null"}, {"match": "integer"}]}
    assert differing({"v": 1}, both, {"v": 2}, "OR") == []
    assert differing({"v": 1}, both, {"v": None}, "OR") == []
    assert differing({"v": 1}, both, {"v": 2}, "AND") == ["/body/v"]


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        ({"Accept": ["text/event-stream"]}, {"accept": "application/json, Text/Event-Stream;q=0.9"}, True),
        ({"Accept": ["text/event-stream"]}, {"accept": "application/json"}, False),
        ({"Content-Type": ["application/json"]}, {"content_type": "application/json; charset=utf-8"}, True),
        ({"Content-Type": ["application/json; charset=utf-8"]}, {"content_type": "application/json"}, False),
        ({"X-Key": ["a, b"]}, {"x_key": "a,b"}, True),
        ({"X-Key": ["a"]}, {"x_key": "A"}, False),
        ({"X-Key": ["a"]}, {}, False),
        ({}, {"x_key": "a"}, True),
    ],
)  # fmt: skip
def test_headers_are_compared_as_http_means_them(
    wanted: dict[str, list[str]], given: dict[str, str], fits: bool
) -> None:
    """Names in any case, spaces after commas, parameters of media types; more headers than expected are no difference."""
    [one] = known(interaction(headers=wanted))
    assert (list(differences(one.request, asked(**given))) == []) is fits


def test_rules_hold_for_path_query_and_headers_too() -> None:
    """A pattern of a path, a parameter or a header is honoured."""
    pattern = {"matchers": [{"match": "regex", "regex": "^/x/[0-9]+$"}]}
    digits = {"matchers": [{"match": "regex", "regex": "^[0-9]+$"}]}
    rules = {"path": pattern, "query": {"n": digits}, "header": {"X-N": digits}}
    [one] = known(interaction(path="/x/1", query={"n": ["1"]}, headers={"x-n": ["1"]}, matchingRules=rules))
    right = Asked("POST", "/x/77", {"n": ["88"]}, {"x-n": "99"}, b"")
    wrong = Asked("POST", "/x/y", {"n": ["y"]}, {"x-n": "y"}, b"")
    assert list(differences(one.request, right)) == []
    assert [one.where for one in differences(one.request, wrong)] == ["/path", "/query/n", "/header/x-n"]


def test_of_several_the_one_that_says_most_and_then_one_that_succeeds_answers() -> None:
    """A header more wins; among equals success; then the first in the file."""
    several = known(
        interaction("refused", 429),
        interaction("accepted", 202),
        interaction("accepted too", 200),
        interaction("known by its key", 403, headers={"Authorization": ["Bearer k"]}),
    )
    plain, keyed = choose(several, asked()), choose(several, asked(authorization="Bearer k"))
    assert plain is not None
    assert keyed is not None
    assert (plain.description, keyed.description) == ("accepted", "known by its key")
    assert choose(several, asked(path="/y")) is None


def test_the_nearest_are_those_with_the_fewest_and_smallest_differences() -> None:
    """A slip in the path is nearer than another method, and that is nearer than another path."""
    several = known(
        interaction("elsewhere", path="/quite/different"),
        interaction("other method", method="GET", path="/v1/tasks"),
        interaction("the one", path="/v1/tasks"),
    )
    found = nearest(several, asked(path="/v1/taks"))
    assert [near.interaction.description for near in found] == ["the one", "other method", "elsewhere"]
