"""Each status of the HTTP layer is provoked once on every call, by hand, and is answered as the contract declares it there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from orchqueue.schema.contract import DeclaredOperation, declared_operations
from tests.contract.edge.hostile import Reply, head, read_reply
from tests.contract.fuzz.answers import answer_faults
from tests.contract.fuzz.conftest import POOL, QUICK, Guarded
from tests.daemon import Daemon
from tests.simulated import serving
from tests.waiting import until

PATIENCE_S = 30.0
LIMIT_BYTES = 4_096
CONNECTIONS = 100
# A limit that a test is not about must not be short: on a machine that stalls it would answer instead.
SMALL = f"server: {{limits: {{body_bytes: {LIMIT_BYTES}, header_bytes: {LIMIT_BYTES}}}}}\n"
HURRIED = "server: {limits: {header_timeout_ms: 2000, body_timeout_ms: 400}}\n"
CROWDED = f"server: {{limits: {{header_timeout_ms: 60000, connections: {CONNECTIONS}}}}}\n"
UNKNOWN = "00000000-0000-4000-8000-00000000dead"
OPERATIONS = declared_operations()
Sent = tuple[bytes, ...]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serve with small limits."""
    with serving(tmp_path_factory.mktemp("small"), SMALL, *QUICK, pool_id=POOL) as daemon:
        yield daemon


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Daemon]:
    """Serve with little patience."""
    with serving(tmp_path, HURRIED, *QUICK, pool_id=POOL) as daemon:
        yield daemon


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Daemon]:
    """Serve few connections, however slowly what they are for comes."""
    with serving(tmp_path, CROWDED, *QUICK, pool_id=POOL) as daemon:
        yield daemon


def path_of(operation: DeclaredOperation, pool_id: str = POOL) -> str:
    """Fill in a path's parameters; ids are those of nothing."""
    return operation.path.replace("{pool_id}", pool_id).replace("{task_id}", UNKNOWN).replace("{session_id}", UNKNOWN)


def request(operation: DeclaredOperation, *lines: str, method: str | None = None) -> bytes:
    """Write the head of a call."""
    return head(method or operation.method, path_of(operation), *lines)


def slow(operation: DeclaredOperation) -> Sent:
    """Stop in the middle: of the body where the call reads one, else of the headers."""
    if operation.body is not None:
        return request(operation, "Content-Type: application/json", "Content-Length: 99"), b"{"
    return (request(operation)[:-2] + b"X-A",)


PROVOCATIONS: dict[int, Callable[[DeclaredOperation], Sent]] = {
    400: lambda one: (request(one, "Host: another"),),
    405: lambda one: (request(one, method="PATCH"),),
    408: slow,
    413: lambda one: (request(one, "Content-Type: application/json", f"Content-Length: {LIMIT_BYTES + 1}"),),
    415: lambda one: (request(one, "Content-Type: text/plain", "Content-Length: 2"), b"{}"),
    431: lambda one: (request(one, "X-A: " + "a" * LIMIT_BYTES),),
}
TAKE_A_BODY = frozenset({415})


def ask(daemon: Daemon, sent: Sent) -> socket.socket:
    """Send on a connection of its own."""
    wire = socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S)
    for piece in sent:
        wire.sendall(piece)
    return wire


def faults_of_reply(operation: DeclaredOperation, wanted: int, reply: Reply) -> list[str]:
    """Compare an answer with the status that was provoked and with the contract."""
    if reply.status != wanted:
        return [f"{operation.id}: {reply.status} where {wanted} was provoked"]
    return [f"{operation.id}: {fault}" for fault in answer_faults(operation.id, wanted, reply.headers, reply.body)]


@pytest.mark.req("ORCH-4045", "ORCH-4021", "ORCH-4022")
@pytest.mark.parametrize("status", PROVOCATIONS)
def test_statuses_of_the_http_layer(request: pytest.FixtureRequest, status: int) -> None:
    """Every call that can be answered so, is, with the declared headers and body."""
    daemon: Daemon = request.getfixturevalue("hurried" if status == 408 else "small")
    faults: list[str] = []
    with ExitStack() as wires:
        asked = [
            (one, wires.enter_context(ask(daemon, PROVOCATIONS[status](one))))
            for one in OPERATIONS
            if status not in TAKE_A_BODY or one.body is not None
        ]
        for operation, wire in asked:
            faults += faults_of_reply(operation, status, read_reply(wire))
    assert len(asked) >= 3
    assert faults == []


@pytest.mark.req("ORCH-4045", "ORCH-4023")
def test_one_connection_too_many(crowded: Daemon) -> None:
    """On every call the client beyond the limit is told so, and when to come back."""
    faults: list[str] = []
    with ExitStack() as wires:
        held = 0

        def fill() -> bool:
            """Hold connections that were really let in; those by which it was seen ready may still be on their way out."""
            nonlocal held
            wire = ask(crowded, (request(OPERATIONS[0], method="PATCH"),))
            if read_reply(wire).status == 405:
                wires.enter_context(wire)
                held += 1
            else:
                wire.close()
            return held == CONNECTIONS

        until(fill, what="as many connections as may be open")
        for operation in OPERATIONS:
            with ask(crowded, (request(operation),)) as wire:
                faults += faults_of_reply(operation, 429, read_reply(wire))
    assert faults == []


@pytest.mark.req("ORCH-4045", "ORCH-4021")
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "HEAD"])
def test_methods_that_nothing_knows(open_daemon: Daemon, method: str) -> None:
    """Each is a 405 that names those that the path knows."""
    faults: list[str] = []
    for operation in OPERATIONS:
        with ask(open_daemon, (request(operation, method=method),)) as wire:
            reply = read_reply(wire, method=method)
        known = sorted(one.method for one in OPERATIONS if one.path == operation.path)
        if reply.status != 405 or reply.headers.get("allow") != ", ".join(known):
            faults.append(f"{operation.id}: {reply}")
        if method != "HEAD":
            faults += faults_of_reply(operation, 405, reply)
    assert faults == []


@pytest.mark.req("ORCH-4045", "ORCH-4193", "ORCH-4194")
def test_keys_on_every_call(guarded: Guarded) -> None:
    """Without a key, with an unknown one and with one for something else, every call but the probes is refused."""
    plain = guarded.of_scope("tasks")
    faults: list[str] = []
    client = httpx.Client(base_url=guarded.daemon.url, timeout=PATIENCE_S)
    for operation in OPERATIONS:
        if operation.scope is None:
            continue
        tried = [({}, 401), ({"x-api-key": "oq_x_y"}, 401), ({"authorization": "Basic YTpi"}, 401)]
        if operation.scope == "control":
            tried.append(({"authorization": f"Bearer {plain}"}, 403))
        for headers, status in tried:
            answer = client.request(operation.method, path_of(operation), headers=headers)
            if answer.status_code != status:
                faults.append(f"{operation.id}: {answer.status_code} where {status} was provoked")
            faults += answer_faults(operation.id, answer.status_code, answer.headers, answer.content)
    client.close()
    assert faults == []


@pytest.mark.req("ORCH-4045", "ORCH-2006", "ORCH-3024", "ORCH-2002")
def test_ids_that_are_unknown_or_in_conflict(open_daemon: Daemon) -> None:
    """404 wherever an id is looked up, 409 where something else stands in the way."""
    url, tasks = open_daemon.url, f"{open_daemon.url}/v1/tasks"
    faults: list[str] = []

    def expect(operation_id: str, status: int, answer: httpx.Response) -> None:
        if answer.status_code != status:
            faults.append(f"{operation_id}: {answer.status_code} where {status} was provoked")
        faults.extend(answer_faults(operation_id, answer.status_code, answer.headers, answer.content))

    for operation in OPERATIONS:
        if "404" in operation.responses:
            body = {"new_model_ref": "repo:a/b"} if operation.body else None
            path = path_of(operation, pool_id="nowhere")
            expect(operation.id, 404, httpx.request(operation.method, url + path, json=body, timeout=PATIENCE_S))
    first = httpx.post(tasks, json={"prompt": "one"}, timeout=PATIENCE_S)
    task_id = first.json()["task_id"]
    expect("createTask", 202, first)
    expect("createTask", 409, httpx.post(tasks, json={"prompt": "two", "task_id": task_id}, timeout=PATIENCE_S))
    httpx.get(f"{tasks}/{task_id}/stream", timeout=PATIENCE_S)
    foreign = {"last-event-id": "1:00000000"}
    expect("streamTask", 409, httpx.get(f"{tasks}/{task_id}/stream", headers=foreign, timeout=PATIENCE_S))
    expect("rollbackPool", 409, httpx.post(f"{url}/v1/pools/{POOL}/rollback", timeout=PATIENCE_S))
    expect("rollbackConfig", 409, httpx.post(f"{url}/v1/config/rollback", timeout=PATIENCE_S))
    canary = {"new_model_ref": "repo:org/next", "canary_percent": 10}
    expect("reloadPool", 409, httpx.post(f"{url}/v1/pools/{POOL}/reload", json=canary, timeout=PATIENCE_S))
    assert faults == []


@pytest.mark.req("ORCH-4045", "ORCH-2007", "ORCH-2101")
def test_a_drained_pool_says_when_to_come_back(guarded: Guarded) -> None:
    """While nothing can serve a task, posting one and asking for readiness are the declared 503."""
    headers = {"authorization": f"Bearer {guarded.key}"}
    url = guarded.daemon.url
    drained = httpx.post(f"{url}/v1/pools/{POOL}/drain", json={"deadline_ms": 0}, headers=headers, timeout=PATIENCE_S)
    assert drained.status_code == 202
    posted = httpx.post(f"{url}/v1/tasks", json={"prompt": "hi"}, headers=headers, timeout=PATIENCE_S)
    ready = httpx.get(f"{url}/readyz", timeout=PATIENCE_S)
    for operation_id, answer in (("createTask", posted), ("getReadiness", ready)):
        assert answer.status_code == 503
        assert answer_faults(operation_id, 503, answer.headers, answer.content) == []
