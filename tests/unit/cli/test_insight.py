from __future__ import annotations

import json

import pytest

from tests.unit.cli.test_commands import against
from tests.unit.client.scripted_server import TASK_ID, json_reply

EXPLANATION = {
    "task_id": TASK_ID,
    "state": "queued",
    "story": ["It has waited 7 ms in pool default; before it: 1 task.", "It waits for a slot: all are busy."],
    "pool_id": "default",
    "waiting": {
        "waits_for": "slot",
        "queue_position": 1,
        "predicted_start_ms": 1840,
        "basis": "measured",
        "waited_ms": 7,
        "slots_total": 1,
        "slots_busy": 1,
        "ahead": [{"priority": "interactive", "own": 0, "others": 1}],
    },
    "candidates": [{"pool_id": "default", "standing": "chosen", "load": 2, "slots": 1}],
    "attempts": [],
    "attempts_total": 0,
    "timers": [{"name": "wall", "limit_ms": 60000, "fired": False}],
    "timeline": [
        {"at_ms": 1764000000000, "kind": "submitted", "text": "A request of class batch came in."},
        {"at_ms": 1764000000007, "kind": "admitted", "text": "It was admitted to pool default.", "pool_id": "default"},
    ],
    "complete": True,
}
USAGE = {
    "from_day": "2026-10-24",
    "to_day": "2026-11-23",
    "since_ms": 1764000000000,
    "complete": True,
    "rows": [
        {
            "day": "2026-11-23",
            "key_id": "k7",
            "model": "bundled:m",
            "accepted": 12,
            "succeeded": 9,
            "failed": 2,
            "canceled": 1,
            "tokens_in": 371,
            "tokens_out": 802,
            "decode_ms": 4210,
        }
    ],
    "limits": [
        {"scope": "tenant", "quota": "tokens_per_minute", "limit": 1_000_000, "in_use": 0},
        {"scope": "tenant", "quota": "kv_mb", "limit": 9000, "in_use": 3},
        {"scope": "key", "quota": "requests_per_s", "limit": 2.5, "burst": 10, "in_use": 4},
    ],
}


@pytest.mark.req("ORCH-4282")
@pytest.mark.parametrize(
    ("argv", "answer", "asked", "shown"),
    [
        (
            "explain ID",
            EXPLANATION,
            "/v1/tasks/ID/explain",
            [
                f"task {TASK_ID}: queued",
                "It waits for a slot",
                "decisions about it:",
                "0 ms  submitted  A request",
                "7 ms  admitted   It was",
            ],
        ),
        ("usage", USAGE, "/v1/usage", ["2026-11-23", "k7", "bundled:m", "12  9  2  1", "371  802  4210"]),
        ("usage", USAGE, "/v1/usage", ["tenant  tokens_per_minute  1000000         0"]),
        (
            "usage",
            USAGE,
            "/v1/usage",
            ["tenant  kv_mb              9000            3", "key     requests_per_s     2.5 (burst 10)  4"],
        ),
        (
            "usage --from-day 2026-11-01 --to-day 2026-11-23",
            USAGE,
            "/v1/usage?from_day=2026-11-01&to_day=2026-11-23",
            ["k7"],
        ),
    ],
)
async def test_why_and_how_much_are_shown_to_people_and_to_programs(
    argv: str, answer: dict[str, object], asked: str, shown: list[str]
) -> None:
    """People read the story, or the rows; programs get the whole answer as one line."""
    words = argv.replace("ID", TASK_ID).split()
    ran, request = await against(json_reply(200, answer), *words)
    assert (ran.status, ran.err) == (0, "")
    assert request.target == asked.replace("ID", TASK_ID)
    assert [part for part in shown if part not in ran.out] == []
    as_json, _ = await against(json_reply(200, answer), "--json", *words)
    assert (json.loads(as_json.out), as_json.err) == (answer, "")


@pytest.mark.req("ORCH-4323")
async def test_without_logged_decisions_the_story_is_all() -> None:
    """A task of which no decision is known any more is still explained, without an empty list."""
    ran, _ = await against(json_reply(200, {**EXPLANATION, "timeline": []}), "explain", TASK_ID)
    assert ran.status == 0
    assert ran.out.endswith("  It waits for a slot: all are busy.\n")


@pytest.mark.req("ORCH-4004")
async def test_usage_says_when_it_is_not_whole() -> None:
    """Figures that began within the days asked for come with a note, and callers without a key as a dash."""
    row = {name: value for name, value in USAGE["rows"][0].items() if name != "key_id"}  # type: ignore[index]
    ran, _ = await against(json_reply(200, {**USAGE, "complete": False, "rows": [row]}), "usage")
    assert ran.out.startswith("2026-11-23  -  bundled:m")
    assert ran.err == "complete only since 2025-11-24 16:00:00+00:00\n"
