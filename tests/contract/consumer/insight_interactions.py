"""What the client asks about why a task is where it is, and about what its tenant used."""

from __future__ import annotations

import pytest
from pact import match

from orchqueue.client import AsyncClient
from orchqueue.client.errors import InvalidRequest, NotFound
from tests.contract.consumer import shapes
from tests.contract.consumer.recording import Interaction, failing
from tests.contract.consumer.shapes import CORRELATION, NAME, OTHER_TASK_ID, POOL_ID, TASK_ID, TEXTS

_READY: dict[str, dict[str, object]] = {"a ready pool": {}}
_ENDED: dict[str, dict[str, object]] = {"a task that succeeded": {"task_id": TASK_ID, "texts": list(TEXTS)}}
_LIMITED: dict[str, dict[str, object]] = {"a tenant with quotas": {"concurrent_tasks": 9, "key_burst": 10}}
_WAITING: dict[str, dict[str, object]] = {"a task that waits": {"task_id": TASK_ID}}
TIMELINE = match.each_like(
    {
        "at_ms": match.integer(1764000000000),
        "kind": shapes.one_of("submitted", "count_asked", "admitted", "bound", "ended", "dropped", "refused"),
        "text": match.like("It was admitted to pool default at position 1."),
    },
    min=2,
)
_DROPPED: dict[str, dict[str, object]] = {"a task that was dropped for another": {"task_id": TASK_ID}}
CANDIDATE = {
    "pool_id": match.regex(POOL_ID, regex=f"^{NAME}$"),
    "standing": "chosen",
    "load": match.integer(2),
    "slots": match.integer(1),
}


async def _explain_waiting(client: AsyncClient) -> None:
    found = await client.explain(TASK_ID)
    assert (found.state, found.attempts_total) == ("queued", 0)
    assert found.waiting
    assert found.waiting.waits_for == "slot"
    assert sum(one.own + one.others for one in found.waiting.ahead) == found.waiting.queue_position == 1
    assert found.story
    assert found.timeline
    assert found.complete is True


async def _explain_dropped(client: AsyncClient) -> None:
    found = await client.explain(TASK_ID)
    assert (found.state, found.attempts) == ("failed", [])
    assert found.dropped
    assert (found.dropped.policy, found.dropped.by_priority) == ("drop-lru", "interactive")


async def _explain_ended(client: AsyncClient) -> None:
    found = await client.explain(TASK_ID)
    assert (found.state, found.candidates[0].standing, found.attempts_total) == ("succeeded", "chosen", 1)
    assert found.outcome
    assert found.outcome.name == "completed"
    assert not found.waiting
    assert found.attempts[0].candidates
    assert found.attempts[0].candidates[0].standing == "chosen"
    assert found.attempts[0].turn == "interactive"


async def _usage(client: AsyncClient) -> None:
    usage = await client.usage()
    assert sum(row.succeeded for row in usage.rows) == 1


async def _limits(client: AsyncClient) -> None:
    usage = await client.usage()
    assert usage.limits
    assert [(one.scope, one.quota) for one in usage.limits] == [
        ("tenant", "concurrent_tasks"),
        ("key", "requests_per_s"),
    ]


async def _usage_backwards(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.usage("2026-11-23", "2026-11-01")
    assert [fault.pointer for fault in refused.value.faults] == ["/query/from_day"]


EXPLANATIONS = (
    Interaction(
        "why a task waits",
        _WAITING,
        "GET",
        f"/v1/tasks/{TASK_ID}/explain",
        200,
        _explain_waiting,
        req=("ORCH-4003", "ORCH-4086"),
        headers=CORRELATION,
        body={
            "task_id": TASK_ID,
            "state": "queued",
            "story": match.each_like("It waits for a slot: all are busy.", min=1),
            "pool_id": match.regex(POOL_ID, regex=f"^{NAME}$"),
            "waiting": {
                "waits_for": shapes.one_of("slot", "pool_loading"),
                "queue_position": match.integer(1),
                "predicted_start_ms": match.integer(1840),
                "basis": shapes.one_of("measured", "selftest", "none"),
                "waited_ms": match.integer(120),
                "slots_total": match.integer(1),
                "slots_busy": match.integer(1),
                "ahead": match.each_like(
                    {
                        "priority": shapes.one_of("interactive", "batch"),
                        "own": match.integer(1),
                        "others": match.integer(0),
                    },
                    min=1,
                ),
            },
            "candidates": match.each_like(CANDIDATE, min=1),
            "attempts": [],
            "attempts_total": 0,
            "timers": match.each_like(
                {
                    "name": shapes.one_of("wall", "deadline", "idle", "first_token"),
                    "limit_ms": match.integer(60000),
                    "fired": False,
                },
                min=1,
            ),
            "timeline": TIMELINE,
            "complete": True,
        },
    ),
    Interaction(
        "why a task was dropped for another",
        _DROPPED,
        "GET",
        f"/v1/tasks/{TASK_ID}/explain",
        200,
        _explain_dropped,
        req=("ORCH-4003", "ORCH-3007", "ORCH-4323"),
        headers=CORRELATION,
        body={
            "task_id": TASK_ID,
            "state": "failed",
            "story": match.each_like("It was dropped while it waited.", min=1),
            "pool_id": match.regex(POOL_ID, regex=f"^{NAME}$"),
            "candidates": match.each_like(CANDIDATE, min=1),
            "attempts": [],
            "attempts_total": 0,
            "timers": match.each_like(
                {
                    "name": shapes.one_of("wall", "deadline", "idle", "first_token"),
                    "limit_ms": match.integer(60000),
                    "fired": False,
                },
                min=1,
            ),
            "dropped": {"policy": "drop-lru", "by_priority": "interactive", "at_ms": match.integer(1764000000900)},
            "outcome": {
                "name": "dropped_victim",
                "code": "QUEUE_FULL_DROP_LRU",
                "retriable": True,
                "message": match.like("dropped while waiting"),
                "at_ms": match.integer(1764000000900),
                "retry_after_ms": match.integer(920),
                "policy_label": "drop-lru",
            },
            "timeline": TIMELINE,
            "complete": True,
        },
    ),
    Interaction(
        "what became of a task that succeeded",
        _ENDED,
        "GET",
        f"/v1/tasks/{TASK_ID}/explain",
        200,
        _explain_ended,
        req=("ORCH-4003", "ORCH-4324"),
        headers=CORRELATION,
        body={
            "task_id": TASK_ID,
            "state": "succeeded",
            "story": match.each_like("It ran to its end.", min=1),
            "pool_id": match.regex(POOL_ID, regex=f"^{NAME}$"),
            "candidates": match.each_like(CANDIDATE, min=1),
            "attempts": match.each_like(
                {
                    "pool_id": match.regex(POOL_ID, regex=f"^{NAME}$"),
                    "replica_id": match.regex("default-0", regex=f"^{NAME}$"),
                    "started_at_ms": match.integer(1764000001840),
                    "choice": shapes.one_of("least_busy", "only_free", "warm_session"),
                    "free_replicas": match.integer(2),
                    "turn": "interactive",
                    "shares": match.each_like(
                        {
                            "priority": shapes.one_of("interactive", "batch"),
                            "weight": match.integer(8),
                            "waiting": match.integer(1),
                        },
                        min=1,
                    ),
                    "candidates": match.each_like(
                        {
                            "replica_id": match.regex("default-0", regex=f"^{NAME}$"),
                            "standing": "chosen",
                            "ready": True,
                            "busy": match.integer(0),
                            "slots": match.integer(1),
                            "score": match.integer(0),
                        },
                        min=1,
                    ),
                },
                min=1,
            ),
            "attempts_total": match.integer(1),
            "queue_time_ms": match.integer(1840),
            "timers": match.each_like(
                {
                    "name": shapes.one_of("wall", "deadline", "idle", "first_token"),
                    "limit_ms": match.integer(60000),
                    "fired": False,
                },
                min=1,
            ),
            "outcome": {
                "name": "completed",
                "retriable": False,
                "message": match.like(""),
                "at_ms": match.integer(1764000002620),
            },
            "timeline": TIMELINE,
            "complete": True,
        },
    ),
    Interaction(
        "why an unknown task is where it is",
        _READY,
        "GET",
        f"/v1/tasks/{OTHER_TASK_ID}/explain",
        404,
        lambda client: _unknown(client.explain(OTHER_TASK_ID)),
        req=("ORCH-4003", "ORCH-2006"),
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "no such task", retriable=False),
    ),
)


async def _unknown(call: object) -> None:
    await failing(call, NotFound, "INVALID_PARAMS")  # type: ignore[arg-type]


USAGE = (
    Interaction(
        "one's own usage",
        _ENDED,
        "GET",
        "/v1/usage",
        200,
        _usage,
        req=("ORCH-4004",),
        headers=CORRELATION,
        body={
            "from_day": match.regex("2026-10-24", regex=r"^\d{4}-\d{2}-\d{2}$"),
            "to_day": match.regex("2026-11-23", regex=r"^\d{4}-\d{2}-\d{2}$"),
            "since_ms": match.integer(1764000000000),
            "complete": match.boolean(False),
            "rows": match.each_like(
                {
                    "day": match.regex("2026-11-23", regex=r"^\d{4}-\d{2}-\d{2}$"),
                    "model": match.like("bundled:m"),
                    "accepted": match.integer(1),
                    "succeeded": match.integer(1),
                    "failed": match.integer(0),
                    "canceled": match.integer(0),
                    "tokens_in": match.integer(31),
                    "tokens_out": match.integer(7),
                    "decode_ms": match.integer(780),
                },
                min=1,
            ),
        },
    ),
    Interaction(
        "one's own usage with limits",
        _LIMITED,
        "GET",
        "/v1/usage",
        200,
        _limits,
        req=("ORCH-4305",),
        headers=CORRELATION,
        body={
            "from_day": match.regex("2026-10-24", regex=r"^\d{4}-\d{2}-\d{2}$"),
            "to_day": match.regex("2026-11-23", regex=r"^\d{4}-\d{2}-\d{2}$"),
            "since_ms": match.integer(1764000000000),
            "complete": match.boolean(False),
            "rows": [],
            "limits": [
                {"scope": "tenant", "quota": "concurrent_tasks", "limit": 9, "in_use": 0},
                {"scope": "key", "quota": "requests_per_s", "limit": 2.5, "burst": 10, "in_use": 0},
            ],
        },
    ),
    Interaction(
        "the usage of days in the wrong order",
        _READY,
        "GET",
        "/v1/usage",
        400,
        _usage_backwards,
        req=("ORCH-4004", "ORCH-2006"),
        query={"from_day": "2026-11-23", "to_day": "2026-11-01"},
        headers=CORRELATION,
        body=shapes.envelope(
            "INVALID_PARAMS",
            "from_day must not be after to_day",
            retriable=False,
            faults=[{"pointer": "/query/from_day", "message": match.like("must not be after to_day")}],
        ),
    ),
)

INSIGHT: tuple[Interaction, ...] = (*EXPLANATIONS, *USAGE)
