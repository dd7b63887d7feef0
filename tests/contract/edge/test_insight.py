"""Explanations and usage over HTTP, as the contract declares them and for the caller's own tenant only."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from orchqueue.core.events import TimerFired
from orchqueue.core.ids import TaskId, Tenant, task_key
from orchqueue.core.ledger import QuotaUse
from orchqueue.core.outcome import Outcome
from orchqueue.core.request import PlacementWish, Sampling
from orchqueue.core.usage import DAY_MS
from orchqueue.http.auth import Access
from orchqueue.http.days import day_name
from tests.contract.edge.stage import LOCAL, NOW_MS, Stage, running
from tests.contract.edge.test_access import Keys, bearer
from tests.contract.edge.test_answers import check_declared
from tests.unit.core.driving import Driver, both_classes, key, pool_settings

TASK = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
TODAY = NOW_MS // DAY_MS


@pytest.fixture
def guarded() -> Iterator[Stage]:
    """Run an edge that wants a key from everyone."""
    with running(access=Access(Keys(), allow_anonymous_loopback=False)) as stage:
        yield stage


def waiting(core: Driver) -> None:
    """Let it wait behind another."""
    core.submit("r0")
    core.submit("r1")
    core.submit(TASK, deadline_ms=60_000)


def tried_twice(core: Driver) -> None:
    """Let it run on its second replica."""
    core.submit(TASK)
    core.fail(1, "overloaded")


def succeeded(core: Driver) -> None:
    """Let it end well."""
    core.submit(TASK)
    core.complete(1)


def timed_out(core: Driver) -> None:
    """Let it end by a limit."""
    tried_twice(core)
    core.handle(TimerFired(("wall", key(TASK))), after_ms=60_000)


def dropped(core: Driver) -> None:
    """Let it be another's victim."""
    for name in ("r0", "r1", TASK, "newcomer"):
        core.submit(name)


def refused(core: Driver) -> None:
    """Let it be refused for its faults."""
    core.submit(TASK, placement=PlacementWish("pin", ("nowhere",)))


def refused_for_now(core: Driver) -> None:
    """Let it be refused for want of time."""
    core.submit(TASK, deadline_ms=1, max_tokens=200, sampling=Sampling(ignore_eos=True))


def small() -> Driver:
    """Make a core with two replicas and small queues."""
    return Driver(pool_settings(replicas=2, classes=both_classes(1, "drop-lru")))


@pytest.mark.req("ORCH-4003")
@pytest.mark.parametrize(
    ("play", "state", "outcome"),
    [
        (waiting, "queued", None),
        (tried_twice, "running", None),
        (succeeded, "succeeded", Outcome.COMPLETED),
        (timed_out, "failed", Outcome.WALL_TIMEOUT),
        (dropped, "failed", Outcome.DROPPED_VICTIM),
        (refused, "refused", Outcome.INVALID),
        (refused_for_now, "refused", Outcome.REJECTED_DEADLINE),
    ],
)
def test_what_the_core_explains_is_told_as_declared(
    stage: Stage, play: Callable[[Driver], None], state: str, outcome: Outcome | None
) -> None:
    """Each kind of explanation keeps the contract, and its facts are the core's."""
    core = small()
    play(core)
    found = core.explained(TASK)
    assert found is not None
    stage.runtime.explanations[task_key(LOCAL, TaskId(TASK))] = found
    response = httpx.get(f"{stage.url}/v1/tasks/{TASK.upper()}/explain")
    check_declared(response, "explainTask")
    answer = response.json()
    assert (response.status_code, answer["state"], answer["story"]) == (200, state, list(found.story))
    assert answer.get("outcome", {}).get("name") == (outcome and outcome.value)
    assert [one["replica_id"] for one in answer["attempts"]] == [one.replica_id for one in found.attempts]
    assert ("waiting" in answer) == (state == "queued")
    if state == "refused":
        assert (answer["outcome"]["status"], "retry_after_ms" in answer["outcome"]) in [(400, False), (429, True)]


@pytest.mark.req("ORCH-3036")
def test_only_the_own_tenant_s_tasks_are_explained(guarded: Stage) -> None:
    """What acme may have explained is unknown to beta, and a key without the scope learns nothing at all."""
    core = small()
    core.submit(TASK)
    found = core.explained(TASK)
    assert found is not None
    guarded.runtime.explanations[task_key(Tenant("acme"), TaskId(TASK))] = found
    url = f"{guarded.url}/v1/tasks/{TASK}/explain"
    assert httpx.get(url, headers=bearer("acme-key")).status_code == 200
    unknown = httpx.get(url, headers=bearer("beta-key"))
    assert unknown.status_code == 404
    check_declared(unknown, "explainTask")
    assert httpx.get(url, headers=bearer("ops-key")).status_code == 403


@pytest.mark.req("ORCH-4004")
def test_a_tenant_reads_its_own_usage(guarded: Stage) -> None:
    """Each tenant gets its own rows, of the last 31 days unless it says otherwise."""
    core = Driver()
    core.submit("t")
    task = core.task("t")
    for tenant, day in (("acme", TODAY), ("acme", TODAY - 30), ("acme", TODAY - 31), ("beta", TODAY)):
        task.tenant, task.client_id = Tenant(tenant), f"key-of-{tenant}"
        task.accepted_at_ms = day * DAY_MS
        guarded.runtime.used.accept(task)
    guarded.runtime.used.begin(NOW_MS)
    response = httpx.get(f"{guarded.url}/v1/usage", headers=bearer("acme-key"))
    check_declared(response, "getUsage")
    answer = response.json()
    assert [row["day"] for row in answer["rows"]] == [day_name(TODAY - 30), day_name(TODAY)]
    assert {row["key_id"] for row in answer["rows"]} == {"key-of-acme"}
    assert (answer["since_ms"], answer["complete"]) == (NOW_MS, False)
    assert answer["rows"][1] == {
        "day": day_name(TODAY), "key_id": "key-of-acme", "model": "m", "accepted": 1, "succeeded": 0, "failed": 0,
        "canceled": 0, "tokens_in": 0, "tokens_out": 0, "decode_ms": 0,
    }  # fmt: skip
    (row,) = httpx.get(f"{guarded.url}/v1/usage", headers=bearer("beta-key")).json()["rows"]
    assert row["key_id"] == "key-of-beta"
    assert httpx.get(f"{guarded.url}/v1/usage", headers=bearer("ops-key")).status_code == 403


@pytest.mark.req("ORCH-4305")
def test_a_caller_reads_its_own_limits(guarded: Stage) -> None:
    """Those of its tenant and of its key, with what is in use; none where there are none."""
    guarded.runtime.limits[Tenant("acme"), "k1"] = (
        QuotaUse("tenant", "kv_mb", 7, 3),
        QuotaUse("key", "requests_per_s", 0.5, 2, 4),
    )
    response = httpx.get(f"{guarded.url}/v1/usage", headers=bearer("acme-key"))
    check_declared(response, "getUsage")
    assert response.json()["limits"] == [
        {"scope": "tenant", "quota": "kv_mb", "limit": 7, "in_use": 3},
        {"scope": "key", "quota": "requests_per_s", "limit": 0.5, "in_use": 2, "burst": 4},
    ]
    assert httpx.get(f"{guarded.url}/v1/usage", headers=bearer("beta-key")).json()["limits"] == []


@pytest.mark.req("ORCH-4004")
def test_the_days_asked_for_are_those_looked_at(stage: Stage) -> None:
    """Both days count, also when they are one; a lone last day reaches 30 days back."""
    for query, asked in (
        ({"from_day": "2025-11-01", "to_day": "2025-11-01"}, (20_393, 20_393)),
        ({"to_day": "2025-11-24"}, (20_386, 20_416)),
        ({"to_day": "1970-01-05"}, (0, 4)),
        ({"from_day": "2025-11-20"}, (20_412, TODAY)),
    ):
        response = httpx.get(f"{stage.url}/v1/usage", params=query)
        assert response.status_code == 200
        check_declared(response, "getUsage")
        assert stage.runtime.usage_asked[-1] == (LOCAL, *asked)
        assert response.json()["from_day"] == day_name(asked[0])


@pytest.mark.req("ORCH-4004", "ORCH-4020")
@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ({"from_day": "yesterday"}, ["/query/from_day"]),
        ({"from_day": "2025-02-29", "to_day": "2025-13-01"}, ["/query/to_day", "/query/from_day"]),
        ({"from_day": "1969-12-31"}, ["/query/from_day"]),
        ({"from_day": "2025-11-02", "to_day": "2025-11-01"}, ["/query/from_day"]),
        ({"from_day": "9999-12-31"}, ["/query/from_day"]),
    ],
)
def test_days_that_are_none_are_pointed_at(stage: Stage, query: dict[str, str], pointers: list[str]) -> None:
    """A day of another form, one that no calendar has, and days in the wrong order are 400 with every pointer."""
    response = httpx.get(f"{stage.url}/v1/usage", params=query)
    assert response.status_code == 400
    check_declared(response, "getUsage")
    assert [fault["pointer"] for fault in response.json()["faults"]] == pointers
