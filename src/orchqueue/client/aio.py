"""The asynchronous client: every call of both planes, typed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec
from msgspec import UNSET

from orchqueue.client.control import ControlCalls
from orchqueue.client.errors import ConnectFailed, Refused, ServerFault, Unavailable, is_absence
from orchqueue.client.patience import NO_RETRY, Patience, ReconnectPolicy, RetryPolicy
from orchqueue.client.stream import OnBreak, TaskStream
from orchqueue.client.transport import Answer, Timeouts, Transport
from orchqueue.client.types import Admission
from orchqueue.schema.data import (
    Explanation,
    Message,
    SessionInfo,
    TaskInfo,
    TaskList,
    TaskRequest,
    TaskSummary,
    Usage,
)

T = TypeVar("T")

_FIRST_TRIES: Final = 3
Work = str | Sequence[Message] | TaskRequest


class AsyncClient(ControlCalls):
    """Speak to one orchestratord.

    Use it as an async context manager, or call `aclose`. A string is a prompt, a sequence of messages a chat; a
    TaskRequest says everything else. A server that goes away and comes back is waited for as `reconnect` says, by
    streams and by all calls about tasks and sessions; `on_break` is told of each failure and of the wait in milliseconds
    before the next try.

    Req: ORCH-2001, ORCH-2007, ORCH-4283, ORCH-4310
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        api_key: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        reconnect: ReconnectPolicy | None = None,
        timeouts: Timeouts | None = None,
        ca_file: str | None = None,
        verify_tls: bool = True,
        chance: random.Random | None = None,
        on_break: OnBreak | None = None,
    ) -> None:
        transport = Transport(base_url, api_key, timeouts=timeouts, ca_file=ca_file, verify_tls=verify_tls)
        super().__init__(transport)
        self._retry = retry or RetryPolicy()
        self._reconnect = reconnect or ReconnectPolicy()
        self._chance = chance or random.Random()
        self._on_break = on_break

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def submit(
        self,
        work: Work,
        *,
        retry: RetryPolicy | None = None,
        on_refusal: Callable[[Refused | Unavailable, int], None] | None = None,
    ) -> Admission:
        """Post a task and return what the server promised.

        1. The task id is made here where the request has none, so that asking again counts once.
        2. A lost answer is asked for again as long as `reconnect` has patience, whatever `retry` says.
        3. 429 and 503 are asked again after the server's hint, as long as `retry` has patience; `on_refusal` is told
           of each with the wait in milliseconds.

        Errors: Refused, Unavailable when patience is over; InvalidRequest, Conflict, Unauthorized, Forbidden at once.
        Req: ORCH-2001, ORCH-2007, ORCH-3024, ORCH-4228, ORCH-4310
        """
        body = msgspec.json.encode(as_request(work))
        return await self._patiently(lambda: self._post_task(body), retry, on_refusal)

    async def _patiently(
        self,
        ask: Callable[[], Awaitable[T]],
        retry: RetryPolicy | None,
        on_refusal: Callable[[Refused | Unavailable, int], None] | None,
    ) -> T:
        policy = retry or self._retry
        waited_ms = attempt = 0
        while True:
            try:
                return await self._ask_again_when_lost(ask)
            except (Refused, Unavailable) as refusal:
                wait_ms = policy.wait_ms(attempt, refusal.retry_after_ms, waited_ms, self._chance)
                if wait_ms is None:
                    raise
                if on_refusal is not None:
                    on_refusal(refusal, wait_ms)
            attempt += 1
            waited_ms += wait_ms
            await asyncio.sleep(wait_ms / 1000)

    def stream(self, task_id: str, last_event_id: str | None = None) -> TaskStream:
        """Follow a task from its start, or from after `last_event_id`.

        Errors: ValueError when `last_event_id` is not a stream position.
        Req: ORCH-2002
        """
        return TaskStream(
            self._transport,
            task_id,
            last_event_id=last_event_id,
            policy=self._reconnect,
            chance=self._chance,
            on_break=self._on_break,
        )

    async def run(
        self,
        work: Work,
        *,
        retry: RetryPolicy | None = None,
        on_refusal: Callable[[Refused | Unavailable, int], None] | None = None,
    ) -> TaskStream:
        """Post a task and follow it; the stream's `admission` is the server's promise.

        Errors: as `submit`.
        Req: ORCH-2001, ORCH-2002
        """
        admission = await self.submit(work, retry=retry, on_refusal=on_refusal)
        return TaskStream(
            self._transport,
            admission.task_id,
            policy=self._reconnect,
            admission=admission,
            chance=self._chance,
            on_break=self._on_break,
        )

    async def run_at_once(
        self,
        work: Work,
        *,
        retry: RetryPolicy | None = None,
        on_refusal: Callable[[Refused | Unavailable, int], None] | None = None,
    ) -> TaskStream:
        """Post a task and read its stream as the answer: one exchange instead of two.

        The server's promise is in the answer's headers only, so the stream has no `admission`; a broken connection is
        resumed as any other.

        Errors: as `submit`; TaskFailed when the task is known already and failed before its first character.
        Req: ORCH-2001, ORCH-2002, ORCH-4040
        """
        request = as_request(work)
        body = msgspec.json.encode(request)
        idle_ms = self._reconnect.idle_ms
        response = await self._patiently(
            lambda: self._transport.open_stream("POST", "/v1/tasks", body=body, idle_ms=idle_ms), retry, on_refusal
        )
        return TaskStream(
            self._transport,
            str(request.task_id),
            policy=self._reconnect,
            opening=response,
            chance=self._chance,
            on_break=self._on_break,
        )

    async def task(self, task_id: str) -> TaskInfo:
        """Return a task as it stands, with its text so far.

        Req: ORCH-4002
        """
        answer = await self._call("GET", _task_path(task_id))
        return answer.as_type(TaskInfo)

    async def tasks(
        self,
        *,
        state: str | None = None,
        priority: str | None = None,
        page_size: int = 50,
    ) -> AsyncIterator[TaskSummary]:
        """Yield one's own tasks, newest first, fetching page by page.

        Req: ORCH-4001
        """
        cursor: str | None = None
        while True:
            page = await self.tasks_page(state=state, priority=priority, limit=page_size, cursor=cursor)
            for task in page.tasks:
                yield task
            if page.next_cursor is UNSET or page.next_cursor == cursor:
                return
            cursor = page.next_cursor

    async def tasks_page(
        self, *, state: str | None = None, priority: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> TaskList:
        """Return one page of one's own tasks.

        Req: ORCH-4001
        """
        wishes: dict[str, str | int | None] = {"state": state, "priority": priority, "limit": limit, "cursor": cursor}
        params = {name: value for name, value in wishes.items() if value is not None}
        answer = await self._call("GET", "/v1/tasks", params)
        return answer.as_type(TaskList)

    async def explain(self, task_id: str) -> Explanation:
        """Return why a task is where it is, or why it was refused.

        Req: ORCH-4003
        """
        answer = await self._call("GET", f"{_task_path(task_id)}/explain")
        return answer.as_type(Explanation)

    async def usage(self, from_day: str | None = None, to_day: str | None = None) -> Usage:
        """Return what one's own tenant used, by key, model and UTC day; the server's last 31 days unless told otherwise.

        Shape: days as YYYY-MM-DD, both counted.
        Req: ORCH-4004
        """
        wishes: dict[str, str | int | None] = {"from_day": from_day, "to_day": to_day}
        params = {name: value for name, value in wishes.items() if value is not None}
        answer = await self._call("GET", "/v1/usage", params)
        return answer.as_type(Usage)

    async def cancel(self, task_id: str) -> None:
        """Cancel a task; afterwards no token is added to it. Cancelling twice, or after the end, is no error.

        Req: ORCH-2003
        """
        await self._call("POST", f"{_task_path(task_id)}/cancel")

    async def session(self, session_id: str) -> SessionInfo:
        """Return a session as it stands.

        Req: ORCH-2004
        """
        answer = await self._call("GET", _session_path(session_id))
        return answer.as_type(SessionInfo)

    async def delete_session(self, session_id: str) -> None:
        """Forget a session; an unknown one is no error.

        Req: ORCH-2005
        """
        await self._call("DELETE", _session_path(session_id))

    async def _post_task(self, body: bytes) -> Admission:
        return (await self._transport.call("POST", "/v1/tasks", body=body)).as_type(Admission)

    async def _call(self, method: str, path: str, params: dict[str, str | int] | None = None) -> Answer:
        """Make a call that may be made twice, and wait for a server that is away or not ready again."""
        return await self._ask_again_when_lost(
            lambda: self._transport.call(method, path, params=params), _FIRST_TRIES, waits_when_unready=True
        )

    async def _ask_again_when_lost(
        self,
        ask: Callable[[], Awaitable[T]],
        first_tries: int | None = None,
        *,
        waits_when_unready: bool = False,
    ) -> T:
        """Ask until there is an answer; `first_tries` at most where nobody has ever answered at this address.

        After a loss 503 is no answer to it: the server, which is starting, cannot tell yet what it had accepted.
        """
        patience = Patience(self._reconnect, self._chance)
        while True:
            patience.begin()
            try:
                return await ask()
            except (ConnectFailed, ServerFault, Unavailable) as failure:
                if isinstance(failure, Unavailable) and not waits_when_unready and not patience.failures:
                    raise
                if (wait_ms := self._wait_ms(failure, patience, first_tries)) is None:
                    raise
                if self._on_break is not None:
                    self._on_break(failure, wait_ms)
            await asyncio.sleep(wait_ms / 1000)

    def _wait_ms(self, failure: Exception, patience: Patience, first_tries: int | None) -> int | None:
        if isinstance(failure, Unavailable):
            return patience.wait_ms(failure.retry_after_ms)
        reached = self._transport.was_reached
        if not is_absence(failure, was_reached=reached or patience.failures > 0):
            return None
        if not reached and first_tries is not None and patience.failures >= first_tries:
            return None
        return patience.wait_ms(None)


def as_request(work: Work) -> TaskRequest:
    """Complete the work to a request that has an id of its own."""
    if isinstance(work, str):
        return TaskRequest(task_id=str(uuid4()), prompt=work)
    if not isinstance(work, TaskRequest):
        return TaskRequest(task_id=str(uuid4()), messages=list(work))
    if work.task_id is UNSET:
        return msgspec.structs.replace(work, task_id=str(uuid4()))
    return work


def _task_path(task_id: str) -> str:
    return f"/v1/tasks/{quote(task_id, safe='')}"


def _session_path(session_id: str) -> str:
    return f"/v1/sessions/{quote(session_id, safe='')}"


__all__ = ["NO_RETRY", "AsyncClient", "Work", "as_request"]
