"""A request that the pact does not know is told how it differs from those that it knows."""

from __future__ import annotations

import pytest

from orchqueue.schema.validation import faults_of
from tests.contract.consumer.shapes import TASK_ID
from tests.contract.stub.stub_process import StubProcess

pytestmark = pytest.mark.req("ORCH-4041")
GOOD = {"task_id": TASK_ID, "prompt": "hi"}
JSON = {"Content-Type": "application/json"}
POST = ("POST", "/v1/tasks")


@pytest.mark.parametrize(
    ("call", "headers", "body", "nearest", "where", "said"),
    [
        (("GET", "/v1/poolz"), {}, None, "the pools", "/path", "expected /v1/pools, got /v1/poolz"),
        (("PATCH", "/v1/pools"), {}, None, "the pools", "/method", "expected GET, got PATCH"),
        (POST, JSON, {**GOOD, "prompt": 7}, "a task with defaults", "/prompt", "expected text, such as hi, got 7"),
        (POST, JSON, {"prompt": "hi"}, "a task with defaults", "/task_id", "got nothing"),
        (POST, JSON, {**GOOD, "task_id": "1"}, "a task with defaults", "/task_id", "got 1"),
        (POST, JSON, {**GOOD, "top_p": 1}, "a task with defaults", "/top_p", "expected nothing, got 1"),
        (POST, JSON, "{", "a task with defaults", "", "expected JSON, got {"),
        (POST, JSON, {**GOOD, "priority": "urgent"}, "a batch task", "/priority", "expected batch, got urgent"),
        (POST, {"Content-Type": "text/plain"}, GOOD, "a task with defaults", "/header/Content-Type", "got text/plain"),
        (("GET", "/v1/usage?day=1"), {}, None, "one's own usage", "/query/day", "expected nothing, got 1"),
        (("GET", "/v1/tasks?state=failed&limit=50"), {}, None, "one's own tasks", "/query/state", "got failed"),
        (("GET", f"/v1/tasks/{TASK_ID}/stream"), {"Accept": "text/html"}, None, "the", "/header/Accept", "got text/html"),
    ],
)  # fmt: skip
def test_the_difference_is_told(
    stub: StubProcess,
    call: tuple[str, str],
    headers: dict[str, str],
    body: object,
    nearest: str,
    where: str,
    said: str,
) -> None:
    """The answer is 404 in the contract's envelope, with a pointer for each difference from the nearest interaction."""
    content = {"content": body} if isinstance(body, str) else {} if body is None else {"json": body}
    answer = stub.http.request(call[0], call[1], headers=headers, **content)
    told = answer.json()
    assert answer.status_code == 404
    assert faults_of("ErrorEnvelope", told) == []
    assert told["nearest"][0]["description"].startswith(nearest)
    [message] = [fault["message"] for fault in told["faults"] if fault["pointer"] == where]
    assert message.endswith(said)
    assert said in told["message"]
    assert len(told["nearest"]) == 3


def test_all_differences_are_told_at_once(stub: StubProcess) -> None:
    """Path, header and body are compared each, not only up to the first difference."""
    told = stub.http.post("/v1/pools/other/drain", json={"deadline_ms": 1, "force": True}).json()
    assert {fault["pointer"] for fault in told["faults"]} == {"/path", "/deadline_ms", "/force"}


def test_a_chosen_interaction_compares_with_itself_only(stub: StubProcess) -> None:
    """Below the address of one interaction any other request is none."""
    told = stub.http.get("/~/the-pools/v1/models").json()
    assert [one["description"] for one in told["nearest"]] == ["the pools"]
    assert told["faults"] == [{"pointer": "/path", "message": "expected /v1/pools, got /v1/models"}]


def test_an_unknown_name_is_told_the_closest_ones(stub: StubProcess) -> None:
    """A slip in a name is no dead end."""
    answer = stub.http.get("/~/the-pool/v1/pools")
    assert answer.status_code == 404
    assert faults_of("ErrorEnvelope", answer.json()) == []
    assert "the-pools" in answer.json()["message"]


def test_a_huge_body_is_refused(stub: StubProcess) -> None:
    """The stub has the daemon's limit on bodies."""
    answer = stub.http.post("/v1/tasks", content=b" " * (8 * 1024 * 1024 + 1))
    assert answer.status_code == 413
    assert faults_of("ErrorEnvelope", answer.json()) == []
