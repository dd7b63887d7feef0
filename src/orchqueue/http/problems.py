"""Everything that goes wrong as an HTTP answer: one envelope, its status and its headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from orchqueue.core.outcome import MEANINGS, ErrorCode, Fault, Refusal
from orchqueue.core.records import Ended
from orchqueue.http.messages import Header, Response
from orchqueue.schema import data

T = TypeVar("T")

DEFAULT_BACKOFF_MS = 1_000
MAX_BACKOFF_MS = 86_400_000
MAX_FAULTS = 32
MAX_MESSAGE_CHARS = 2_000


class Problem(Exception):
    """A request cannot be answered as hoped; `status` and the rest say how it is answered instead.

    `ended_task`: not the request is refused, but the task that it names was accepted and has failed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: ErrorCode = "INVALID_PARAMS",
        retriable: bool = False,
        faults: Sequence[Fault] = (),
        retry_after_ms: int | None = None,
        policy_label: str | None = None,
        engine: str | None = None,
        pool_id: str | None = None,
        task_id: str | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code: ErrorCode = code
        self.retriable = retriable
        self.faults = tuple(faults)[:MAX_FAULTS]
        self.retry_after_ms = retry_after_ms
        self.policy_label = policy_label
        self.engine = engine
        self.pool_id = pool_id
        self.task_id = task_id
        self.allow = allow
        self.ended_task = False


class AuthFailure(Exception):
    """The caller is not known (401) or not allowed (403); the message never says which part was wrong.

    Req: ORCH-4194
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def invalid(faults: Sequence[Fault], status: int = 400) -> Problem:
    """Name every offending place of a request."""
    first = "; ".join(f"{fault.pointer or 'the body'} {fault.message}" for fault in faults[:4])
    head = "" if len(faults) == 1 else f"{len(faults)} faults: "
    return Problem(status, f"{head}{first}", faults=faults)


def problem_of(refusal: Refusal) -> Problem:
    """Translate a refusal through the one outcome table."""
    meaning = MEANINGS[refusal.outcome]
    return Problem(
        meaning.status,
        refusal.message,
        code=meaning.code or "INTERNAL",
        retriable=meaning.retriable,
        faults=refusal.faults,
        retry_after_ms=refusal.retry_after_ms,
        policy_label=meaning.policy_label,
        engine=refusal.engine,
        pool_id=refusal.pool_id,
        task_id=refusal.task_id,
    )


def problem_of_ended(ended: Ended) -> Problem:
    """Tell of a task that failed before there was anything to stream.

    Req: ORCH-4040
    """
    problem = problem_of(
        Refusal(
            ended.outcome,
            ended.message or f"task {ended.task_id}: {ended.outcome.value}",
            retry_after_ms=ended.retry_after_ms,
            engine=ended.engine,
            pool_id=ended.pool_id,
            task_id=ended.task_id,
        )
    )
    problem.ended_task = True
    return problem


def unset(value: T | None) -> T | msgspec.UnsetType:
    """Leave an absent value out of the answer."""
    return msgspec.UNSET if value is None else value


def problem_response(problem: Problem, correlation_id: str) -> Response:
    """Answer with the envelope; 429 and 503 always say when to come back.

    Units: `Retry-After` is whole seconds rounded up, at least 1; `X-Backoff-Ms` equals `retry_after_ms`.
    Req: ORCH-2006, ORCH-2007, ORCH-4080
    """
    headers: list[Header] = []
    backoff_ms = problem.retry_after_ms
    if problem.status in (429, 503):
        backoff_ms = min(max(1, DEFAULT_BACKOFF_MS if backoff_ms is None else backoff_ms), MAX_BACKOFF_MS)
        headers.append((b"retry-after", b"%d" % max(1, -(-backoff_ms // 1000))))
        headers.append((b"x-backoff-ms", b"%d" % backoff_ms))
    if problem.allow is not None:
        headers.append((b"allow", problem.allow.encode()))
    if problem.ended_task and problem.task_id is not None:
        headers.append((b"x-task-id", problem.task_id.encode()))
    faults = [data.Fault(pointer=fault.pointer[:1024], message=fault.message[:1024]) for fault in problem.faults]
    envelope = data.ErrorEnvelope(
        code=problem.code,
        message=problem.message[:MAX_MESSAGE_CHARS],
        retriable=problem.retriable,
        correlation_id=correlation_id,
        engine=unset(problem.engine),
        pool_id=unset(problem.pool_id),
        task_id=unset(problem.task_id),
        retry_after_ms=backoff_ms or msgspec.UNSET,
        policy_label=unset(problem.policy_label),
        faults=faults or msgspec.UNSET,
    )
    return Response(problem.status, msgspec.json.encode(envelope), headers)


def auth_response(failure: AuthFailure, correlation_id: str) -> Response:
    """Answer 401 or 403 with its own small body.

    Req: ORCH-4194
    """
    body = msgspec.json.encode(data.AuthBody(message=failure.message, correlation_id=correlation_id))
    headers = [(b"www-authenticate", b'Bearer realm="orchqueue"')] if failure.status == 401 else []
    return Response(failure.status, body, headers)


def not_found(pointer: str, message: str) -> Problem:
    """Say that an id is not known, or not this caller's."""
    return Problem(404, message, faults=(Fault(pointer, "unknown"),))


def internal() -> Problem:
    """Say that something broke here, and nothing about what.

    Req: ORCH-4117
    """
    message = "something went wrong here; the log has it under the correlation id"
    return Problem(500, message, code="INTERNAL")


def body_too_large(limit_bytes: int) -> Problem:
    """Refuse a body before it is read to its end.

    Req: ORCH-4072
    """
    fault = Fault("", f"must be at most {limit_bytes} bytes")
    return Problem(413, f"the body is larger than {limit_bytes} bytes", faults=(fault,))
