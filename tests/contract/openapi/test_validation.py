"""Values are compared with the contract, and everything wrong is told at once in plain words."""

import json
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.schema import validation
from orchqueue.schema.contract import JsonValue
from orchqueue.schema.strict_json import FAULTS_MAX
from orchqueue.schema.validation import faults_of, parameters_of, response_faults

ID = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
UUID_WORDS = f"must be a UUID such as {ID}"


def told(schema: str, value: JsonValue) -> dict[str, str]:
    """Give the faults by pointer."""
    return {fault.pointer: fault.message for fault in faults_of(schema, value)}


@pytest.mark.req("ORCH-2001", "ORCH-4055")
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"unknown": {"deep": [1]}},
        {"task_id": ID.upper()},
        {"max_tokens": 32768, "seed": 2147483647, "ctx": 1, "deadline_ms": 1, "expected_tokens": 1},
        {"sampling": {"stop": ["x"] * 16, "temperature": 0, "top_p": 1, "json_schema": {"type": "object"}}},
        {"placement": {"mode": "pin", "pool_ids": ["a"]}},
        {"placement": {"mode": "auto"}},
    ],
)
def test_what_the_contract_allows_has_no_fault(extra: dict[str, JsonValue]) -> None:
    """Defaults, limits reached exactly, any letter case of ids and unknown fields are fine."""
    assert faults_of("TaskRequest", {"prompt": "hi", **extra}) == []


@pytest.mark.req("ORCH-4020")
@pytest.mark.parametrize(
    ("extra", "pointer", "message"),
    [
        ({"max_tokens": 0}, "/max_tokens", "must be >= 1, got 0"),
        ({"max_tokens": 32769}, "/max_tokens", "must be <= 32768, got 32769"),
        ({"max_tokens": "many"}, "/max_tokens", "must be an integer, got a string"),
        ({"max_tokens": True}, "/max_tokens", "must be an integer, got true"),
        ({"max_tokens": None}, "/max_tokens", "must be an integer, got null"),
        ({"max_tokens": 1.5}, "/max_tokens", "must be an integer, got 1.5"),
        ({"seed": 2147483648}, "/seed", "must be <= 2147483647, got 2147483648"),
        ({"seed": -1}, "/seed", "must be >= 0, got -1"),
        ({"deadline_ms": 0}, "/deadline_ms", "must be >= 1, got 0"),
        ({"priority": "urgent"}, "/priority", 'must be one of interactive, batch, got "urgent"'),
        ({"priority": "u" * 1000}, "/priority", "must be one of interactive, batch, got a string"),
        ({"sampling": {"top_p": 0}}, "/sampling/top_p", "must be > 0, got 0"),
        ({"sampling": {"stop": "x"}}, "/sampling/stop", "must be a list, got a string"),
        ({"sampling": {"stop": ["x"] * 17}}, "/sampling/stop", "must have at most 16 items"),
        ({"sampling": {"stop": [""]}}, "/sampling/stop/0", "must have at least 1 characters, got 0"),
        ({"sampling": {"grammar": "g", "json_schema": {}}}, "/sampling", "takes json_schema or grammar, not both"),
        ({"sampling": []}, "/sampling", "must be an object, got a list"),
        ({"task_id": ID.replace("-", "")}, "/task_id", UUID_WORDS),
        ({"task_id": f"urn:uuid:{ID}"}, "/task_id", UUID_WORDS),
        ({"task_id": 7}, "/task_id", UUID_WORDS),
        ({"session_id": ""}, "/session_id", UUID_WORDS),
        ({"placement": {"mode": "pin"}}, "/placement/pool_ids", "is required"),
        ({"placement": {"mode": "prefer", "pool_ids": []}}, "/placement/pool_ids", "must have at least 1 items"),
        ({"messages": []}, "", "takes exactly one of prompt, messages and inputs"),
    ],
)
def test_one_fault_is_told_where_it_is(extra: dict[str, JsonValue], pointer: str, message: str) -> None:
    """Each rule of the contract has words that say what would be right."""
    assert told("TaskRequest", {"prompt": "hi", **extra})[pointer] == message


@pytest.mark.req("ORCH-4020")
def test_all_faults_are_told_at_once() -> None:
    """Faults in several places, nested ones included, stand in one answer, sorted, once each."""
    value: JsonValue = {
        "messages": [{"role": "user"}, {"role": "king", "content": 5}],
        "max_tokens": 0,
        "task_id": "x",
        "sampling": {"min_p": 2},
    }
    assert [fault.pointer for fault in faults_of("TaskRequest", value)] == [
        "/max_tokens",
        "/messages/0/content",
        "/messages/1/content",
        "/messages/1/role",
        "/sampling/min_p",
        "/task_id",
    ]


@pytest.mark.req("ORCH-4020")
def test_a_value_of_the_wrong_type_is_told_once() -> None:
    """Nothing else is said about a body that is no object."""
    assert told("TaskRequest", ["hi"]) == {"": "must be an object, got a list"}


@pytest.mark.req("ORCH-4020")
def test_the_report_on_a_hostile_body_is_bounded() -> None:
    """A list with fifty thousand wrong items gives 32 faults, and none of them holds what was sent."""
    faults = faults_of("TaskRequest", {"prompt": "s" * 9_000_000, "messages": [{"role": "secret" * 50}] * 50_000})
    assert len(faults) == FAULTS_MAX
    assert max(len(fault.message) for fault in faults) < 200
    assert not any("secret" in fault.message for fault in faults)


@pytest.mark.req("ORCH-4071")
def test_no_more_faults_are_looked_at_than_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list far beyond its limit only as many items as the longest allowed list has are judged."""
    tell = Mock(wraps=validation._tell)
    monkeypatch.setattr(validation, "_tell", tell)
    faults_of("TaskRequest", {"messages": [1] * 40_000})
    assert tell.call_count == validation.LIST_ITEMS_MAX + 1


@pytest.mark.req("ORCH-4020")
def test_formats_are_asserted() -> None:
    """A format is a rule like any other, not a remark."""
    links: JsonValue = {"self": "/v1/tasks/x y", "stream": "/a", "cancel": "/b"}
    assert told("Links", links) == {"/self": "must be a uri-reference"}


@pytest.mark.req("ORCH-2001")
def test_inputs_are_not_for_completions() -> None:
    """Inputs are refused for a completion and taken for an embedding."""
    assert set(told("TaskRequest", {"inputs": ["a"]})) == {"/inputs"}
    assert faults_of("TaskRequest", {"inputs": ["a"], "workload": "embedding"}) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["mode", "stop", "role", "x"]), inner),
    max_leaves=8,
)
FIELDS = [
    "prompt",
    "messages",
    "inputs",
    "task_id",
    "sampling",
    "placement",
    "max_tokens",
    "seed",
    "priority",
    "workload",
]


@pytest.mark.req("ORCH-4020")
@given(st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON)
def test_any_value_is_judged_in_words_that_can_be_sent(value: JsonValue) -> None:
    """Whatever is sent is judged without an exception, and the faults themselves fit the contract."""
    faults = faults_of("TaskRequest", value)
    for fault in faults:
        written: JsonValue = {"pointer": fault.pointer, "message": fault.message}
        assert faults_of("Fault", written) == []
        json.dumps(written, ensure_ascii=False).encode()


@pytest.mark.req("ORCH-4020")
def test_an_unknown_name_is_our_own_fault() -> None:
    """A schema or operation that the contract does not know is a KeyError, not a caller's fault."""
    with pytest.raises(KeyError, match="no schema Task"):
        faults_of("Task", {})
    with pytest.raises(KeyError, match="no operation makeTask"):
        parameters_of("makeTask", {})


@pytest.mark.req("ORCH-4055")
def test_parameters_are_read_with_their_defaults() -> None:
    """Numbers become numbers, defaults are filled in, the unknown is ignored."""
    assert parameters_of("listTasks", {"/query/state": "running", "/query/colour": "red"}) == (
        {"/query/limit": 50, "/query/state": "running"},
        [],
    )
    assert parameters_of("listTasks", {"/query/limit": "200"})[0] == {"/query/limit": 200}


@pytest.mark.req("ORCH-4020")
@pytest.mark.parametrize(
    ("operation", "pointer", "text", "message"),
    [
        ("listTasks", "/query/limit", "201", "must be <= 200, got 201"),
        ("listTasks", "/query/limit", "ten", "must be an integer, got a string"),
        ("listTasks", "/query/limit", "9" * 5000, "must be an integer, got a string"),
        ("listTasks", "/query/limit", "\u0661", "must be an integer, got a string"),
        ("listTasks", "/query/cursor", "", "must have at least 1 characters, got 0"),
        ("getTask", "/path/task_id", "1", UUID_WORDS),
        (
            "streamTask",
            "/header/Last-Event-ID",
            "8:1F0C52AA",
            "must match ^((0|[1-9][0-9]{0,15}):[0-9a-f]{8}(:end)?)?$",
        ),
    ],
)
def test_a_bad_parameter_is_named_by_its_place(operation: str, pointer: str, text: str, message: str) -> None:
    """The pointer of a parameter says whether it stood in path, query or header."""
    assert [(fault.pointer, fault.message) for fault in parameters_of(operation, {pointer: text})[1]] == [
        (pointer, message)
    ]


@pytest.mark.req("ORCH-2052")
def test_a_bad_correlation_id_is_nobodys_fault() -> None:
    """A correlation id that does not fit is not refused, and header names are read in any case."""
    assert parameters_of("getTask", {"/header/x-correlation-id": "\u00e9", "/path/task_id": ID})[1] == []
    assert [fault.pointer for fault in parameters_of("streamTask", {"/header/last-event-id": "x"})[1]] == [
        "/header/Last-Event-ID"
    ]


@pytest.mark.req("ORCH-4080")
def test_an_undeclared_answer_is_a_fault() -> None:
    """A body is judged by its status, and a status, media type or call that is not declared is a fault itself."""
    body: JsonValue = {"message": "no", "correlation_id": "c"}
    assert response_faults("createTask", 401, "application/json", body) == []
    assert [fault.pointer for fault in response_faults("createTask", 400, "application/json", body)] == [
        "/code",
        "/retriable",
    ]
    for operation, status, kind in (
        ("createTask", 418, "application/json"),
        ("createTask", 401, "text/html"),
        ("x", 200, "a/b"),
    ):
        assert "declares no" in response_faults(operation, status, kind, body)[0].message


@pytest.mark.req("ORCH-2007", "ORCH-4114")
def test_a_status_allows_only_its_codes() -> None:
    """A code under a status that is not its own is a fault, and so is a 429 without a time."""
    envelope: dict[str, JsonValue] = {"code": "INTERNAL", "message": "m", "retriable": True, "correlation_id": "c"}
    for status in (400, 429, 503):
        assert "/code" in [
            fault.pointer for fault in response_faults("createTask", status, "application/json", envelope)
        ]
    refusal: JsonValue = {**envelope, "code": "ADMISSION_REJECT"}
    assert [fault.pointer for fault in response_faults("createTask", 429, "application/json", refusal)] == [
        "/retry_after_ms"
    ]
