"""What the client asks when it posts a task."""

from __future__ import annotations

from pact import match

from orchqueue.client import AsyncClient, Message, Sampling, TaskRequest
from orchqueue.client.errors import Conflict, Forbidden, InvalidRequest, Refused, ServerFault, Unauthorized, Unavailable
from tests.contract.consumer import shapes
from tests.contract.consumer.recording import Interaction, failing
from tests.contract.consumer.shapes import CORRELATION, SESSION_ID, TASK_ID

_JSON = {"Content-Type": "application/json"}
_READY: dict[str, dict[str, object]] = {"a ready pool": {}}
SMALL = TaskRequest(task_id=TASK_ID, prompt="hi")
SMALL_BATCH = TaskRequest(task_id=TASK_ID, prompt="hi", priority="batch")
# Whoever plays the server for a client may take any id and any prompt.
SMALL_BODY = {"task_id": match.regex(TASK_ID, regex=f"^{shapes.UUID}$"), "prompt": match.like("hi")}
SMALL_BATCH_BODY = {**SMALL_BODY, "priority": "batch"}
STREAM_WANTED = {**_JSON, "Accept": "text/event-stream"}
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
    assert (admission.queue_position, admission.predicted_start_ms, admission.predicted_end_ms) == (3, 1840, 4390)


async def _submit_small(client: AsyncClient) -> None:
    assert (await client.submit(SMALL)).backoff_ms == 0


async def _refused(client: AsyncClient) -> None:
    error = await failing(client.submit(SMALL), Refused, "ADMISSION_REJECT")
    assert (error.retry_after_ms, error.policy_label, error.retriable) == (2400, "reject", True)


async def _unready(client: AsyncClient) -> None:
    error = await failing(client.submit(SMALL), Unavailable, "POOL_UNREADY")
    assert (error.retry_after_ms, error.retriable) == (2400, True)


async def _faulty(client: AsyncClient) -> None:
    error = await failing(
        client.submit(TaskRequest(task_id=TASK_ID, prompt="hi", max_tokens=0)), InvalidRequest, "INVALID_PARAMS"
    )
    assert [fault.pointer for fault in error.faults] == ["/max_tokens"]


async def _conflict(client: AsyncClient) -> None:
    await failing(client.submit(SMALL), Conflict, "INVALID_PARAMS")


async def _denied(client: AsyncClient, kind: type[Unauthorized | Forbidden]) -> None:
    await failing(client.submit(SMALL), kind, None)


async def _submit_again(client: AsyncClient) -> None:
    assert (await client.submit(SMALL)).task_id == TASK_ID


async def _read_at_once(client: AsyncClient) -> None:
    async with await client.run_at_once(SMALL) as stream:
        result = await stream.result()
    assert (result.task_id, result.verified) == (TASK_ID, True)
    assert result.started is not None


async def _shed(client: AsyncClient) -> None:
    error = await failing(client.submit(SMALL_BATCH), Refused, "ADMISSION_REJECT")
    assert error.policy_label == "shed-low-priority"


async def _no_victim(client: AsyncClient) -> None:
    error = await failing(client.submit(SMALL_BATCH), Refused, "QUEUE_FULL_DROP_LRU")
    assert (error.retry_after_ms, error.policy_label, error.retriable) == (2400, "drop-lru", True)


async def _certain_miss(client: AsyncClient) -> None:
    hurried = TaskRequest(task_id=TASK_ID, prompt="hi", deadline_ms=1, sampling=Sampling(ignore_eos=True))
    error = await failing(client.submit(hurried), Refused, "ADMISSION_REJECT")
    assert error.policy_label == "deadline"


async def _ninth_turn(client: AsyncClient) -> None:
    ninth = TaskRequest(task_id=TASK_ID, prompt="hi", session_id=SESSION_ID)
    error = await failing(client.submit(ninth), InvalidRequest, "INVALID_PARAMS")
    assert [fault.pointer for fault in error.faults] == ["/session_id"]


async def _no_live_replica(client: AsyncClient) -> None:
    error = await failing(client.submit(SMALL), Unavailable, "POOL_UNAVAILABLE")
    assert (error.retry_after_ms, error.retriable) == (2400, True)


async def _our_fault(client: AsyncClient) -> None:
    error = await failing(client.submit(SMALL), ServerFault, "INTERNAL")
    assert not error.retriable


def submission(description: str, states: dict[str, dict[str, object]], **more: object) -> Interaction:
    """Describe a POST of the small body, but for what `more` says otherwise."""
    parts: dict[str, object] = {
        "method": "POST",
        "path": "/v1/tasks",
        "request_headers": _JSON,
        "request_body": SMALL_BODY,
        **more,
    }
    return Interaction(description, states, **parts)  # type: ignore[arg-type]


SUBMISSIONS = (
    submission(
        "a task with seed, profile and determinism",
        _READY,
        req=("ORCH-2001", "ORCH-3029", "ORCH-3045", "ORCH-3046", "ORCH-4050", "ORCH-4172"),
        request_body=_DETAILED_BODY,
        status=202,
        headers={**CORRELATION, **shapes.ADMISSION_HEADERS},
        body=shapes.admission(seed=1001, determinism="strict"),
        use=_submit_detailed,
    ),
    submission(
        "a task with defaults",
        _READY,
        req=("ORCH-2001", "ORCH-3046", "ORCH-4050", "ORCH-4051"),
        status=202,
        headers={**CORRELATION, **shapes.ADMISSION_HEADERS},
        body=shapes.admission(seed=match.integer(77), determinism=shapes.one_of("strict", "best_effort")),
        use=_submit_small,
    ),
    submission(
        "a task whose stream is the answer",
        _READY,
        req=("ORCH-2001", "ORCH-2002", "ORCH-4051", "ORCH-4052"),
        request_headers=STREAM_WANTED,
        status=200,
        headers={**CORRELATION, **shapes.STREAM_HEADERS, **shapes.ADMISSION_HEADERS},
        text=shapes.whole_stream(),
        text_pattern=shapes.STREAM,
        use=_read_at_once,
    ),
    submission(
        "the same task again",
        {"a task that waits": {"task_id": TASK_ID}},
        req=("ORCH-3024",),
        status=202,
        headers={**CORRELATION, **shapes.ADMISSION_HEADERS},
        body=shapes.admission(seed=match.integer(77), determinism=shapes.one_of("strict", "best_effort")),
        use=_submit_again,
    ),
    submission(
        "a batch task for a full queue that sheds low priority",
        {"a pool whose queue is full": {"full_policy": "shed-low-priority"}},
        req=("ORCH-2007", "ORCH-4159"),
        request_body=SMALL_BATCH_BODY,
        status=429,
        headers={**CORRELATION, **shapes.BACKOFF},
        body=shapes.envelope(
            "ADMISSION_REJECT",
            "the queue is full, and a batch task is the first to go",
            retriable=True,
            policy_label="shed-low-priority",
            retry_after_ms=match.integer(2400),
        ),
        use=_shed,
    ),
    submission(
        "a batch task for a full queue that holds nothing to drop for it",
        {"a pool whose queue is full": {"full_policy": "drop-lru"}},
        req=("ORCH-2006", "ORCH-2007", "ORCH-4158"),
        request_body=SMALL_BATCH_BODY,
        status=429,
        headers={**CORRELATION, **shapes.BACKOFF},
        body=shapes.envelope(
            "QUEUE_FULL_DROP_LRU",
            "the queue is full and holds no task that may be dropped for this one",
            retriable=True,
            policy_label="drop-lru",
            retry_after_ms=match.integer(2400),
        ),
        use=_no_victim,
    ),
    submission(
        "a task that is certain to miss its deadline",
        _READY,
        req=("ORCH-2007", "ORCH-4149"),
        request_body={**SMALL_BODY, "deadline_ms": 1, "sampling": {"ignore_eos": True}},
        status=429,
        headers={**CORRELATION, **shapes.BACKOFF},
        body=shapes.envelope(
            "ADMISSION_REJECT",
            "deadline_ms 1 is certain to be missed",
            retriable=True,
            policy_label="deadline",
            retry_after_ms=match.integer(2400),
        ),
        use=_certain_miss,
    ),
    submission(
        "a task for a session without a turn left",
        {"a session": {"session_id": SESSION_ID, "turns": 8}},
        req=("ORCH-2006", "ORCH-4244"),
        request_body={**SMALL_BODY, "session_id": SESSION_ID},
        status=400,
        headers=CORRELATION,
        body=shapes.envelope(
            "INVALID_PARAMS",
            "the session has had its 8 turns",
            retriable=False,
            faults=[{"pointer": "/session_id", "message": match.like("closed; start a new one")}],
        ),
        use=_ninth_turn,
    ),
    submission(
        "a task for a full queue",
        {"a pool whose queue is full": {"full_policy": "reject"}},
        req=("ORCH-2006", "ORCH-2007", "ORCH-3006"),
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
    submission(
        "a task for a pool that is not ready",
        {"a pool that is loading": {}},
        req=("ORCH-2006", "ORCH-2007", "ORCH-4120"),
        status=503,
        headers={**CORRELATION, **shapes.BACKOFF},
        body=shapes.envelope("POOL_UNREADY", "the pool is loading", retriable=True, retry_after_ms=match.integer(2400)),
        use=_unready,
    ),
    submission(
        "a task for a pool without a live replica",
        {"a pool without a live replica": {}},
        req=("ORCH-2006", "ORCH-2007", "ORCH-4120"),
        status=503,
        headers={**CORRELATION, **shapes.BACKOFF},
        body=shapes.envelope(
            "POOL_UNAVAILABLE", "the pool has no live replica", retriable=True, retry_after_ms=match.integer(2400)
        ),
        use=_no_live_replica,
    ),
    submission(
        "a task that meets a fault inside the daemon",
        {"a fault inside the daemon": {}},
        req=("ORCH-2006", "ORCH-4117"),
        status=500,
        headers=CORRELATION,
        body=shapes.envelope("INTERNAL", "something went wrong here", retriable=False),
        use=_our_fault,
    ),
    submission(
        "a task with a fault",
        _READY,
        req=("ORCH-2006", "ORCH-4020"),
        request_body={**SMALL_BODY, "max_tokens": 0},
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
    submission(
        "another task under a known id",
        {"a task of another body": {"task_id": TASK_ID}},
        req=("ORCH-4065",),
        status=409,
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "the id names another request", retriable=False),
        use=_conflict,
    ),
    submission(
        "a task without a key",
        {"keys are required": {}},
        req=("ORCH-4194",),
        status=401,
        headers={**CORRELATION, "WWW-Authenticate": match.regex("Bearer", regex="^Bearer( .*)?$")},
        body={"message": match.like("no valid credential"), "correlation_id": match.like("c-1")},
        use=lambda client: _denied(client, Unauthorized),
    ),
    submission(
        "a task with an unknown key",
        {"keys are required": {}},
        req=("ORCH-4194",),
        request_headers={**_JSON, "Authorization": "Bearer unknown-key"},
        api_key="unknown-key",
        status=401,
        headers={**CORRELATION, "WWW-Authenticate": match.regex("Bearer", regex="^Bearer( .*)?$")},
        body={"message": match.like("no valid credential"), "correlation_id": match.like("c-1")},
        use=lambda client: _denied(client, Unauthorized),
    ),
    submission(
        "a task with a key that has only the control scope",
        {"a key": {"key": "pact-control-key", "scopes": ["control"]}},
        req=("ORCH-4193",),
        request_headers={**_JSON, "Authorization": "Bearer pact-control-key"},
        api_key="pact-control-key",
        status=403,
        headers=CORRELATION,
        body={"message": match.like("not allowed"), "correlation_id": match.like("c-1")},
        use=lambda client: _denied(client, Forbidden),
    ),
)
