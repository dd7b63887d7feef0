"""The synchronous facade: the asynchronous client on a loop of its own, in one background thread."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from orchqueue.client.aio import AsyncClient, Work
from orchqueue.client.errors import Refused, Unavailable
from orchqueue.client.patience import ReconnectPolicy, RetryPolicy
from orchqueue.client.stream import OnBreak, TaskStream
from orchqueue.client.transport import Timeouts
from orchqueue.client.types import Admission, Completion, End, ErrorEvent, Event, Started
from orchqueue.schema.control import (
    Capabilities,
    ConfigReloaded,
    Liveness,
    ModelInfo,
    PoolHealth,
    PoolInfo,
    PoolOperation,
    Readiness,
    ReplicaSet,
)
from orchqueue.schema.data import Explanation, SessionInfo, TaskInfo, TaskSummary, Usage

T = TypeVar("T")
OnRefusal = Callable[[Refused | Unavailable, int], None]


class _Portal:
    """Runs coroutines on a loop in a daemon thread, from any other thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="orchqueue-client", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end; an interrupt of the waiting thread cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread, and whatever still runs there."""
        self.wait(_end_all_work())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Stream:
    """The events of one task as a plain iterator; see TaskStream.

    Req: ORCH-4230
    """

    def __init__(self, portal: _Portal, stream: TaskStream) -> None:
        self._portal = portal
        self._stream = stream

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self._portal.wait(_next_or_none(self._stream))
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._portal.wait(self._stream.aclose())

    def result(self) -> Completion:
        """Read to the end and return the whole.

        Errors: as TaskStream.result.
        """
        return self._portal.wait(self._stream.result())

    @property
    def task_id(self) -> str:
        """Return the task's id."""
        return self._stream.task_id

    @property
    def text(self) -> str:
        """Return the text received so far."""
        return self._stream.text

    @property
    def last_event_id(self) -> str:
        """Return the id from which another stream can continue."""
        return self._stream.last_event_id

    @property
    def admission(self) -> Admission | None:
        """Return the server's promise, where this stream posted the task."""
        return self._stream.admission

    @property
    def started(self) -> Started | None:
        """Return the started event, once it came."""
        return self._stream.started

    @property
    def end(self) -> End | None:
        """Return the end event, once it came."""
        return self._stream.end

    @property
    def error(self) -> ErrorEvent | None:
        """Return the error event, once it came."""
        return self._stream.error


class Client:
    """Speak to one orchestratord without asyncio; every call is AsyncClient's of the same name.

    Req: ORCH-4230
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
        self._aio = AsyncClient(
            base_url,
            api_key,
            retry=retry,
            reconnect=reconnect,
            timeouts=timeouts,
            ca_file=ca_file,
            verify_tls=verify_tls,
            chance=chance,
            on_break=on_break,
        )
        self._portal = _Portal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the thread."""
        self._portal.wait(self._aio.aclose())
        self._portal.close()

    def submit(self, work: Work, *, retry: RetryPolicy | None = None, on_refusal: OnRefusal | None = None) -> Admission:
        """Post a task."""
        return self._portal.wait(self._aio.submit(work, retry=retry, on_refusal=on_refusal))

    def run(self, work: Work, *, retry: RetryPolicy | None = None, on_refusal: OnRefusal | None = None) -> Stream:
        """Post a task and follow it."""
        return Stream(self._portal, self._portal.wait(self._aio.run(work, retry=retry, on_refusal=on_refusal)))

    def run_at_once(
        self, work: Work, *, retry: RetryPolicy | None = None, on_refusal: OnRefusal | None = None
    ) -> Stream:
        """Post a task and read its stream as the answer."""
        return Stream(self._portal, self._portal.wait(self._aio.run_at_once(work, retry=retry, on_refusal=on_refusal)))

    def stream(self, task_id: str, last_event_id: str | None = None) -> Stream:
        """Follow a task."""
        return Stream(self._portal, self._aio.stream(task_id, last_event_id))

    def task(self, task_id: str) -> TaskInfo:
        """Return a task as it stands."""
        return self._portal.wait(self._aio.task(task_id))

    def tasks(
        self, *, state: str | None = None, priority: str | None = None, page_size: int = 50
    ) -> Iterator[TaskSummary]:
        """Yield one's own tasks, newest first."""
        pages = self._aio.tasks(state=state, priority=priority, page_size=page_size)
        while (task := self._portal.wait(_next_or_none(pages))) is not None:
            yield task

    def explain(self, task_id: str) -> Explanation:
        """Return why a task is where it is, or why it was refused."""
        return self._portal.wait(self._aio.explain(task_id))

    def usage(self, from_day: str | None = None, to_day: str | None = None) -> Usage:
        """Return what one's own tenant used, by key, model and UTC day."""
        return self._portal.wait(self._aio.usage(from_day, to_day))

    def cancel(self, task_id: str) -> None:
        """Cancel a task."""
        self._portal.wait(self._aio.cancel(task_id))

    def session(self, session_id: str) -> SessionInfo:
        """Return a session as it stands."""
        return self._portal.wait(self._aio.session(session_id))

    def delete_session(self, session_id: str) -> None:
        """Forget a session."""
        self._portal.wait(self._aio.delete_session(session_id))

    def pools(self) -> list[PoolInfo]:
        """List every pool in brief."""
        return self._portal.wait(self._aio.pools())

    def pool_health(self, pool_id: str) -> PoolHealth:
        """Return one pool in full."""
        return self._portal.wait(self._aio.pool_health(pool_id))

    def replica_sets(self) -> list[ReplicaSet]:
        """List the replica sets."""
        return self._portal.wait(self._aio.replica_sets())

    def capabilities(self) -> Capabilities:
        """Return what the deployment can do."""
        return self._portal.wait(self._aio.capabilities())

    def models(self) -> list[ModelInfo]:
        """List the models."""
        return self._portal.wait(self._aio.models())

    def drain(self, pool_id: str, deadline_ms: int = 30_000) -> PoolOperation:
        """Empty a pool."""
        return self._portal.wait(self._aio.drain(pool_id, deadline_ms))

    def reload(self, pool_id: str, new_model_ref: str, canary_percent: int = 100) -> PoolOperation:
        """Let a pool serve another model."""
        return self._portal.wait(self._aio.reload(pool_id, new_model_ref, canary_percent))

    def rollback(self, pool_id: str) -> PoolOperation:
        """Return a pool to the model before its last reload."""
        return self._portal.wait(self._aio.rollback(pool_id))

    def reload_config(self) -> ConfigReloaded:
        """Let the server read its configuration file again."""
        return self._portal.wait(self._aio.reload_config())

    def rollback_config(self) -> ConfigReloaded:
        """Take the last reload of the configuration back."""
        return self._portal.wait(self._aio.rollback_config())

    def healthz(self) -> Liveness:
        """Ask whether the server lives."""
        return self._portal.wait(self._aio.healthz())

    def readyz(self) -> Readiness:
        """Ask whether tasks are admitted."""
        return self._portal.wait(self._aio.readyz())

    def metrics(self) -> str:
        """Return the metrics."""
        return self._portal.wait(self._aio.metrics())


async def _end_all_work() -> None:
    # As asyncio.run does at its end: the generators of a stream that was left half-read are closed in tasks of their own.
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _next_or_none(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)
