from __future__ import annotations

import json
import re

import pytest

from orchqueue.client import AsyncClient, TaskRequest
from orchqueue.client.sse import SseEvent, SseParser
from orchqueue.schema.contract import JsonValue, declared_operations
from orchqueue.schema.validation import faults_of, response_faults
from tests.contract.consumer.interactions import INTERACTIONS
from tests.contract.consumer.recording import PACT_FILE, Interaction, pact_text, record


@pytest.mark.req("ORCH-2001", "ORCH-2002", "ORCH-2003", "ORCH-2004", "ORCH-2005", "ORCH-2006", "ORCH-2007", "ORCH-2103")
@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda one: one.description)
def test_the_client_asks_and_understands(interaction: Interaction) -> None:
    """The client asks exactly what the pact says and makes of the answer what it should."""
    recorded = record(interaction)
    assert recorded["description"] == interaction.description


@pytest.mark.timeout(60)
def test_the_pact_file_is_current_and_written_alike_twice() -> None:
    """Two recordings are byte-identical, and the committed file is what is recorded."""
    first = pact_text(INTERACTIONS)
    assert pact_text(INTERACTIONS) == first
    assert PACT_FILE.read_text() == first, "write it anew: python -m tests.contract.consumer.recording"


def test_another_request_than_described_fails_the_recording() -> None:
    """A client that asks something else than the pact says is caught."""
    [honest] = [one for one in INTERACTIONS if one.description == "a task with defaults"]

    async def another(client: AsyncClient) -> None:
        await client.submit(TaskRequest(prompt="another"))

    lying = Interaction(**{**vars(honest), "use": another})
    with pytest.raises(Exception, match=r"mismatch|500|contract"):
        record(lying)


def contract_faults(recorded: dict[str, object]) -> list[str]:
    """Compare one recorded interaction with the OpenAPI files."""
    one = json.loads(json.dumps(recorded))
    request, response = one["request"], one["response"]
    for operation in declared_operations():
        if operation.method == request["method"] and re.fullmatch(
            re.sub(r"\{\w+\}", "[^/]+", operation.path), request["path"]
        ):
            break
    else:
        return [f"{request['method']} {request['path']} is not declared"]
    declared = operation.responses.get(str(response["status"]))
    if declared is None:
        return [f"{operation.id} declares no status {response['status']}"]
    named = {name.lower() for name in response.get("headers", {})}
    faults = [f"{operation.id} promises {name}" for name in declared.headers if name.lower() not in named]
    if "body" in response:
        kind, content = response["body"]["contentType"], response["body"]["content"]
        values = (
            [content] if kind == "application/json" else [_item(event) for event in SseParser().feed(content.encode())]
        )
        faults += [
            str(fault) for value in values for fault in response_faults(operation.id, response["status"], kind, value)
        ]
    if "body" in request and response["status"] < 400:
        assert operation.body is not None
        faults += [str(fault) for fault in faults_of(operation.body, request["body"]["content"])]
    return faults


def _item(event: SseEvent) -> JsonValue:
    item: dict[str, JsonValue] = {"event": event.event, "data": event.data}
    return {**item, "id": event.last_event_id} if event.has_own_id else item


@pytest.mark.req("ORCH-4029")
def test_every_recorded_interaction_keeps_the_contract() -> None:
    """Paths, statuses, promised headers, bodies and each event of a stream are those that the OpenAPI files declare."""
    recorded = json.loads(PACT_FILE.read_text())["interactions"]
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
def test_an_interaction_outside_the_contract_is_caught(path: tuple[str, ...], value: object, why: str) -> None:
    """A planted unknown path, method, status, missing header or wrong body is a fault."""
    recorded = json.loads(PACT_FILE.read_text())["interactions"]
    [one] = [one for one in recorded if one["description"] == "a task with defaults"]
    target = one
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    assert why in " ".join(contract_faults(one))
