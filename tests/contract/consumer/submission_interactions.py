"""What the client asks when it posts a task."""

from __future__ import annotations

from pact import match

from orchqueue.client import AsyncClient, Message, Sampling, TaskRequest
from orchqueue.client.errors import Conflict, Forbidden, InvalidRequest, Refused, Unauthorized, Unavailable
from tests.contract.consumer import shapes
from tests.contract.consumer.recording import Interaction, failing
from tests.contract.consumer.shapes import CORRELATION, TASK_ID

_JSON = {"Content-Type": "application/json"}
_READY: dict[str, dict[str, object]] = {"a ready pool": {}}
_SMALL = TaskRequest(task_id=TASK_ID, prompt="hi")
_SMALL_BODY = {"task_id": TASK_ID, "prompt": "hi"}
_DETAILED_BODY: dict[str, object] = {
    "task_id": TASK_ID,
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    "seed": 1001,
    "determinism": "strict",
    "sampler_profile_version": "v1",
    "sampling": {"stop": ["\n\n"]},
    "max_tokens": 64,
}


async def _submit_detailed(client: AsyncClient) -> None:
    admission = await client.submit(
        TaskRequest(
            task_id=TASK_ID,
            messages=[Message(role="user", content="Why is the sky blue?")],
            seed=1001,
            determinism="strict",
            sampler_profile_version="v1",
            sampling=Sampling(stop=["\n\n"]),
            max_tokens=64,
        )
    )
    assert (admission.task_id, admission.seed, admission.determinism) == (TASK_ID, 1001, "strict")
    assert (admission.queue_position, admission.predicted_start_ms) == (3, 1840)


async def _submit_small(client: AsyncClient) -> None:
    assert (await client.submit(_SMALL)).backoff_ms == 0


async def _refused(client: AsyncClient) -> None:
    error = await failing(client.submit(_SMALL), Refused, "ADMISSION_REJECT")
    assert (error.retry_after_ms, error.policy_label, error.retriable) == (2400, "reject", True)


async def _unready(client: AsyncClient) -> None:
    error = await failing(client.submit(_SMALL), Unavailable, "POOL_UNREADY")
    assert (error.retry_after_ms, error.retriable) == (2400, True)


async def _faulty(client: AsyncClient) -> None:
    error = await failing(
        client.submit(TaskRequest(task_id=TASK_ID, prompt="hi", max_tokens=0)), InvalidRequest, "INVALID_PARAMS"
    )
    assert [fault.pointer for fault in error.faults] == ["/max_tokens"]


async def _conflict(client: AsyncClient) -> None:
    await failing(client.submit(_SMALL), Conflict, "INVALID_PARAMS")


async def _denied(client: AsyncClient, kind: type[Unauthorized | Forbidden]) -> None:
    await failing(client.submit(_SMALL), kind, None)


def _submission(description: str, states: dict[str, dict[str, object]], **more: object) -> Interaction:
    parts: dict[str, object] = {
        "method": "POST",
        "path": "/v1/tasks",
        "request_headers": _JSON,
        "request_body": _SMALL_BODY,
        **more,
    }
    return Interaction(description, states, **parts)  # type: ignore[arg-type]


SUBMISSIONS = (
    _submission(
        "a task with seed, profile and determinism",
        _READY,
        request_body=_DETAILED_BODY,
        status=202,
        headers={**CORRELATION, **shapes.ADMISSION_HEADERS},
        body=shapes.admission(seed=1001, determinism="strict"),
        use=_submit_detailed,
    ),
    _submission(
        "a task with defaults",
        _READY,
        status=202,
        headers={**CORRELATION, **shapes.ADMISSION_HEADERS},
        body=shapes.admission(seed=match.integer(77), determinism=shapes.one_of("strict", "best_effort")),
        use=_submit_small,
    ),
    _submission(
        "a task for a full queue",
        {"a pool whose queue is full": {"full_policy": "reject"}},
        status=429,
        headers={**CORRELATION, **shapes.BACKOFF},
        body=shapes.envelope(
            "ADMISSION_REJECT",
            "the queue is full",
            retriable=True,
            policy_label="reject",
            retry_after_ms=match.integer(2400),
        ),
        use=_refused,
    ),
    _submission(
        "a task for a pool that is not ready",
        {"a pool that is loading": {}},
        status=503,
        headers={**CORRELATION, **shapes.BACKOFF},
        body=shapes.envelope("POOL_UNREADY", "the pool is loading", retriable=True, retry_after_ms=match.integer(2400)),
        use=_unready,
    ),
    _submission(
        "a task with a fault",
        _READY,
        request_body={**_SMALL_BODY, "max_tokens": 0},
        status=400,
        headers=CORRELATION,
        body=shapes.envelope(
            "INVALID_PARAMS",
            "the request has 1 fault",
            retriable=False,
            faults=[{"pointer": "/max_tokens", "message": match.like("must be at least 1")}],
        ),
        use=_faulty,
    ),
    _submission(
        "another task under a known id",
        {"a task of another body": {"task_id": TASK_ID}},
        status=409,
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "the id names another request", retriable=False),
        use=_conflict,
    ),
    _submission(
        "a task with an unknown key",
        {"keys are required": {}},
        request_headers={**_JSON, "Authorization": "Bearer unknown-key"},
        api_key="unknown-key",
        status=401,
        headers={**CORRELATION, "WWW-Authenticate": match.regex("Bearer", regex="^Bearer")},
        body={"message": match.like("no valid credential"), "correlation_id": match.like("c-1")},
        use=lambda client: _denied(client, Unauthorized),
    ),
    _submission(
        "a task with a key that has only the control scope",
        {"a key": {"key": "pact-control-key", "scopes": ["control"]}},
        request_headers={**_JSON, "Authorization": "Bearer pact-control-key"},
        api_key="pact-control-key",
        status=403,
        headers=CORRELATION,
        body={"message": match.like("not allowed"), "correlation_id": match.like("c-1")},
        use=lambda client: _denied(client, Forbidden),
    ),
)
