from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.unit.cli.running import Ran, on_terminal, orchq
from tests.unit.cli.test_models import MODEL
from tests.unit.client.scripted_server import (
    SESSION_ID,
    TASK_ID,
    Asked,
    Reply,
    end_data,
    envelope,
    json_reply,
    position_of,
    resume_bytes,
    serving,
    stream_reply,
    transcript,
)

TASK = {
    "task_id": TASK_ID,
    "state": "succeeded",
    "priority": "interactive",
    "pool_id": "default",
    "created_at_ms": 1764000000000,
    "ended_at_ms": 1764000002620,
    "seed": 1001,
    "determinism": "strict",
    "sampler_profile_version": "v1",
    "tokens_out": 7,
    "finish_reason": "stop",
    "receipt": end_data("Because.\n")["receipt"],
}
POOL = {
    "id": "default",
    "engine": "llamacpp",
    "model": "bundled:m",
    "ready": True,
    "draining": False,
    "mode": "serving",
    "allow_cpu": True,
    "ctx_tokens": 2048,
    "determinism": "strict",
    "sampler_profile_version": "v1",
    "replicas_total": 2,
    "replicas_ready": 1,
    "slots_total": 1,
    "slots_free": 0,
    "queue_depth": {"interactive": 3, "batch": 1},
    "queue_capacity": 256,
}
HEALTH = {
    "id": "default",
    "live": True,
    "ready": True,
    "draining": False,
    "mode": "serving",
    "last_error": None,
    "model": "bundled:m",
    "allow_cpu": True,
    "metrics": {"queue_depth": 4, "tasks_running": 1},
    "replicas": [
        {
            "replica_id": "default-0",
            "state": "ready",
            "slots_total": 1,
            "slots_free": 0,
            "restarts": 2,
            "last_error": "killed by signal 9",
            "pid": 77,
        }
    ],
}
SET = {
    "id": "s-1",
    "engine": "llamacpp",
    "model": "bundled:m",
    "ctx_tokens": 2048,
    "engine_version": "x-1",
    "sampler_profile_version": "v1",
    "pool_ids": ["default"],
    "replica_ids": ["default-0"],
    "load": 1.5,
    "queue_depth": 4,
    "slots_total": 1,
    "slots_free": 0,
    "slo": [],
}
CAPABILITIES = {
    "api_version": "v1",
    "version": "0.1.0",
    "limits": {"body_bytes_max": 8388608, "header_bytes_max": 32768, "readers_per_task_max": 16},
    "pools": [
        {
            "id": "default",
            "engine": "llamacpp",
            "model": "bundled:m",
            "engine_version": None,
            "ctx_tokens_max": 2048,
            "slots": 2,
            "workloads": ["completion"],
            "determinism": "strict",
            "prompt_form": "chat",
            "sampler_profile_versions": ["v1", "greedy-v1"],
            "limits": {"max_tokens": 2048, "queue_capacity": 256},
        }
    ],
}
SESSION = {"ttl_ms_remaining": 421000, "turns": 3, "kv_bytes": 7340032, "kv_warmth": True}
LINKS = {"health": "/v1/pools/default/health"}


async def against(reply: Reply, *argv: str) -> tuple[Ran, Asked]:
    async with serving(lambda _: reply) as server:
        ran = await orchq(*argv, url=server.url)
    return ran, server.asked[0]


@pytest.mark.req("ORCH-4282")
@pytest.mark.parametrize(
    ("argv", "answer", "asked", "shown"),
    [
        ("task ID", {**TASK, "text": "Because.\n"}, "/v1/tasks/ID", ["succeeded", "Because.", "1001 (strict"]),
        ("tasks", {"tasks": [TASK]}, "/v1/tasks?limit=50", [TASK_ID, "succeeded", "stop"]),
        ("session S", SESSION, "/v1/sessions/S", ["421 s", "7340032"]),
        ("pools", {"pools": [POOL]}, "/v1/pools", ["default", "ready", "1/2", "0/1", "3+1/256", "cpu allowed"]),
        ("pools default", HEALTH, "/v1/pools/default/health", ["default-0", "killed by signal 9", "77"]),
        ("replicasets", {"replica_sets": [SET]}, "/v1/replicasets", ["s-1", "1.50"]),
        ("models", {"models": [MODEL]}, "/v1/models", ["bundled:m", "sha256:ab"]),
        ("capabilities", CAPABILITIES, "/v1/capabilities", ["2048", "v1,greedy-v1"]),
    ],
)
async def test_what_is_shown_to_people_and_to_programs(
    argv: str, answer: dict[str, object], asked: str, shown: list[str]
) -> None:
    """Each look has a form for people with the essential facts, and one JSON value per line with all of them."""
    ids = argv.replace("ID", TASK_ID).replace("S", SESSION_ID).split()
    ran, request = await against(json_reply(200, answer), *ids)
    assert (ran.status, ran.err.replace("API v1, orchestratord 0.1.0\n", "")) == (0, "")
    assert request.target == asked.replace("ID", TASK_ID).replace("S", SESSION_ID)
    assert [part for part in shown if part not in ran.out] == []
    as_json, _ = await against(json_reply(200, answer), "--json", *ids)
    lists = [value for value in answer.values() if isinstance(value, list)]
    expected = lists[0] if len(answer) == 1 else [answer]
    assert [json.loads(line) for line in as_json.out.splitlines()] == expected
    assert as_json.err == ""


@pytest.mark.req("ORCH-4282")
@pytest.mark.parametrize(
    ("argv", "answer", "target", "body"),
    [
        (
            "drain default --deadline-ms 5",
            {"pool_id": "default", "operation": "drain", "deadline_ms": 5, "links": LINKS},
            "/v1/pools/default/drain",
            {"deadline_ms": 5},
        ),
        (
            "reload default bundled:n",
            {"pool_id": "default", "operation": "reload", "model": "bundled:n", "links": LINKS},
            "/v1/pools/default/reload",
            {"new_model_ref": "bundled:n"},
        ),
        (
            "rollback default",
            {"pool_id": "default", "operation": "rollback", "links": LINKS},
            "/v1/pools/default/rollback",
            None,
        ),
        ("config-reload", {"applied": ["/slo"], "needs_restart": []}, "/v1/config/reload", None),
        ("config-rollback", {"applied": ["/slo"], "needs_restart": []}, "/v1/config/rollback", None),
    ],
)
async def test_steering_posts_what_was_asked(
    argv: str, answer: dict[str, object], target: str, body: dict[str, object] | None
) -> None:
    """Drain, reload, rollback and the configuration's reload post to their paths."""
    status = 200 if "applied" in answer else 202
    ran, asked = await against(json_reply(status, answer), *argv.split())
    assert ran.status == 0
    assert (asked.method, asked.target) == ("POST", target)
    assert (json.loads(asked.body) if asked.body else None) == body
    as_json, _ = await against(json_reply(status, answer), *argv.split(), "--json")
    assert json.loads(as_json.out) == answer


@pytest.mark.req("ORCH-4282")
@pytest.mark.parametrize("mode", ["draining", "drained", "reloading"])
async def test_a_pool_that_does_not_serve_is_named_by_its_mode(mode: str) -> None:
    """The list and the health of a pool say what is done to it."""
    listed, _ = await against(json_reply(200, {"pools": [POOL | {"mode": mode}]}), "pools")
    shown, _ = await against(json_reply(200, HEALTH | {"mode": mode}), "pools", "default")
    assert [mode in ran.out.split() for ran in (listed, shown)] == [True, True]


@pytest.mark.req("ORCH-4131")
async def test_a_share_of_the_tasks_is_asked_for() -> None:
    """The share goes into the request as a number."""
    answer = {"pool_id": "default", "operation": "reload", "model": "bundled:n", "canary_percent": 10, "links": LINKS}
    argv = ["reload", "default", "bundled:n", "--canary-percent", "10"]
    ran, asked = await against(json_reply(202, answer), *argv)
    assert ran.status == 0
    assert json.loads(asked.body) == {"new_model_ref": "bundled:n", "canary_percent": 10}


@pytest.mark.req("ORCH-4282")
async def test_ending_things_is_confirmed() -> None:
    """Cancel and session --delete say that it happened."""
    ran, asked = await against(Reply(204), "cancel", TASK_ID)
    assert (ran.status, ran.out, ran.err) == (0, "", f"canceled task {TASK_ID}\n")
    assert asked.target == f"/v1/tasks/{TASK_ID}/cancel"
    ran, asked = await against(Reply(204), "session", "--delete", SESSION_ID, "--json")
    assert json.loads(ran.out) == {"session_id": SESSION_ID, "deleted": True}
    assert (asked.method, asked.target) == ("DELETE", f"/v1/sessions/{SESSION_ID}")


async def test_cancelling_many_goes_on_after_a_failure() -> None:
    """An unknown id among several is told, the others are canceled, and the status is the failure's."""

    def script(asked: Asked) -> Reply:
        unknown = json_reply(404, envelope("INVALID_PARAMS", "no such task", retriable=False))
        return unknown if "/one/" in asked.target else Reply(204)

    async with serving(script) as server:
        ran = await orchq("cancel", "one", "two", url=server.url)
    assert ran.status == 4
    assert "one: no such task" in ran.err
    assert "canceled task two" in ran.err


@pytest.mark.req("ORCH-4282")
async def test_stream_goes_on_from_a_position() -> None:
    """--last-event-id is sent, only the rest is printed, and a position of another form is bad usage."""
    texts = ["It", " scatters."]

    def script(asked: Asked) -> Reply:
        return stream_reply(transcript(texts, after_bytes=resume_bytes(asked)))

    async with serving(script) as server:
        ran = await orchq("stream", "--last-event-id", position_of("It"), TASK_ID, url=server.url)
        assert (ran.status, ran.out) == (0, " scatters.")
        assert "not checked: not read from the start" in ran.err
        assert (await orchq("stream", "--last-event-id", "12", TASK_ID, url=server.url)).status == 2
    assert len(server.asked) == 1


@pytest.mark.req("ORCH-4028")
@pytest.mark.parametrize(
    ("reply", "status", "told"),
    [
        (
            json_reply(400, envelope("INVALID_PARAMS", "1 fault", faults=[{"pointer": "/seed", "message": "no"}])),
            2,
            "/seed: no",
        ),
        (json_reply(409, envelope("INVALID_PARAMS", "other body")), 2, "other body"),
        (json_reply(503, envelope("POOL_UNREADY", "draining", retry_after_ms=1500)), 3, "try again in 1.5 s"),
        (json_reply(404, envelope("INVALID_PARAMS", "unknown")), 4, "unknown"),
        (json_reply(401, {"message": "no", "correlation_id": "c"}), 5, "ORCHQ_API_KEY"),
        (json_reply(403, {"message": "no", "correlation_id": "c"}), 5, "scope"),
        (Reply(ending="no_answer"), 6, "broke"),
        (json_reply(500, envelope("INTERNAL", "our bug")), 8, "correlation id c-1"),
        (Reply(200, {"content-type": "text/html"}, b"hello"), 8, "Is it an orchestratord"),
    ],
)
async def test_each_kind_of_failure_has_its_status(reply: Reply, status: int, told: str) -> None:
    """Scripts can tell failures apart, and people read what to do; nothing goes to standard output."""
    ran, _ = await against(reply, "submit", "--patience", "0.1", "hi")
    assert (ran.status, ran.out) == (status, "")
    assert told in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.req("ORCH-4028")
async def test_text_that_cannot_be_verified_has_its_own_status() -> None:
    """A receipt of another text ends with 7."""
    bad = transcript(["It"]).decode().replace(str(end_data("It")["receipt"]["digest"]), "0" * 64)  # type: ignore[index]
    async with serving(lambda _: stream_reply(bad.encode())) as server:
        ran = await orchq("stream", TASK_ID, url=server.url)
    assert ran.status == 7
    assert "receipt" in ran.err


@pytest.mark.req("ORCH-4028")
@pytest.mark.parametrize(
    "argv",
    [
        "",
        "fly",
        "run",
        "run --max-tokens many hi",
        "run --pin hi",
        "run --messages no-such-file",
        "run --task-id 7 hi",
        "run --json-schema a --grammar b hi",
        "submit --retry-for -1 hi",
        "tasks --limit -1",
        "explain ''",
        "cancel 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11 ''",
        "--url localhost:8080 health",
        "--api-key-file no-such-file health",
    ],
)
async def test_bad_usage_is_told_before_anything_is_sent(argv: str) -> None:
    """What cannot be meant ends with 2 and a sentence."""
    ran = await orchq(*shlex.split(argv))
    assert (ran.status, ran.out) == (2, "")
    assert ran.err
    assert "Traceback" not in ran.err


async def test_keys_come_from_files_and_the_environment_and_are_never_shown(tmp_path: Path) -> None:
    """The command line wins over the environment; a trailing line end is forgiven; errors do not repeat the key."""
    file = tmp_path / "key"
    file.write_text("oq-file\n")
    async with serving(lambda _: json_reply(401, {"message": "no", "correlation_id": "c"})) as server:
        both = {"ORCHQ_API_KEY": "oq-env"}
        runs = [
            await orchq("--api-key-file", str(file), "models", url=server.url, env=both),
            await orchq("models", "--api-key", "oq-argv", url=server.url, env=both),
            await orchq("models", url=server.url, env=both),
            await orchq("models", url=server.url, env={"ORCHQ_API_KEY_FILE": str(file)}),
            await orchq("models", url=server.url),
        ]
    sent = [asked.headers.get("authorization") for asked in server.asked]
    assert sent == ["Bearer oq-file", "Bearer oq-argv", "Bearer oq-env", "Bearer oq-file", None]
    assert all("oq-" not in ran.err for ran in runs)


async def test_health_tells_ready_living_and_gone_apart() -> None:
    """0, 3 and 6, so that scripts can wait for a server."""

    def script(asked: Asked) -> Reply:
        if asked.target == "/healthz":
            return json_reply(200, {"status": "ok"})
        return replies.pop()

    replies = [
        json_reply(503, envelope("POOL_UNREADY", "0 of 1 pools are ready", retry_after_ms=1000)),
        json_reply(200, {"status": "ready", "pools_ready": 1, "pools_total": 1}),
    ]
    async with serving(script) as server:
        assert (await orchq("health", url=server.url)).status == 0
        assert (await orchq("health", url=server.url)).status == 3
    gone = await orchq("health", url=server.url)
    assert gone.status == 6
    assert "orchestratord serve" in gone.err


async def test_tables_have_a_header_only_on_a_terminal() -> None:
    """A pipe gets rows alone, so that cut and awk work."""
    async with serving(lambda _: json_reply(200, {"models": [MODEL]})) as server:
        assert (await orchq("models", url=server.url)).out == (
            "bundled:m  verified  sha256:ab  -  -  -  -  default serving on default-0\n"
        )
        _, shown, _ = await on_terminal("models", url=server.url)
    assert shown.splitlines()[0].split()[:4] == ["MODEL", "STATE", "DIGEST", "SIZE"]


@pytest.mark.req("ORCH-4282")
async def test_metrics_are_printed_as_they_are() -> None:
    """The exposition format is passed through."""
    ran, _ = await against(Reply(200, {"content-type": "text/plain"}, b"# HELP x y\nx 1\n"), "metrics")
    assert (ran.status, ran.out) == (0, "# HELP x y\nx 1\n")


async def test_the_number_of_tasks_is_limited_across_pages() -> None:
    """--limit stops in the middle of the pages and asks for no more than is needed."""
    async with serving(lambda _: json_reply(200, {"tasks": [TASK, TASK], "next_cursor": "n"})) as server:
        ran = await orchq("tasks", "--limit", "3", "--state", "succeeded", "--json", url=server.url)
    assert len(ran.out.splitlines()) == 3
    assert [asked.target for asked in server.asked] == [
        "/v1/tasks?state=succeeded&limit=3",
        "/v1/tasks?state=succeeded&limit=3&cursor=n",
    ]
