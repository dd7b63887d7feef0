"""What fuzzing brought out once, each as a plain test: the request, its status and the place that is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import pytest

from tests.contract.fuzz.answers import answer_faults
from tests.contract.fuzz.generated import is_refused_by_the_engine
from tests.contract.fuzz.transcripts import events_of, transcript_faults
from tests.daemon import Daemon
from tests.waiting import until

SESSION = "/v1/sessions/"


@dataclass(frozen=True)
class Found:
    """A request that was once answered against the contract. `pointers`: the faults that its answer names."""

    name: str
    operation_id: str
    method: str
    path: str
    status: int
    pointers: tuple[str, ...] = ()
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


FOUND = (
    Found("a newline in a field's name", "createTask", "POST", "/v1/tasks", 400, ("/a\nb",), b'{"prompt":"a","a\\nb":"\\u0000"}'),
    Found("a huge integer in a field that is ignored", "createTask", "POST", "/v1/tasks", 400, ("/x/0",),
          b'{"prompt":"a","x":[8320098272686565752832]}'),
    Found("a control character in an id", "deleteSession", "DELETE", f"{SESSION}%12", 400, ("/path/session_id",)),
    Found("no UTF-8 in an id", "deleteSession", "DELETE", f"{SESSION}%ff%fe", 400, ("/path/session_id",)),
    Found("dots for an id", "deleteSession", "DELETE", f"{SESSION}%2e%2e", 400, ("/path/session_id",)),
    Found("a line's end in an id", "deleteSession", "DELETE", f"{SESSION}00000000-0000-4000-8000-00000000dead%0a", 400,
          ("/path/session_id",)),
    Found("a correlation id that does not fit", "getUsage", "GET", "/v1/usage", 200, headers={"X-Correlation-Id": "a b"}),
    Found("an empty correlation id", "getUsage", "GET", "/v1/usage", 200, headers={"X-Correlation-Id": ""}),
)  # fmt: skip


@pytest.mark.req("ORCH-4045", "ORCH-4020", "ORCH-4021")
@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_once_found(open_daemon: Daemon, found: Found) -> None:
    """The request is answered as the contract declares it, with exactly these places named."""
    answer = httpx.request(
        found.method, open_daemon.url + found.path, content=found.body or None, headers=found.headers, timeout=30
    )
    assert answer.status_code == found.status, answer.text
    assert answer_faults(found.operation_id, found.status, answer.headers, answer.content) == []
    told = answer.json().get("faults", []) if found.pointers else []
    assert tuple(fault["pointer"] for fault in told) == found.pointers


@pytest.mark.req("ORCH-4045", "ORCH-2002")
def test_empty_last_event_id_is_the_start(open_daemon: Daemon) -> None:
    """A reader that has seen no event yet says so with an empty id, as browsers do, and gets everything."""
    posted = httpx.post(f"{open_daemon.url}/v1/tasks", json={"prompt": "hi", "max_tokens": 4}, timeout=30).json()
    url = open_daemon.url + posted["links"]["stream"]
    whole = httpx.get(url, headers={"Last-Event-ID": ""}, timeout=30)
    assert transcript_faults(whole.content) == []
    kinds = [event["event"] for event in events_of(whole.content) if event["event"] != "metrics"]
    assert (kinds[0], kinds[-1]) == ("started", "end")


@pytest.mark.req("ORCH-4045", "ORCH-4040")
def test_engine_that_refuses_first_is_no_fault_of_the_contract(open_daemon: Daemon) -> None:
    """A grammar that no engine can parse comes back as 400 when the engine was quicker than the reader; only that is excused."""
    body = {"prompt": "hi", "max_tokens": 4, "task_id": str(uuid4()), "sampling": {"grammar": "="}}
    with httpx.Client(base_url=open_daemon.url, timeout=30) as client:
        task = client.post("/v1/tasks", json=body).json()["links"]["self"]
        until(lambda: client.get(task).json()["state"] == "failed", what="the engine's refusal")
        answer = client.post("/v1/tasks", json=body, headers={"accept": "text/event-stream"})
    assert answer.status_code == 400, answer.text
    assert answer_faults("createTask", 400, answer.headers, answer.content) == []
    assert is_refused_by_the_engine("createTask", body, answer.json())
    assert not is_refused_by_the_engine("createTask", {"prompt": "hi"}, answer.json())
    assert not is_refused_by_the_engine(
        "createTask", body, {"code": "INVALID_PARAMS", "message": "the edge refused it"}
    )
