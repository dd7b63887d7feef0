from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import pytest

from orchqueue.client import AsyncClient, TaskRequest
from orchqueue.client.sse import SseEvent, SseParser
from orchqueue.schema.contract import DeclaredOperation, JsonValue, declared_operations
from orchqueue.schema.validation import faults_of, response_faults
from tests.contract.consumer.interactions import INTERACTIONS
from tests.contract.consumer.recording import PACT_FILE, Interaction, pact_text, record
from tests.contract.openapi.checks import event_faults

Recorded: TypeAlias = dict[str, Any]


STATUSES_OF_CODES = {
    "INVALID_PARAMS": {400, 404, 409},
    "ADMISSION_REJECT": {429},
    "QUEUE_FULL_DROP_LRU": {429},
    "POOL_UNREADY": {503},
    "POOL_UNAVAILABLE": {503},
    "REPLICA_EXHAUSTED": {503},
    "DECODE_TIMEOUT": {500},
    "WORKER_RESET": {500},
    "INTERNAL": {500},
}


@pytest.fixture(scope="module")
def recorded() -> list[Recorded]:
    """Read the committed interactions."""
    found: list[Recorded] = json.loads(PACT_FILE.read_text())["interactions"]
    return found


@pytest.mark.req("ORCH-4043", "ORCH-4050")
@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda one: one.description)
def test_the_client_asks_and_understands(interaction: Interaction) -> None:
    """The client asks exactly what the pact says and makes of the answer what it should."""
    assert record(interaction)["description"] == interaction.description


@pytest.mark.req("ORCH-4043")
def test_the_pact_file_is_current_and_written_alike_twice() -> None:
    """Two recordings, in opposite orders, are byte-identical, and the committed file is what is recorded."""
    first = pact_text(INTERACTIONS)
    assert pact_text(reversed(INTERACTIONS)) == first
    assert PACT_FILE.read_text() == first, "write it anew: python -m tests.contract.consumer.recording"


@pytest.mark.req("ORCH-2006", "ORCH-4043", "ORCH-4233")
def test_each_of_the_nine_codes_stands_in_the_pact_with_its_status_and_headers(recorded: list[Recorded]) -> None:
    """Every code is answered before a stream at each status that is documented for it, and refusals say when to come back."""
    found: dict[str, set[int]] = {}
    for one in recorded:
        response = one["response"]
        content = response.get("body", {}).get("content")
        if response["status"] < 400 or not isinstance(content, dict) or "code" not in content:
            continue
        found.setdefault(content["code"], set()).add(response["status"])
        if response["status"] in {429, 503}:
            wait_ms = content["retry_after_ms"]
            assert response["headers"]["X-Backoff-Ms"] == [str(wait_ms)]
            assert response["headers"]["Retry-After"] == [str(-(-wait_ms // 1000))]
    assert found == STATUSES_OF_CODES


@pytest.mark.req("ORCH-4043", "ORCH-4233", "ORCH-4283")
def test_every_operation_is_asked_and_every_interaction_names_what_it_shows(recorded: list[Recorded]) -> None:
    """No declared operation and no kind of answer is missing from the pact, and no interaction is without a requirement."""
    asked, told = set(), set()
    for one in recorded:
        assert one["comments"]["references"]["requirements"], one["description"]
        told.add(one["response"]["status"])
        operation = operation_of(one["request"])
        asked.add(operation.id if operation else None)
    assert asked == {operation.id for operation in declared_operations()}
    assert {200, 202, 204, 400, 401, 403, 404, 409, 429, 500, 503} == told


@pytest.mark.req("ORCH-4043")
def test_another_request_than_described_fails_the_recording() -> None:
    """A client that asks something else than the pact says is caught."""
    [honest] = [one for one in INTERACTIONS if one.description == "a task with defaults"]

    async def another(client: AsyncClient) -> None:
        await client.submit(TaskRequest(prompt="hi", max_tokens=5))

    lying = Interaction(**{**vars(honest), "use": another})
    with pytest.raises(Exception, match=r"mismatch|500|contract"):
        record(lying)


def operation_of(request: Mapping[str, str]) -> DeclaredOperation | None:
    """Find the declared operation that a request calls."""
    for operation in declared_operations():
        form = re.sub(r"\{\w+\}", "[^/]+", operation.path)
        if operation.method == request["method"] and re.fullmatch(form, request["path"]):
            return operation
    return None


def contract_faults(recorded: Recorded) -> list[str]:
    """Compare one recorded interaction with the OpenAPI files."""
    request, response = recorded["request"], recorded["response"]
    operation = operation_of(request)
    if operation is None:
        return [f"{request['method']} {request['path']} is not declared"]
    declared = operation.responses.get(str(response["status"]))
    if declared is None:
        return [f"{operation.id} declares no status {response['status']}"]
    named = {name.lower() for name in response.get("headers", {})}
    faults = [f"{operation.id} promises {name}" for name in declared.headers if name.lower() not in named]
    if "body" in response:
        kind, content = response["body"]["contentType"], response["body"]["content"]
        if kind == "text/event-stream":
            faults += stream_faults([_item(event) for event in SseParser().feed(content.encode())])
        else:
            faults += [str(fault) for fault in response_faults(operation.id, response["status"], kind, content)]
    if "body" in request and response["status"] < 400:
        assert operation.body is not None
        faults += [str(fault) for fault in faults_of(operation.body, request["body"]["content"])]
    return faults


def stream_faults(events: list[dict[str, JsonValue]]) -> list[str]:
    """Check each event of an example stream, and that exactly the last one is terminal."""
    faults = [f"event {number}: {fault}" for number, event in enumerate(events) for fault in event_faults(event)]
    terminal = [number for number, event in enumerate(events) if event["event"] in {"end", "error"}]
    return faults if terminal == [len(events) - 1] else [*faults, f"terminal events at {terminal} of {len(events)}"]


def _item(event: SseEvent) -> dict[str, JsonValue]:
    item: dict[str, JsonValue] = {"event": event.event, "data": event.data}
    return {**item, "id": event.last_event_id} if event.has_own_id else item


@pytest.mark.req("ORCH-4080", "ORCH-4106")
def test_every_recorded_interaction_keeps_the_contract(recorded: list[Recorded]) -> None:
    """Paths, statuses, promised headers, bodies and each event of a stream are those that the OpenAPI files declare."""
    assert len(recorded) == len(INTERACTIONS)
    assert {one["description"]: contract_faults(one) for one in recorded if contract_faults(one)} == {}


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("request", "path"), "/v1/unknown", "not declared"),
        (("request", "method"), "PATCH", "not declared"),
        (("response", "status"), 418, "no status 418"),
        (("response", "headers"), {}, "promises X-Correlation-Id"),
        (("response", "body", "content", "queue_position"), -1, "queue_position"),
        (("request", "body", "content", "max_tokens"), 0, "max_tokens"),
    ],
)
def test_an_interaction_outside_the_contract_is_caught(
    recorded: list[Recorded], path: tuple[str, ...], value: object, why: str
) -> None:
    """A planted unknown path, method, status, missing header or wrong body is a fault."""
    [one] = [copy.deepcopy(one) for one in recorded if one["description"] == "a task with defaults"]
    target = one
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    assert why in " ".join(contract_faults(one))


@pytest.mark.parametrize(
    ("cut", "why"),
    [
        (("event: end\n", "event: done\n"), "unknown event"),
        (("id: 28:462bbab7:end\n", ""), "id"),
        (("event: end", ": "), "terminal"),
    ],
)
def test_a_stream_outside_the_contract_is_caught(recorded: list[Recorded], cut: tuple[str, str], why: str) -> None:
    """An example stream with an unknown event, without an id, or without its end is a fault."""
    [one] = [copy.deepcopy(one) for one in recorded if one["description"] == "the stream of a task"]
    content = one["response"]["body"]["content"]
    assert cut[0] in content
    one["response"]["body"]["content"] = content.replace(*cut)
    assert why in " ".join(contract_faults(one))
