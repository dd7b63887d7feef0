"""The OpenAPI files keep the rules that we set ourselves, and each rule bites."""

import copy
from collections.abc import Callable

import pytest

from orchqueue.schema import declared_operations
from tests.contract.openapi import checks
from tools.gen_contract import METHODS, Json, Object, as_object

Check = Callable[[dict[str, Object]], list[str]]


CHECKS: dict[str, Check] = {
    "openapi": checks.openapi_problems,
    "responses": checks.response_problems,
    "good examples": checks.good_example_problems,
    "bad examples": checks.bad_example_problems,
    "limits": checks.limit_problems,
    "request lists": checks.request_list_problems,
}


@pytest.fixture(scope="module")
def planes() -> dict[str, Object]:
    """Read the files once."""
    return checks.planes_on_disk()


@pytest.mark.req("ORCH-4284")
@pytest.mark.parametrize("name", CHECKS)
def test_the_files_keep_every_rule(name: str, planes: dict[str, Object]) -> None:
    """No check finds a problem in the files as they are."""
    problems = CHECKS[name](planes)
    assert not problems, f"{problems[0]}; mend contracts/openapi, then `make gen`"


def at(planes: dict[str, Object], path: str) -> Object:
    """Go down to an object; steps are separated by spaces."""
    node: Json = dict(planes)
    for step in path.split(" "):
        node = as_object(node, path)[step]
    return as_object(node, path)


def dropped(path: str, key: str) -> Callable[[dict[str, Object]], None]:
    """Plant a fault: something is missing."""

    def plant(planes: dict[str, Object]) -> None:
        del at(planes, path)[key]

    return plant


def changed(path: str, key: str, value: Json) -> Callable[[dict[str, Object]], None]:
    """Plant a fault: something is not what it was."""

    def plant(planes: dict[str, Object]) -> None:
        at(planes, path)[key] = value

    return plant


POST = "data paths /v1/tasks post"
DRAIN = "control paths /v1/pools/{pool_id}/drain post"
SCHEMAS = "data components schemas"
FAULTS = [
    ("openapi", dropped("control info", "version"), "version"),
    ("openapi", changed(f"{SCHEMAS} Fault", "type", "thing"), "thing"),
    ("openapi", changed(POST, "operationId", "listTasks"), "listTasks"),
    ("responses", dropped(f"{POST} responses", "431"), "createTask: 431 is not declared"),
    ("responses", dropped(f"{DRAIN} responses", "403"), "drainPool: 403 is not declared"),
    ("responses", dropped(f"{DRAIN} responses", "415"), "drainPool: 415 is not declared"),
    ("responses", dropped("data components responses TooManyRequests headers", "Retry-After"), "429: no Retry-After"),
    ("responses", dropped(f"{POST} responses 202 headers", "X-Correlation-Id"), "202: no X-Correlation-Id"),
    ("responses", dropped("data components responses NotFound", "content"), "getTask 404: an error needs a body"),
    ("good examples", changed(f"{POST} requestBody content application/json", "examples", {}), "no example"),
    (
        "good examples",
        changed(f"{POST} requestBody content application/json examples smallest", "value", {"prompt": ""}),
        "createTask smallest",
    ),
    (
        "good examples",
        changed(f"{POST} responses 202 content application/json examples queued value", "backoff_ms", -1),
        "createTask 202 queued",
    ),
    ("good examples", dropped("data components parameters TaskId", "examples"), "/path/task_id: no example"),
    (
        "good examples",
        changed(
            "data components examples StreamShort",
            "value",
            [{"event": "token", "id": "1:aaaaaaaa", "data": '{"t":"a"}'}],
        ),
        "/data/i",
    ),
    ("bad examples", dropped(POST, "x-bad-examples"), "createTask: no bad example"),
    (
        "bad examples",
        changed(f"{POST} x-bad-examples two_inputs", "value", {"prompt": "hi"}),
        "two_inputs: faults at []",
    ),
    ("bad examples", changed(f"{POST} x-bad-examples no_role", "pointers", ["/messages/1/role"]), "no_role: faults at"),
    (
        "bad examples",
        changed("data paths /v1/tasks get x-bad-examples limit_zero", "value", 1),
        "limit_zero: faults at []",
    ),
    ("limits", dropped(f"{SCHEMAS} TaskRequest properties max_tokens", "maximum"), "TaskRequest.max_tokens: needs"),
    ("limits", dropped(f"{SCHEMAS} TaskRequest properties prompt", "maxLength"), "TaskRequest.prompt: needs"),
    ("limits", dropped(f"{SCHEMAS} TaskList properties tasks", "maxItems"), "TaskList.tasks: needs"),
    ("limits", dropped(f"{SCHEMAS} TokenEvent properties t", "description"), "TokenEvent.t: no description"),
    ("limits", dropped(f"{SCHEMAS} TokenEvent", "description"), "TokenEvent: no description"),
    ("request lists", changed(f"{SCHEMAS} TaskRequest properties inputs", "maxItems", 1025), "createTask: /inputs"),
    ("request lists", dropped(f"{SCHEMAS} Sampling properties stop", "maxItems"), "createTask: /sampling/stop"),
]


@pytest.mark.req("ORCH-4284")
@pytest.mark.parametrize(("name", "plant", "told"), FAULTS, ids=[f"{fault[0]}: {fault[2]}" for fault in FAULTS])
def test_each_rule_catches_its_fault(
    name: str, plant: Callable[[dict[str, Object]], None], told: str, planes: dict[str, Object]
) -> None:
    """A planted fault is named by the check that is there for it."""
    broken = copy.deepcopy(planes)
    plant(broken)
    assert any(told in problem for problem in CHECKS[name](broken))


@pytest.mark.req("ORCH-4029")
def test_the_program_knows_exactly_the_declared_operations(planes: dict[str, Object]) -> None:
    """What the program lists is what stands under `paths` in the files."""
    written = {
        (method.upper(), path)
        for document in planes.values()
        for path, item in as_object(document["paths"], "paths").items()
        for method in as_object(item, path)
        if method in METHODS
    }
    listed = [(operation.method, operation.path) for operation in declared_operations()]
    assert len(listed) == len(written) == 22
    assert set(listed) == written


@pytest.mark.req("ORCH-4134", "ORCH-4193")
def test_only_the_probes_need_no_key() -> None:
    """Every call but the two probes names the scope that a key needs."""
    scopes = {operation.path: operation.scope for operation in declared_operations()}
    assert {path for path, scope in scopes.items() if scope is None} == {"/healthz", "/readyz"}
    assert {path for path, scope in scopes.items() if scope == "tasks"} == {
        operation.path for operation in declared_operations() if operation.plane == "data"
    }
