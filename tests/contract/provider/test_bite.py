"""What must fail: the same verification, fed with doctored pacts or with answers that were doctored on their way."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.provider.recording_proxy import Answer
from tests.contract.provider.verification import Interaction, Verification, interactions

DEFAULTS = "a task with defaults"
STREAM = "the stream of a task"
FULL = "a task for a full queue"
REST = "the rest of a stream after a known position"
LOST = "the stream of a task whose engine was lost"
UNKNOWN = "an unknown task"

Doctor = Callable[[Answer], Answer]


def named(description: str) -> Interaction:
    """Give a copy of an interaction."""
    [found] = [one for one in interactions() if one["description"] == description]
    return copy.deepcopy(found)


def forgiving(interaction: Interaction, status: int | None = None) -> Interaction:
    """Take away from a pact what it expects but the status, so that only the contract's own checks are left to object."""
    response: dict[str, Any] = {"status": status or interaction["response"]["status"]}
    return {**interaction, "response": response}


def asking(interaction: Interaction, method: str, path: str) -> Interaction:
    """Change what a pact asks."""
    request = {**interaction["request"], "method": method, "path": path}
    return {**interaction, "request": request}


@pytest.mark.req("ORCH-4234")
@pytest.mark.parametrize(
    ("interaction", "why"),
    [
        (asking(forgiving(named(DEFAULTS), 404), "POST", "/v1/unknown"), "/v1/unknown is not declared"),
        (asking(forgiving(named(UNKNOWN), 404), "GET", "/v2/tasks"), "/v2/tasks is not declared"),
        (asking(forgiving(named(UNKNOWN), 405), "PATCH", "/v1/tasks"), "PATCH /v1/tasks is not declared"),
    ],
    ids=["path", "version", "method"],
)
def test_a_pact_that_asks_what_is_not_declared_fails(
    interaction: Interaction, why: str, verification: Verification
) -> None:
    """An unknown path or method fails, even where the daemon refuses it exactly as the pact expects."""
    faults = verification.faults(interaction)
    assert [fault for fault in faults if fault.startswith("pact: ")] == []
    assert any(why in fault for fault in faults)


@pytest.mark.req("ORCH-4234")
def test_a_pact_that_expects_an_undeclared_status_fails(verification: Verification) -> None:
    """An undeclared status in the pact fails twice: the contract has none, and the daemon answers another."""
    faults = verification.faults(forgiving(named(DEFAULTS), 418))
    assert any("expects status 418 of createTask, which is not declared" in fault for fault in faults)
    assert any(fault.startswith("pact: ") for fault in faults)


@pytest.mark.req("ORCH-4234")
def test_a_pact_that_expects_an_undeclared_header_fails(verification: Verification) -> None:
    """A pact may rely on no header that the contract does not promise, be it there or not."""
    interaction = named(DEFAULTS)
    interaction["response"]["headers"]["X-Shard"] = ["7"]
    answered = verification.faults(
        interaction, lambda answer: replace(answer, headers=(*answer.headers, ("X-Shard", "7")))
    )
    assert [fault for fault in answered if fault.startswith("pact: ")] == []
    assert "the pact expects a header: X-Shard is not declared" in answered


@pytest.mark.req("ORCH-4234")
def test_a_pact_that_begins_in_an_unknown_state_fails(verification: Verification) -> None:
    """A state that nobody can bring about is an error, not an interaction that is left out."""
    interaction = named(DEFAULTS)
    interaction["providerStates"] = [{"name": "a pool of magic"}]
    assert any("no provider state is called 'a pool of magic'" in fault for fault in verification.faults(interaction))


@pytest.mark.req("ORCH-4234")
def test_a_pact_that_expects_another_value_fails(verification: Verification) -> None:
    """What the daemon answers is compared with the pact, value by value."""
    interaction = named(UNKNOWN)
    interaction["response"]["body"]["content"]["code"] = "POOL_UNREADY"
    [fault] = verification.faults(interaction)
    assert "POOL_UNREADY" in fault


# Answers of a daemon that breaks the contract. The pact forgives everything, so nothing but the contract can object.


def with_status(status: int) -> Doctor:
    """Answer another status."""
    return lambda answer: replace(answer, status=status)


def with_header(name: str, value: str | None) -> Doctor:
    """Answer another value of a header, or leave it out."""

    def change(answer: Answer) -> Answer:
        others = tuple((known, old) for known, old in answer.headers if known.lower() != name.lower())
        return replace(answer, headers=others if value is None else (*others, (name, value)))

    return change


def with_field(name: str, value: object) -> Doctor:
    """Answer another value of a field, or leave it out."""

    def change(answer: Answer) -> Answer:
        body = json.loads(answer.body)
        body[name] = value
        if value is None:
            del body[name]
        return replace(answer, body=json.dumps(body).encode())

    return change


def with_events(change: Callable[[list[bytes]], list[bytes]]) -> Doctor:
    """Answer other events."""
    return lambda answer: replace(answer, body=b"".join(change(re.findall(rb".+?\n\n", answer.body, re.DOTALL))))


def tokens_of(events: list[bytes]) -> list[int]:
    """Find the tokens among the events."""
    return [index for index, event in enumerate(events) if b"event: token" in event]


def swapped(events: list[bytes]) -> list[bytes]:
    """Swap the first two tokens."""
    one, two = tokens_of(events)[:2]
    events[one], events[two] = events[two], events[one]
    return events


def without_a_token(events: list[bytes]) -> list[bytes]:
    """Lose the second token."""
    del events[tokens_of(events)[1]]
    return events


def started_late(events: list[bytes]) -> list[bytes]:
    """Begin with a token."""
    [started] = [event for event in events if b"event: started" in event]
    events.remove(started)
    events.insert(tokens_of(events)[0] + 1, started)
    return events


BREACHES: dict[str, tuple[str, int, Doctor, str]] = {
    "an undeclared status": (DEFAULTS, 418, with_status(418), "declares no status 418"),
    "an undeclared header": (DEFAULTS, 202, with_header("X-Shard", "7"), "X-Shard is not declared"),
    "a missing header": (DEFAULTS, 202, with_header("X-Queue-Position", None), "X-Queue-Position is promised once"),
    "a header of the wrong form": (DEFAULTS, 202, with_header("X-Queue-ETA-Ms", "soon"), "X-Queue-ETA-Ms: "),
    "a header that contradicts the body": (DEFAULTS, 202, with_header("X-Queue-Position", "9"), "queue_position is 0"),
    "no correlation id": (UNKNOWN, 404, with_header("X-Correlation-Id", None), "X-Correlation-Id is promised"),
    "two correlation ids": (UNKNOWN, 404, with_header("X-Correlation-Id", "other"), "correlation_id is"),
    "a missing field": (DEFAULTS, 202, with_field("seed", None), "/seed"),
    "a field of the wrong type": (DEFAULTS, 202, with_field("prompt_tokens", "three"), "/prompt_tokens"),
    "an unknown code": (UNKNOWN, 404, with_field("code", "SORRY"), "/code"),
    "an undeclared media type": (UNKNOWN, 404, with_header("content-type", "text/html"), "declares no text/html"),
    "a body that was cut off": (UNKNOWN, 404, lambda answer: replace(answer, whole=False), "cut off"),
    "a wait in broken seconds": (FULL, 429, with_header("Retry-After", "1.5"), "Retry-After: "),
    "a wait of no time": (FULL, 429, with_header("Retry-After", "0"), "Retry-After: "),
    "a wait rounded down": (FULL, 429, with_field("retry_after_ms", 61_001), "makes it 62"),
    "two different waits": (FULL, 429, with_header("X-Backoff-Ms", "77777"), "X-Backoff-Ms is ['77777']"),
    "no wait": (FULL, 429, with_header("Retry-After", None), "Retry-After is promised"),
    "a stream without an end": (STREAM, 200, with_events(lambda events: events[:-1]), "no terminal event"),
    "a stream with two ends": (STREAM, 200, with_events(lambda events: [*events, events[-1]]), "2 terminal events"),
    "something after the end": (STREAM, 200, with_events(lambda events: [*events, b": hb\n\n"]), "something follows"),
    "an unfinished end": (STREAM, 200, lambda answer: replace(answer, body=answer.body[:-1]), "no terminal event"),
    "tokens in the wrong order": (STREAM, 200, with_events(swapped), "the first token has i 1"),
    "a lost token": (STREAM, 200, with_events(without_a_token), "has a gap"),
    "a token before started": (STREAM, 200, with_events(started_late), "a token comes before started"),
    "started twice": (STREAM, 200, with_events(lambda events: [events[0], *events]), "started comes 2 times"),
    "an unknown event": (
        STREAM,
        200,
        with_events(lambda events: [event.replace(b"event: end", b"event: done") for event in events]),
        "unknown event",
    ),
    "another event's data": (
        STREAM,
        200,
        with_events(lambda events: [event.replace(b'"tokens_out"', b'"tokens"') for event in events]),
        "/tokens_out",
    ),
    "changed text": (
        STREAM,
        200,
        with_events(lambda events: [event.replace(b'{"t":"', b'{"t":"x') for event in events]),
        "its position is",
    ),
    "another digest": (
        STREAM,
        200,
        with_events(lambda events: [re.sub(rb'"digest":"..', b'"digest":"zz', event) for event in events]),
        "digest",
    ),
}

STARTED = (
    b'id: 0:00000000\nevent: started\ndata: {"queue_position":0,"predicted_start_ms":0,"seed":1,"pool_id":"default",'
    b'"replica_id":"default-0","engine_version":"b0","model_digest":"%s","determinism":"strict","queue_time_ms":0}\n\n'
    % (b"0" * 64)
)
BREACHES |= {
    "started again for who resumes": (REST, 200, with_events(lambda events: [STARTED, *events]), "who had it"),
    "a rest that misses its beginning": (REST, 200, with_events(lambda events: events[1:]), "its position is"),
    "an error and an end": (LOST, 200, with_events(lambda events: [*events, events[-1]]), "2 terminal events"),
    "an error without a code": (
        LOST,
        200,
        with_events(lambda events: [event.replace(b'"code":"WORKER_RESET",', b"") for event in events]),
        "/data/code",
    ),
}


@pytest.mark.req("ORCH-4234")
@pytest.mark.parametrize("breach", BREACHES)
def test_a_daemon_that_breaks_the_contract_fails(breach: str, verification: Verification) -> None:
    """Each breach of the contract is named, though the pact itself has no objection."""
    description, status, doctor, why = BREACHES[breach]
    faults = verification.faults(forgiving(named(description), status), doctor)
    assert [fault for fault in faults if fault.startswith("pact: ")] == []
    assert any(why in fault for fault in faults), faults


@pytest.mark.parametrize("description", [DEFAULTS, STREAM, REST, LOST, FULL, UNKNOWN])
@pytest.mark.req("ORCH-4234")
def test_a_pact_that_forgives_everything_passes(description: str, verification: Verification) -> None:
    """What the breaches are told from: the same interactions without one have no fault."""
    assert verification.faults(forgiving(named(description))) == []
