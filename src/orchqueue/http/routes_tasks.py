"""Tasks: post, look, list, explain, follow, cancel.

Req: ORCH-2002, ORCH-2003, ORCH-4002, ORCH-4003, ORCH-4040
"""

from __future__ import annotations

from orchqueue.core.ids import TaskId, TaskKey, task_id_of, task_key
from orchqueue.core.outcome import Fault, Refusal
from orchqueue.http.gateway import Gateway
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.messages import Header, Request, Response
from orchqueue.http.negotiation import wants_stream
from orchqueue.http.problems import Problem, invalid, not_found, problem_of, problem_of_ended
from orchqueue.http.request import read_object, task_of
from orchqueue.http.sse import AlreadyRead, StreamAnswer, answer_with_stream, position_in
from orchqueue.http.views import admission, encode, task_info, task_summary
from orchqueue.http.views_insight import explanation
from orchqueue.runtime.stream_frames import is_error


class TaskRoutes:
    """Handlers of `/v1/tasks` and below."""

    def __init__(self, gateway: Gateway, limits: EdgeLimits) -> None:
        self._gateway = gateway
        self._limits = limits

    async def create(self, request: Request) -> Response | StreamAnswer:
        """Admit or refuse a task; with the right `Accept` its stream is the answer, or why there is none.

        A client that asked for the stream and left before the answer counts as a reader that came and went.

        Req: ORCH-2001, ORCH-4051
        """
        streaming = wants_stream(request.value(b"accept"))
        task_id, spec = task_of(await read_object(request, self._limits.body_bytes, "TaskRequest"))
        request.exchange.streaming = streaming
        answer = await self._gateway.submit(
            task_id, request.caller_tenant, spec, request.client_id, request.correlation_id
        )
        if isinstance(answer, Refusal):
            raise problem_of(answer)
        task_id = task_id_of(answer.key)
        headers: list[Header] = [
            (b"location", f"/v1/tasks/{task_id}".encode()),
            (b"x-queue-position", b"%d" % answer.queue_position),
            (b"x-queue-eta-ms", b"%d" % answer.predicted_start_ms),
        ]
        if streaming:
            await self._raise_unheard_failure(answer.key)
            return answer_with_stream(request, self._gateway.streams, answer.key, None, headers)
        headers.append((b"x-task-id", task_id.encode()))
        return Response(202, encode(admission(answer)), headers)

    async def _raise_unheard_failure(self, key: TaskKey) -> None:
        if self._gateway.streams.ended_without_text(key):
            picture = await self._gateway.task(key)
            if picture is not None and picture.ended is not None and is_error(picture.ended.outcome):
                raise problem_of_ended(picture.ended)

    async def list(self, request: Request) -> Response:
        """List the caller's own tasks, newest first.

        Req: ORCH-4001
        """
        query = request.params
        state, priority, cursor = (query.get(f"/query/{name}") for name in ("state", "priority", "cursor"))
        found = await self._gateway.tasks(
            request.caller_tenant,
            None if state is None else str(state),
            None if priority is None else str(priority),
            int(query["/query/limit"]),
            None if cursor is None else str(cursor),
        )
        if isinstance(found, Fault):
            raise invalid([found])
        pictures, next_cursor = found
        page: dict[str, object] = {"tasks": [task_summary(picture, self._gateway.streams) for picture in pictures]}
        if next_cursor is not None:
            page["next_cursor"] = next_cursor
        return Response(200, encode(page))

    async def look(self, request: Request) -> Response:
        """Tell how a task stands, with its text so far."""
        key = _key(request)
        picture = await self._gateway.task(key)
        if picture is None:
            raise _unknown(key)
        return Response(200, encode(task_info(picture, self._gateway.streams)))

    async def explain(self, request: Request) -> Response:
        """Tell why a task is where it is, or why it was refused."""
        key = _key(request)
        found = await self._gateway.explain(key)
        if found is None:
            raise _unknown(key)
        return Response(200, encode(explanation(found)))

    async def stream(self, request: Request) -> Response | StreamAnswer:
        """Follow a task from its start or from where the reader left off."""
        key = _key(request)
        position = position_in(request)
        if await self._gateway.task(key) is None:
            raise _unknown(key)
        request.exchange.streaming = True
        try:
            return answer_with_stream(request, self._gateway.streams, key, position, [])
        except AlreadyRead:
            return Response(204, headers=[(b"x-task-id", task_id_of(key).encode())])

    async def cancel(self, request: Request) -> Response:
        """Stop a task; it is durably stopped when the answer goes out."""
        refusal = await self._gateway.cancel(_key(request))
        if refusal is not None:
            raise problem_of(refusal)
        return Response(204)


def _key(request: Request) -> TaskKey:
    return task_key(request.caller_tenant, TaskId(request.param("/path/task_id").lower()))


def _unknown(key: TaskKey) -> Problem:
    return not_found(
        "/path/task_id", f"no task {task_id_of(key)} is known; it never existed or its retention time is over"
    )
