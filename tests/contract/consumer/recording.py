"""Record what the client asks and expects, as the pact between `orchq` and the daemon.

Each interaction is played through the client against pact's own mock server; only what was really asked is written.
`python -m tests.contract.consumer.recording` writes the pact file anew.

Req: ORCH-4043
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pact import Pact
from pact.match import AbstractMatcher

from orchqueue.client import NO_RETRY, AsyncClient, ReconnectPolicy
from orchqueue.client.errors import ApiError

CONSUMER = "orchq-cli"
PROVIDER = "orchestratord"
PACT_FILE = Path(__file__).parents[3] / "contracts" / "pacts" / f"{CONSUMER}-{PROVIDER}.json"

Use = Callable[[AsyncClient], Awaitable[None]]


@dataclass(frozen=True)
class Interaction:
    """One thing that the client may ask in a state of the provider, and what it then does with the answer.

    Shape: `states` maps each provider state to its parameters; `use` performs the call and asserts what came of it; `req` names
    the requirements that it shows; `any_of` maps a path in the response's body to kinds of which one must fit.
    """

    description: str
    states: Mapping[str, Mapping[str, object]]
    method: str
    path: str
    status: int
    use: Use
    req: tuple[str, ...] = field(kw_only=True)
    query: Mapping[str, str] = field(default_factory=dict)
    request_headers: Mapping[str, str] = field(default_factory=dict)
    request_body: dict[str, object] | None = None
    headers: Mapping[str, str | AbstractMatcher[str]] = field(default_factory=dict)
    body: dict[str, object] | None = None
    text: str | None = None
    text_type: str = "text/event-stream"
    text_pattern: str | None = None
    any_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    api_key: str | None = None


def record(interaction: Interaction) -> dict[str, object]:
    """Play one interaction and return it as the pact says it.

    Errors: AssertionError when the client does not what `use` expects; pact's own when it asks something else.
    """
    pact = Pact(CONSUMER, PROVIDER)
    _describe(pact, interaction)
    with tempfile.TemporaryDirectory() as directory:
        with pact.serve(addr="127.0.0.1") as server:
            asyncio.run(play(str(server.url), interaction))
            server.write_file(directory, overwrite=True)
        [written] = Path(directory).iterdir()
        recorded = json.loads(written.read_text())["interactions"]
    assert len(recorded) == 1
    one = recorded[0]
    assert isinstance(one, dict)
    return one


def pact_text(interactions: Iterable[Interaction]) -> str:
    """Record all of them and return the pact file's text: sorted, and free of the recorder's own versions."""
    recorded = sorted((record(interaction) for interaction in interactions), key=lambda one: str(one["description"]))
    descriptions = [one["description"] for one in recorded]
    assert len(set(descriptions)) == len(descriptions), "two interactions share a description"
    pact = {
        "consumer": {"name": CONSUMER},
        "provider": {"name": PROVIDER},
        "interactions": recorded,
        "metadata": {"pactSpecification": {"version": "4.0"}},
    }
    return json.dumps(pact, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _describe(pact: Pact, interaction: Interaction) -> None:
    asked = pact.upon_receiving(interaction.description)
    asked.set_comment("references", {"requirements": {one: one for one in interaction.req}})
    for state, parameters in interaction.states.items():
        asked.given(state, dict(parameters)) if parameters else asked.given(state)
    asked.with_request(interaction.method, interaction.path)
    for name, value in interaction.query.items():
        asked.with_query_parameter(name, value)
    for name, value in interaction.request_headers.items():
        asked.with_header(name, value)
    if interaction.request_body is not None:
        asked.with_body(interaction.request_body, "application/json")
    asked.will_respond_with(interaction.status)
    for name, expected in interaction.headers.items():
        asked.with_header(name, expected)
    if interaction.body is not None:
        asked.with_body(interaction.body, "application/json")
    for path, kinds in interaction.any_of.items():
        matchers = [{"match": kind} for kind in kinds]
        asked.with_matching_rules({"body": {path: {"matchers": matchers, "combine": "OR"}}}, "Response")
    if interaction.text is not None:
        asked.with_body(interaction.text, interaction.text_type)
        if interaction.text_pattern is not None:
            matchers = [{"match": "regex", "regex": interaction.text_pattern}]
            asked.with_matching_rules({"body": {"$": {"matchers": matchers, "combine": "AND"}}}, "Response")


async def play(url: str, interaction: Interaction) -> None:
    """Let the client ask this of a server, and do with the answer what it should."""
    once = ReconnectPolicy(patience_ms=0)
    async with AsyncClient(url, interaction.api_key, retry=NO_RETRY, reconnect=once) as client:
        await interaction.use(client)


async def failing(call: Awaitable[object], kind: type[ApiError], code: str | None) -> ApiError:
    """Await a call that must fail with this class and code."""
    with pytest.raises(kind) as caught:
        await call
    assert type(caught.value) is kind
    assert caught.value.code == code, f"expected {code}, got {caught.value.code}"
    return caught.value


def _write() -> None:
    from tests.contract.consumer.interactions import INTERACTIONS

    PACT_FILE.parent.mkdir(parents=True, exist_ok=True)
    PACT_FILE.write_text(pact_text(INTERACTIONS))


if __name__ == "__main__":
    _write()
