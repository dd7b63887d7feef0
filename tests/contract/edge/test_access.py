"""Who may do what: keys, scopes, tenants, and what a web page cannot do."""

from collections.abc import Iterator
from typing import ClassVar

import httpx
import msgspec
import pytest

from orchqueue.http.auth import Access
from tests.contract.edge.stage import Stage, running
from tests.contract.edge.test_answers import check_declared

TASK = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"


class Someone(msgspec.Struct, frozen=True):
    """The owner of a key."""

    tenant: str
    key_id: str
    scopes: tuple[str, ...]


class Keys:
    """A ring of made-up keys."""

    known: ClassVar = {
        "acme-key": Someone("acme", "k1", ("tasks",)),
        "beta-key": Someone("beta", "k2", ("tasks", "control")),
        "ops-key": Someone("ops", "k3", ("control",)),
    }

    def verify(self, token: str) -> Someone | None:
        return self.known.get(token)


@pytest.fixture
def guarded() -> Iterator[Stage]:
    """Run an edge that wants a key from everyone."""
    with running(access=Access(Keys(), allow_anonymous_loopback=False)) as stage:
        yield stage


def bearer(key: str) -> dict[str, str]:
    """Show a key."""
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.req("ORCH-4194")
@pytest.mark.parametrize(
    "headers",
    [
        {}, bearer("wrong"), {"X-API-Key": "wrong"}, {"X-API-Key": ""}, {"Authorization": "Bearer"},
        {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer acme-key", "X-API-Key": "beta-key"},
    ],
)  # fmt: skip
def test_unknown_callers_get_401(guarded: Stage, headers: dict[str, str]) -> None:
    """A missing, unknown or contradictory credential gets one and the same 401."""
    response = httpx.get(f"{guarded.url}/v1/tasks", headers=headers)
    assert response.status_code == 401
    check_declared(response, "listTasks")
    assert response.json()["message"] == "a valid API key is required"
    assert set(response.json()) == {"message", "correlation_id"}


@pytest.mark.req("ORCH-4024", "ORCH-4192", "ORCH-4193")
@pytest.mark.parametrize(
    ("key", "path", "status"),
    [("acme-key", "/v1/tasks", 200), ("acme-key", "/v1/pools", 403), ("ops-key", "/v1/pools", 200),
     ("ops-key", "/v1/tasks", 403), ("beta-key", "/metrics", 200), ("acme-key", "/metrics", 403)],
)  # fmt: skip
def test_scopes(guarded: Stage, key: str, path: str, status: int) -> None:
    """A key opens its scope and nothing else, in either header."""
    assert httpx.get(guarded.url + path, headers=bearer(key)).status_code == status
    assert httpx.get(guarded.url + path, headers={"X-API-Key": key}).status_code == status


@pytest.mark.req("ORCH-4134")
def test_probes_need_no_key(guarded: Stage) -> None:
    """Probes answer anyone."""
    assert [httpx.get(guarded.url + path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.req("ORCH-3036", "ORCH-4067")
def test_other_tenants_tasks_are_unknown(guarded: Stage) -> None:
    """Another tenant's task can neither be seen, read, cancelled nor listed, and its id is free for oneself."""
    url = f"{guarded.url}/v1/tasks"
    mine = httpx.post(url, json={"task_id": TASK, "prompt": "mine"}, headers=bearer("acme-key"))
    assert mine.status_code == 202
    for method, path in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
        response = httpx.request(method, f"{url}/{TASK}{path}", headers=bearer("beta-key"))
        assert response.status_code == 404, path
    assert httpx.get(url, headers=bearer("beta-key")).json()["tasks"] == []
    assert httpx.post(url, json={"task_id": TASK, "prompt": "theirs"}, headers=bearer("beta-key")).status_code == 202
    (own,) = httpx.get(url, headers=bearer("acme-key")).json()["tasks"]
    assert own["task_id"] == TASK
    assert [one.client_id for one in guarded.runtime.accepted.values()] == ["k1", "k2"]


@pytest.mark.req("ORCH-4069")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202), ({"Host": "localhost:8080"}, 202), ({"Host": "[::1]:8080"}, 202), ({"Host": "127.8.8.8"}, 202),
        ({"Host": "evil.example"}, 403), ({"Host": "127.0.0.1.evil.example"}, 403), ({"Host": "0.0.0.0"}, 403),
        ({"Origin": "null"}, 403), ({"Origin": "http://evil.example"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403), ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 202),
        ({"Host": "localhost:8080", "Origin": "http://localhost:3000"}, 403),
    ],
)  # fmt: skip
def test_web_pages_cannot_post(stage: Stage, headers: dict[str, str], status: int) -> None:
    """Without keys only requests under a name of this machine, and not from another page, change anything."""
    response = httpx.post(f"{stage.url}/v1/tasks", json={"prompt": "hi"}, headers=headers)
    assert response.status_code == status
    assert stage.runtime.submissions == (1 if status == 202 else 0)


@pytest.mark.req("ORCH-4192")
def test_a_shown_key_decides_alone(stage: Stage) -> None:
    """A wrong key is wrong also where none would have been needed."""
    assert httpx.get(f"{stage.url}/v1/tasks", headers=bearer("wrong")).status_code == 401


@pytest.mark.req("ORCH-4070")
@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_a_proxy_s_callers_are_not_this_machine_s(stage: Stage, header: str) -> None:
    """A proxy on this machine does not lend its callers the right to come without a key."""
    assert httpx.get(f"{stage.url}/v1/tasks", headers={header: "203.0.113.9"}).status_code == 401
