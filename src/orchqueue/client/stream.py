"""A task's stream that survives its connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from orchqueue.client.errors import (
    ApiError,
    Conflict,
    ConnectFailed,
    ProtocolBroken,
    Refused,
    ServerFault,
    StreamBroken,
    StreamMismatch,
    TaskFailed,
    Unavailable,
    is_absence,
)
from orchqueue.client.patience import Patience, ReconnectPolicy
from orchqueue.client.position import Position, Transcript
from orchqueue.client.sse import EventTooLarge, SseEvent, SseParser
from orchqueue.client.transport import Transport
from orchqueue.client.types import Admission, Completion, End, ErrorEvent, Event, Metrics, Started, Token

T = TypeVar("T")
OnBreak = Callable[[Exception, int], None]

_ASK_AGAIN: Final = (Refused, Unavailable, ServerFault)


class TaskStream:
    """The events of one task, in order, each once, whatever happens to the connections behind it.

    Iterate it with `async for`; the last event is End or ErrorEvent. It reconnects by itself, continues after the last
    byte received, and passes on only text whose checksum is the server's.

    Errors: StreamMismatch, ReceiptMismatch, StreamBroken when patience is used up, ApiError when the task cannot be
    read at all.
    Req: ORCH-4039, ORCH-4310
    """

    def __init__(
        self,
        transport: Transport,
        task_id: str,
        *,
        last_event_id: str | None = None,
        policy: ReconnectPolicy | None = None,
        admission: Admission | None = None,
        opening: httpx.Response | None = None,
        chance: random.Random | None = None,
        on_break: OnBreak | None = None,
    ) -> None:
        self.task_id = task_id
        self.admission = admission
        self.started: Started | None = None
        self.end: End | None = None
        self.error: ErrorEvent | None = None
        self.reconnects = 0
        self._transport = transport
        self._path = f"/v1/tasks/{quote(task_id, safe='')}/stream"
        self._policy = policy or ReconnectPolicy()
        self._patience = Patience(self._policy, chance or random.Random())
        self._on_break = on_break
        begin = Position.parse(last_event_id) if last_event_id else None
        self._resume_id = last_event_id or ""
        self._transcript = Transcript(begin)
        self._opening = opening
        self._nothing_follows = False
        self._events = self._follow()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; the task goes on or not as its `on_disconnect` says."""
        opening, self._opening = self._opening, None
        if opening is not None:
            await opening.aclose()
        await self._events.aclose()

    @property
    def text(self) -> str:
        """Return the text received so far by this stream."""
        return self._transcript.text

    @property
    def last_event_id(self) -> str:
        """Return the id from which another stream can continue; empty before the first event."""
        return self._resume_id

    @property
    def is_verified(self) -> bool:
        """Tell whether the whole text was compared with the receipt's digest."""
        return self.end is not None and self._transcript.is_whole

    async def result(self) -> Completion:
        """Read to the end and return the whole.

        Errors: TaskFailed when the task ended with an error event; else as iterating.
        """
        async with aclosing(self):
            async for _ in self:
                pass
        if self.error is not None:
            raise TaskFailed(self.error, self.text)
        if self.end is None:
            raise StreamBroken(
                f"task {self.task_id}: nothing follows {self.last_event_id}", self.task_id, self.last_event_id
            )
        return Completion(self.task_id, self.text, self.end, self.started, self.is_verified)

    async def _follow(self) -> AsyncGenerator[Event, None]:
        patience = self._patience
        while True:
            hint_ms: int | None = None
            patience.begin()
            try:
                async with aclosing(self._one_connection()) as events:
                    async for event in events:
                        patience.renew()
                        yield event
                if self._is_over:
                    return
                failure: Exception = ProtocolBroken("the connection closed before the task's end")
            except ConnectFailed as error:
                if not is_absence(error, was_reached=self._transport.was_reached):
                    raise
                failure = error
            except _ASK_AGAIN as error:
                hint_ms, failure = error.retry_after_ms, error
            except Conflict as error:
                raise StreamMismatch(error.message) from error
            wait_ms = patience.wait_ms(hint_ms)
            if wait_ms is None:
                raise self._broken(failure) from failure
            self.reconnects += 1
            if self._on_break is not None:
                self._on_break(failure, wait_ms)
            await asyncio.sleep(wait_ms / 1000)

    def _broken(self, failure: Exception) -> StreamBroken:
        reason = failure.message if isinstance(failure, ApiError) else str(failure)
        return StreamBroken(
            f"task {self.task_id}: the stream broke and could not be had again in {self._patience.tried_ms / 1000:.1f} s "
            f"and {self._patience.failures} tries, last because: {reason}",
            self.task_id,
            self._resume_id,
        )

    @property
    def _is_over(self) -> bool:
        return self.end is not None or self.error is not None or self._nothing_follows

    async def _one_connection(self) -> AsyncGenerator[Event, None]:
        parser = SseParser()
        response, self._opening = self._opening, None
        if response is None:
            response = await self._transport.open_stream(
                "GET", self._path, last_event_id=self._resume_id, idle_ms=self._policy.idle_ms
            )
        async with aclosing(response):
            if response.status_code == 204:
                self._nothing_follows = True
                return
            async with aclosing(self._transport.read_chunks(response)) as chunks:
                async for chunk in chunks:
                    self._patience.heard()
                    try:
                        received = parser.feed(chunk)
                    except EventTooLarge as error:
                        raise ProtocolBroken(f"task {self.task_id}: {error}") from error
                    for raw in received:
                        event = self._take(raw)
                        if event is not None:
                            yield event
                        if self._is_over:
                            return

    def _take(self, raw: SseEvent) -> Event | None:
        """Check one event; None for one that says nothing new."""
        if raw.event == "token":
            return self._take_token(raw)
        if raw.event == "metrics":
            return _decode(raw, Metrics)
        if raw.event == "started":
            if self.started is not None:
                return None
            self.started = _decode(raw, Started)
            # Resuming from here, before any text, the server knows that `started` was seen.
            self._resume_id = self._resume_id or str(self._position(raw))
            return self.started
        if raw.event == "end":
            end = _decode(raw, End)
            position = self._position(raw)
            self._transcript.check_end(position, end.receipt.digest)
            self._resume_id = str(position)
            self.end = end
            return end
        if raw.event == "error":
            error = _decode(raw, ErrorEvent)
            # Why it failed is true for a reader that has more; one that has less was not given all of the text.
            if raw.has_own_id and self._position(raw).text_bytes > self._transcript.position.text_bytes:
                raise StreamMismatch(
                    f"the stream ended at {raw.last_event_id}, but what arrived ends at {self._transcript.position}"
                )
            self.error = error
            return error
        return None

    def _take_token(self, raw: SseEvent) -> Token | None:
        token = _decode(raw, Token)
        fresh = self._transcript.append(token.t, self._position(raw))
        if not fresh:
            return None
        self._resume_id = str(self._transcript.position)
        return token if fresh == token.t else msgspec.structs.replace(token, t=fresh)

    def _position(self, raw: SseEvent) -> Position:
        if not raw.has_own_id:
            raise ProtocolBroken(f"task {self.task_id}: a {raw.event} event came without an id")
        try:
            return Position.parse(raw.last_event_id)
        except ValueError as error:
            raise ProtocolBroken(f"task {self.task_id}: {error}") from error


def _decode(raw: SseEvent, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw.data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolBroken(f"a {raw.event} event is not the contract's: {error}") from error
