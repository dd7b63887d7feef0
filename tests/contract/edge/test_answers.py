"""Every call answers as the contract declares it, in success and in refusal."""

import json
import uuid
from collections.abc import Callable, Mapping

import httpx
import pytest

from orchqueue.core.ids import TaskId, TaskKey, task_key
from orchqueue.core.outcome import MEANINGS, Fault, Outcome, Refusal
from orchqueue.core.snapshots import SessionPicture
from orchqueue.http.app import build_app
from orchqueue.http.auth import Access
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.routing import Router
from orchqueue.ports.telemetry import LogValue
from orchqueue.runtime.streams import Streams
from orchqueue.schema.contract import DeclaredOperation, declared_operations
from orchqueue.schema.validation import response_faults
from tests.contract.edge.stage import LOCAL, Runtime, Stage
from tests.waiting import until

TASK = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
SESSION = "6d1f0c52-9a8e-4a53-8f9d-3a5d0e6b7c21"
KEY: TaskKey = task_key(LOCAL, TaskId(TASK))
REFUSALS = [outcome for outcome, meaning in MEANINGS.items() if meaning.code is not None]


def check_declared(response: httpx.Response, operation_id: str) -> None:
    """Demand that status, headers and body are declared for the call.

    Errors: AssertionError.
    """
    (operation,) = (one for one in declared_operations() if one.id == operation_id)
    assert str(response.status_code) in operation.responses, f"{operation_id}: {response.status_code} is not declared"
    declared = operation.responses[str(response.status_code)]
    missing = [name for name in declared.headers if name.lower() not in response.headers]
    assert not missing, f"{operation_id}: headers {missing} are missing"
    if not declared.content:
        assert response.content == b""
        return
    media_type = response.headers["content-type"].partition(";")[0]
    value = json.loads(response.content) if media_type == "application/json" else response.text
    assert response_faults(operation_id, response.status_code, media_type, value) == []


def posted(stage: Stage, **fields: object) -> httpx.Response:
    """Post the task."""
    return httpx.post(f"{stage.url}/v1/tasks", json={"task_id": TASK, "prompt": "hi", **fields})


@pytest.mark.req("ORCH-2001", "ORCH-3046", "ORCH-4050", "ORCH-4051")
def test_post_is_accepted(stage: Stage) -> None:
    """A task gets its 202 with position, prediction, seed and links, also in the headers."""
    response = posted(stage, session_id=SESSION.upper(), sampling={"temperature": 0, "json_schema": {"z": 1, "a": 2}})
    check_declared(response, "createTask")
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/tasks/{TASK}"
    assert (response.headers["x-queue-position"], response.headers["x-queue-eta-ms"]) == ("0", "12")
    spec = stage.runtime.accepted[KEY].spec
    assert spec.session_id == SESSION
    assert spec.sampling.json_schema == '{"z":1,"a":2}'
    assert spec.seed == response.json()["seed"]


@pytest.mark.req("ORCH-2001", "ORCH-2008", "ORCH-4054")
def test_plain_curl_is_understood(stage: Stage) -> None:
    """What `curl -d` sends, with a form's type and no id, is a task with an id of ours."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = httpx.post(f"{stage.url}/v1/tasks", content=b'{"prompt":"hi"}', headers=form)
    assert response.status_code == 202
    assert uuid.UUID(response.json()["task_id"]).version == 4


AT_ONCE = {"accept": "text/event-stream"}


TASK_FAILURES = [outcome for outcome in REFUSALS if outcome is not Outcome.UNKNOWN_ID]


@pytest.mark.parametrize("outcome", TASK_FAILURES)
@pytest.mark.req("ORCH-4040")
def test_stream_that_failed_before_it_began_is_answered_by_its_code(stage: Stage, outcome: Outcome) -> None:
    """A post that asks for the stream of a task that failed without a character gets the code's status and the task's id."""
    assert posted(stage).status_code == 202
    stage.on_loop(lambda: stage.runtime.finish(KEY, outcome, "as planned"))
    response = httpx.post(f"{stage.url}/v1/tasks", json={"task_id": TASK, "prompt": "hi"}, headers=AT_ONCE)
    check_declared(response, "createTask")
    meaning = MEANINGS[outcome]
    assert (response.status_code, response.json()["code"]) == (meaning.status, meaning.code)
    assert (response.json()["message"], response.headers["x-task-id"]) == ("as planned", TASK)
    assert ("retry-after" in response.headers) == (meaning.status in (429, 503))
    assert posted(stage).status_code == 202


@pytest.mark.parametrize("outcome", [Outcome.WALL_TIMEOUT, Outcome.COMPLETED, Outcome.CANCELED_BY_CLIENT])
@pytest.mark.req("ORCH-4040")
def test_other_ends_are_told_in_the_stream(stage: Stage, outcome: Outcome) -> None:
    """A failure after some text, an end and a cancel, even without any text, are a stream with its terminal event."""
    assert posted(stage).status_code == 202
    if outcome is Outcome.WALL_TIMEOUT:
        stage.on_loop(lambda: stage.runtime.streams.tokens(KEY, ("some",)))
    stage.on_loop(lambda: stage.runtime.finish(KEY, outcome))
    response = httpx.post(f"{stage.url}/v1/tasks", json={"task_id": TASK, "prompt": "hi"}, headers=AT_ONCE)
    assert response.status_code == 200
    assert ("event: error" if outcome is Outcome.WALL_TIMEOUT else "event: end") in response.text


@pytest.mark.req("ORCH-4054")
def test_ids_are_the_same_in_any_case(stage: Stage) -> None:
    """A task posted in capitals is the one that is read in small letters."""
    first = posted(stage)
    again = httpx.post(f"{stage.url}/v1/tasks", json={"task_id": TASK.upper(), "prompt": "hi"})
    assert (again.status_code, again.json()) == (202, first.json())
    assert httpx.get(f"{stage.url}/v1/tasks/{TASK.upper()}").json()["task_id"] == TASK
    other = posted(stage, max_tokens=3)
    assert other.status_code == 409
    check_declared(other, "createTask")


@pytest.mark.req("ORCH-2006", "ORCH-2007", "ORCH-4115")
@pytest.mark.parametrize("outcome", REFUSALS, ids=lambda outcome: outcome.value)
def test_every_refusal_is_told(stage: Stage, outcome: Outcome) -> None:
    """Each row of the outcome table becomes its status and envelope; waiting is told in seconds rounded up."""
    stage.runtime.refusal = Refusal(outcome, "why", (Fault("/ctx", "too large"),), 1_001, "llamacpp", "default", TASK)
    response = posted(stage)
    meaning = MEANINGS[outcome]
    told = response.json()
    assert response.status_code == meaning.status
    assert (told["code"], told["retriable"], told.get("policy_label")) == (
        meaning.code, meaning.retriable, meaning.policy_label,
    )  # fmt: skip
    assert told["correlation_id"] == response.headers["x-correlation-id"]
    if meaning.status in (429, 503):
        assert (response.headers["retry-after"], response.headers["x-backoff-ms"]) == ("2", "1001")
        assert told["retry_after_ms"] == 1_001
    else:
        assert "retry-after" not in response.headers
    if outcome is not Outcome.UNKNOWN_ID:
        check_declared(response, "createTask")


@pytest.mark.req("ORCH-4121")
def test_unknown_backoff_still_says_when(stage: Stage) -> None:
    """A refusal that knows no time to wait names one second rather than none."""
    stage.runtime.refusal = Refusal(Outcome.POOL_UNREADY, "loading")
    response = posted(stage)
    check_declared(response, "createTask")
    assert (response.headers["retry-after"], response.headers["x-backoff-ms"]) == ("1", "1000")


@pytest.mark.req("ORCH-4117")
def test_a_bug_is_an_answer_too(stage: Stage) -> None:
    """An exception becomes INTERNAL and a log line, neither of which holds what the exception said."""
    stage.runtime.bug = RuntimeError("the prompt was hi")
    response = posted(stage)
    check_declared(response, "createTask")
    assert response.json()["code"] == "INTERNAL"
    logged = [fields for event, fields in stage.log if event == "internal_error"]
    assert [fields["correlation_id"] for fields in logged] == [response.headers["x-correlation-id"]]
    assert "prompt" not in response.text
    assert "the prompt" not in json.dumps(logged)


@pytest.mark.req("ORCH-4002", "ORCH-4053")
def test_task_through_its_life(stage: Stage) -> None:
    """A task is looked at while it waits, after it ended well, and after it failed."""
    posted(stage)
    look: Callable[[], httpx.Response] = lambda: httpx.get(f"{stage.url}/v1/tasks/{TASK}")  # noqa: E731
    waiting = look()
    check_declared(waiting, "getTask")
    assert (waiting.json()["state"], waiting.json()["text"]) == ("queued", "")
    stage.on_loop(lambda: stage.runtime.streams.tokens(KEY, ("Hello",)))
    assert look().json()["text"] == "Hello"
    stage.on_loop(lambda: stage.runtime.finish(KEY))
    ended = look()
    check_declared(ended, "getTask")
    assert ended.json()["receipt"]["digest"] == "185f8db32271fe25f561a6fc938b2e264306ec304eda518007d1764826381969"


@pytest.mark.req("ORCH-4002")
def test_failed_task_tells_its_error(stage: Stage) -> None:
    """A task that failed shows the envelope with the correlation id it was posted under."""
    response = httpx.post(
        f"{stage.url}/v1/tasks", json={"task_id": TASK, "prompt": "hi"}, headers={"X-Correlation-Id": "mine-1"}
    )
    assert response.headers["x-correlation-id"] == "mine-1"
    stage.on_loop(lambda: stage.runtime.finish(KEY, Outcome.IDLE_TIMEOUT, "no token for 5 s"))
    failed = httpx.get(f"{stage.url}/v1/tasks/{TASK}")
    check_declared(failed, "getTask")
    assert failed.json()["state"] == "failed"
    assert failed.json()["error"]["code"] == "DECODE_TIMEOUT"
    assert failed.json()["error"]["correlation_id"] == "mine-1"


@pytest.mark.req("ORCH-4001")
def test_tasks_are_listed_in_pages(stage: Stage) -> None:
    """The newest task comes first, and the cursor leads to the rest."""
    for _ in range(3):
        httpx.post(f"{stage.url}/v1/tasks", json={"prompt": "hi"})
    posted(stage, priority="batch")
    page = httpx.get(f"{stage.url}/v1/tasks", params={"limit": 3})
    check_declared(page, "listTasks")
    assert page.json()["tasks"][0]["task_id"] == TASK
    rest = httpx.get(f"{stage.url}/v1/tasks", params={"limit": 3, "cursor": page.json()["next_cursor"]})
    assert (len(rest.json()["tasks"]), "next_cursor" in rest.json()) == (1, False)
    batch = httpx.get(f"{stage.url}/v1/tasks", params={"priority": "batch", "state": "queued"})
    assert [task["task_id"] for task in batch.json()["tasks"]] == [TASK]


@pytest.mark.req("ORCH-2003", "ORCH-4110")
def test_cancel_answers_204_each_time(stage: Stage) -> None:
    """Cancelling, and cancelling again, is 204; nothing known is 404."""
    posted(stage)
    for _ in range(2):
        response = httpx.post(f"{stage.url}/v1/tasks/{TASK}/cancel")
        assert response.status_code == 204
        check_declared(response, "cancelTask")
    assert httpx.get(f"{stage.url}/v1/tasks/{TASK}").json()["state"] == "canceled"


@pytest.mark.req("ORCH-2004", "ORCH-2005")
def test_sessions(stage: Stage) -> None:
    """A session is looked at and forgotten; forgetting an unknown one is fine."""
    stage.runtime.sessions[LOCAL, SESSION] = SessionPicture(SESSION, 421_000, 3, 7_340_032, True)
    found = httpx.get(f"{stage.url}/v1/sessions/{SESSION.upper()}")
    check_declared(found, "getSession")
    assert found.json() == {"ttl_ms_remaining": 421_000, "turns": 3, "kv_bytes": 7_340_032, "kv_warmth": True}
    gone = httpx.delete(f"{stage.url}/v1/sessions/{SESSION}")
    check_declared(gone, "deleteSession")
    assert stage.runtime.forgotten == [(LOCAL, SESSION)]


@pytest.mark.req(
    "ORCH-2060",
    "ORCH-2103",
    "ORCH-2104",
    "ORCH-4024",
    "ORCH-4025",
    "ORCH-4030",
    "ORCH-4080",
    "ORCH-4132",
    "ORCH-4280",
)
@pytest.mark.parametrize(
    ("path", "operation_id"),
    [
        ("/v1/pools", "listPools"), ("/v1/pools/default/health", "getPoolHealth"), ("/v1/replicasets", "listReplicaSets"),
        ("/v1/capabilities", "getCapabilities"), ("/v1/models", "listModels"), ("/metrics", "getMetrics"),
        ("/healthz", "getLiveness"), ("/readyz", "getReadiness"),
    ],
)  # fmt: skip
def test_what_operators_read(stage: Stage, path: str, operation_id: str) -> None:
    """Each read of the control plane answers 200 with the declared body."""
    response = httpx.get(stage.url + path)
    assert response.status_code == 200
    check_declared(response, operation_id)


@pytest.mark.req("ORCH-2101", "ORCH-2102", "ORCH-3034", "ORCH-4130")
@pytest.mark.parametrize(
    ("verb", "body", "operation_id"),
    [("drain", {}, "drainPool"), ("drain", None, "drainPool"), ("drain", {"deadline_ms": 9_000}, "drainPool"),
     ("reload", {"new_model_ref": "file:m.gguf", "canary_percent": 10}, "reloadPool"), ("rollback", None, "rollbackPool")],
)  # fmt: skip
def test_steering_a_pool(stage: Stage, verb: str, body: dict[str, object] | None, operation_id: str) -> None:
    """Drain, reload and rollback answer 202 with what was begun, and tell a conflict."""
    url = f"{stage.url}/v1/pools/default/{verb}"
    response = httpx.post(url, json=body) if body is not None else httpx.post(url)
    assert response.status_code == 202
    check_declared(response, operation_id)
    assert response.json()["operation"] == verb
    if verb == "drain":
        assert response.json()["deadline_ms"] == 5_000, "the deadline in effect, not the one asked for"
    if verb == "reload":
        assert response.json()["canary_percent"] == 10, "the share in effect"
    stage.runtime.control_refusal = Refusal(Outcome.POOL_UNREADY, "a reload is under way", pool_id="default")
    refused = httpx.post(url, json=body) if body is not None else httpx.post(url)
    assert refused.status_code == 503
    check_declared(refused, operation_id)


@pytest.mark.req("ORCH-4205")
def test_config_reload(stage: Stage) -> None:
    """A reload of the configuration tells what changed, or every reason why nothing did."""
    response = httpx.post(f"{stage.url}/v1/config/reload")
    check_declared(response, "reloadConfig")
    assert response.json() == {"applied": ["/tenants", "/slo"], "needs_restart": []}
    stage.runtime.control_refusal = Refusal(Outcome.INVALID, "no", (Fault("/pools/0", "bad"), Fault("/slo", "bad")))
    refused = httpx.post(f"{stage.url}/v1/config/reload")
    check_declared(refused, "reloadConfig")
    assert [fault["pointer"] for fault in refused.json()["faults"]] == ["/pools/0", "/slo"]


@pytest.mark.req("ORCH-4207")
def test_config_rollback(stage: Stage) -> None:
    """A rollback of the configuration tells what changed back, or 409 where there is nothing to take back."""
    response = httpx.post(f"{stage.url}/v1/config/rollback")
    check_declared(response, "rollbackConfig")
    assert response.json() == {"applied": ["/tenants"], "needs_restart": []}
    stage.runtime.control_refusal = Refusal(Outcome.CONFLICT, "no configuration to go back to")
    refused = httpx.post(f"{stage.url}/v1/config/rollback")
    assert refused.status_code == 409
    check_declared(refused, "rollbackConfig")


@pytest.mark.req("ORCH-4025", "ORCH-4133")
def test_not_ready_says_why(stage: Stage) -> None:
    """Readiness is 503 with the reasons while liveness stays 200."""
    stage.runtime.reasons = ["pool default: loading"]
    response = httpx.get(f"{stage.url}/readyz")
    assert response.status_code == 503
    check_declared(response, "getReadiness")
    assert "loading" in response.json()["message"]
    assert httpx.get(f"{stage.url}/healthz").status_code == 200


@pytest.mark.req("ORCH-2052")
@pytest.mark.parametrize("given", ["a b", "", "x" * 129, 'a"b', "ü"])
def test_bad_correlation_id_is_replaced(stage: Stage, given: str) -> None:
    """A correlation id that is not well formed is replaced, not refused."""
    response = httpx.get(f"{stage.url}/healthz", headers={b"X-Correlation-Id": given.encode("latin-1")})
    assert response.status_code == 200
    assert uuid.UUID(response.headers["x-correlation-id"]).version == 4


@pytest.mark.req("ORCH-4079")
def test_each_request_is_logged_once_under_its_id(stage: Stage) -> None:
    """One log line per request carries the correlation id, the tenant, the task and the status."""
    posted(stage)
    httpx.get(f"{stage.url}/v1/tasks/{TASK}", headers={"X-Correlation-Id": "look-1"})

    def lines() -> list[Mapping[str, LogValue]]:
        return [fields for event, fields in stage.log if event == "request" and fields["correlation_id"] == "look-1"]

    # The line is written after the answer.
    until(lines)
    (line,) = lines()
    assert line["job_id"] == TASK
    assert (line["status"], line["tenant_id"]) == (200, "local")


@pytest.mark.req("ORCH-4377")
@pytest.mark.parametrize("operation", declared_operations(), ids=lambda operation: operation.id)
def test_until_recovery_is_over_only_probes_are_answered(stage: Stage, operation: DeclaredOperation) -> None:
    """Nobody is told that a task is not known while it may still lie in the journal; 503 says how far it is."""
    stage.runtime.pending = "recovering 64 of 1000 tasks"
    path = operation.path.replace("{task_id}", TASK).replace("{session_id}", SESSION).replace("{pool_id}", "default")
    response = httpx.request(operation.method, stage.url + path, json={} if operation.body else None)
    check_declared(response, operation.id)
    if operation.id in ("getLiveness", "getReadiness", "getMetrics"):
        assert response.status_code == 200
        return
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (
        503,
        "POOL_UNREADY",
        "1",
    )
    assert "recovering 64 of 1000 tasks" in response.json()["message"]
    assert response.json()["retriable"] is True


@pytest.mark.req("ORCH-4029")
def test_routes_are_the_contract_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app serves exactly the declared operations; one more or one less is refused at start."""
    streams = Streams()
    app = build_app(Runtime(streams), Access(), EdgeLimits(), lambda _pools: b"", lambda _level, _event, _fields: None)
    for operation in declared_operations():
        path = operation.path.replace("{task_id}", TASK).replace("{session_id}", SESSION).replace("{pool_id}", "p")
        route, _ = app.router.find(operation.method.upper(), path.encode())
        assert route.operation.id == operation.id
    with pytest.raises(ValueError, match="createTask"):
        Router({})
    left_out, *fewer = declared_operations()
    monkeypatch.setattr("orchqueue.http.routing.declared_operations", lambda: fewer)
    with pytest.raises(ValueError, match=left_out.id):
        build_app(Runtime(streams), Access(), EdgeLimits(), lambda _pools: b"", lambda _level, _event, _fields: None)
