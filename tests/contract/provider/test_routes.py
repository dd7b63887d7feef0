from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import cast
from urllib.parse import urlsplit

import msgspec
import pytest

from orchqueue.http.app import build_app
from orchqueue.http.auth import Access
from orchqueue.http.gateway import Gateway
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.routing import Route, Router
from tests.contract.provider.answer_law import exchange_faults
from tests.contract.provider.provider_states import SERVING
from tests.contract.provider.recording_proxy import METHODS, Answer, Exchange
from tests.contract.provider.routes import declared_routes, route_faults
from tests.contract.provider.verification import Verification

# Where frameworks, engines and habits put things that this daemon must not have.
FOREIGN_PATHS = (
    "/", "/v1", "/v2/tasks", "/docs", "/redoc", "/openapi.json", "/openapi.yaml", "/debug", "/debug/pprof", "/status",
    "/health", "/version", "/slots", "/props", "/completion", "/v1/completions", "/v1/chat/completions", "/sim/faults",
    "/favicon.ico", "/.well-known/security.txt", "/v1/keys", "/v1/config", "/v1/tasks/", "/v1//tasks", "/v1/tasks/x/y",
    "/v1/pools/default", "/metrics/", "/static/index.html", "/admin",
)  # fmt: skip
EXAMPLES = {"task_id": "11111111-2222-4333-8444-555555555555", "session_id": "6d1f0c52-9a8e-4a53-8f9d-3a5d0e6b7c21"}


def real_router() -> Router:
    """Build the routes that the daemon serves, by the function that it builds them with."""
    gateway = cast("Gateway", None)  # a route is only asked for, never answered here
    return build_app(gateway, Access(), EdgeLimits(), lambda _: b"", lambda *_: None).router


@pytest.mark.req("ORCH-4029")
def test_the_routing_table_is_the_contract() -> None:
    """Every route is declared, every declaration has a route."""
    assert route_faults(real_router()) == []


@pytest.mark.req("ORCH-4029")
def test_a_route_that_is_not_declared_is_found() -> None:
    """A route that somebody adds beside the contract is named; so are one that is lost and one under a wrong method."""
    router = real_router()
    known = router._fixed["v1", "tasks"].routes
    secret = router._place("/v1/secret/{key}")
    secret.routes["GET"] = Route(
        msgspec.structs.replace(known["GET"].operation, path="/v1/secret/{key}"), known["GET"].handler, ()
    )
    known["PUT"] = known.pop("POST")
    assert route_faults(router) == [
        "GET /v1/secret/{key} is answered and not declared",
        "PUT /v1/tasks is answered and not declared",
        "POST /v1/tasks is declared and not answered",
        "PUT of /v1/tasks is answered by createTask, a POST",
    ]


def probes() -> Iterator[tuple[str, str]]:
    """List every method of every path that is not declared, of the contract's own paths and of foreign ones."""
    declared = declared_routes()
    for path in sorted({path for _, path in declared}):
        real = re.sub(r"\{(\w+)\}", lambda name: EXAMPLES.get(name[1], "default"), path)
        yield from ((method, real) for method in METHODS if (method, path) not in declared)
    yield from ((method, path) for path in FOREIGN_PATHS for method in METHODS)


@pytest.mark.req("ORCH-4029", "ORCH-4021")
def test_the_running_daemon_answers_nothing_else(verification: Verification) -> None:
    """What is not declared is 404, or 405 with exactly the declared methods, for a caller with a key for everything."""
    at = verification.deployments.of(SERVING)
    key = at.new_caller().key
    parts = urlsplit(at.url)
    assert parts.hostname is not None
    allowed: dict[str, set[str]] = {}
    for method, path in declared_routes():
        allowed.setdefault(re.sub(r"\{(\w+)\}", lambda name: EXAMPLES.get(name[1], "default"), path), set()).add(method)
    connection = HTTPConnection(parts.hostname, parts.port, timeout=10)
    found: list[str] = []
    for method, path in probes():
        connection.request(method, path, headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        response.read()
        told = set(filter(None, (response.getheader("allow") or "").split(", ")))
        wanted = (405, allowed[path]) if path in allowed else (404, set())
        if (response.status, told) != wanted:
            found.append(f"{method} {path}: {response.status} {sorted(told)} instead of {wanted}")
    connection.close()
    assert found == []


def test_an_exchange_on_an_undeclared_route_is_a_fault() -> None:
    """Whatever a daemon answered under a path of its own, the verification objects."""
    answer = Answer(200, (("X-Correlation-Id", "c-1"), ("Content-Type", "application/json")), b"{}")
    assert exchange_faults(Exchange("GET", "/v1/secret/1?deep=1", (), answer)) == [
        "GET /v1/secret/1?deep=1 is not declared"
    ]
