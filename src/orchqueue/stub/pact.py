"""The pact file as the stub reads it.

Req: ORCH-4041
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final, Literal, TypeAlias

import msgspec

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
MATCHERS: Final = frozenset(
    {"equality", "type", "regex", "integer", "decimal", "number", "boolean", "null", "include", "notEmpty"}
)


class PactError(Exception):
    """The pact file cannot be used; the message says why."""


class Matcher(msgspec.Struct, frozen=True):
    """One rule of a value. `regex` belongs to regex, `value` to include, `min` and `max` to type."""

    match: str
    regex: str = ""
    value: str = ""
    min: int | None = None
    max: int | None = None


class Rule(msgspec.Struct, frozen=True):
    """What must hold of a value: all of the matchers, or one of them."""

    matchers: tuple[Matcher, ...]
    combine: Literal["AND", "OR"] = "AND"


class Rules(msgspec.Struct, frozen=True):
    """The rules of a request, by what they are about; those of the body by a path such as `$.a[*].b`."""

    path: Rule | None = None
    query: Mapping[str, Rule] = {}
    header: Mapping[str, Rule] = {}
    body: Mapping[str, Rule] = {}


class Body(msgspec.Struct, frozen=True):
    """A body: JSON as a value, anything else as text."""

    content: Any = None
    content_type: str = msgspec.field(name="contentType", default="")
    encoded: bool | str = False

    @property
    def is_json(self) -> bool:
        """Tell whether `content` is a JSON value."""
        return self.content_type.partition(";")[0].strip().lower().endswith("json")

    def as_bytes(self) -> bytes:
        """Write it as it goes over the wire."""
        if self.content is None and not self.is_json:
            return b""
        if self.is_json:
            return msgspec.json.encode(self.content)
        return b64decode(self.content) if self.encoded == "base64" else str(self.content).encode()


class State(msgspec.Struct, frozen=True):
    """What is true of the provider before the request."""

    name: str
    params: Mapping[str, Any] = {}


class ExpectedRequest(msgspec.Struct, frozen=True):
    """What the client asks."""

    method: str
    path: str
    query: Mapping[str, tuple[str, ...]] = {}
    headers: Mapping[str, tuple[str, ...]] = {}
    body: Body | None = None
    rules: Rules = msgspec.field(name="matchingRules", default=Rules())


class PromisedResponse(msgspec.Struct, frozen=True):
    """What the client gets."""

    status: int
    headers: Mapping[str, tuple[str, ...]] = {}
    body: Body | None = None


class Interaction(msgspec.Struct, frozen=True):
    """One request with its answer."""

    description: str
    request: ExpectedRequest
    response: PromisedResponse
    states: tuple[State, ...] = msgspec.field(name="providerStates", default=())

    @property
    def slug(self) -> str:
        """Name it in a URL.

        >>> Interaction("A task, or two", ExpectedRequest("GET", "/"), PromisedResponse(200)).slug
        'a-task-or-two'
        """
        return re.sub(r"[^a-z0-9]+", "-", self.description.lower()).strip("-")


class _Pact(msgspec.Struct, frozen=True):
    interactions: tuple[Interaction, ...]


def shipped_pact() -> bytes:
    """Read the pact that came with this package."""
    return files(__package__).joinpath("pact.json").read_bytes()


def read_pact(text: bytes) -> tuple[Interaction, ...]:
    """Read a pact file of specification version 4.

    Errors: PactError.
    """
    try:
        interactions = msgspec.json.decode(text, type=_Pact).interactions
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PactError(f"it is not a pact of HTTP interactions: {error}") from error
    if not interactions:
        raise PactError("it has no interactions")
    slugs: dict[str, str] = {}
    for one in interactions:
        if one.slug in slugs or not one.slug:
            raise PactError(f"'{one.description}' has no address of its own; describe it in other words")
        slugs[one.slug] = one.description
        _check_rules(one)
    return interactions


def _check_rules(interaction: Interaction) -> None:
    rules = interaction.request.rules
    single = () if rules.path is None else (rules.path,)
    for rule in (*single, *rules.query.values(), *rules.header.values(), *rules.body.values()):
        for matcher in rule.matchers:
            where = f"the request of '{interaction.description}'"
            if matcher.match not in MATCHERS:
                raise PactError(f"{where} has the matcher {matcher.match}, known are {', '.join(sorted(MATCHERS))}")
            try:
                re.compile(matcher.regex)
            except re.error as error:
                raise PactError(f"{where} has the pattern {matcher.regex}: {error}") from error
