"""One attempt on a llama.cpp server, from its prompt to the moment when its slot is seen free.

Req: ORCH-4217
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from orchqueue.adapters.engines.connection import Answer, Endpoint, StreamConnection, encode_request, open_stream
from orchqueue.adapters.engines.llamacpp_messages import (
    ErrorBody,
    StreamEvent,
    error_status,
    explain,
    failure_of,
    finish_reason_of,
)
from orchqueue.adapters.engines.profiles import UnservableError
from orchqueue.adapters.engines.schema_guard import SchemaGuard
from orchqueue.adapters.engines.wire import EVENT_MAX_BYTES, SseEvent
from orchqueue.core.events import AttemptFailure
from orchqueue.ports.engine import AttemptSink, Completion
from orchqueue.ports.errors import EngineError

LINGER_S = 2.0
"""How long a stream may stay open after its last event before we close it."""

_decode = msgspec.json.Decoder(StreamEvent).decode


class Prepared(msgspec.Struct, frozen=True):
    """A request body, and who watches the text it brings."""

    body: bytes
    guard: SchemaGuard | None = None


Prepare = Callable[[], Awaitable[Prepared]]
"""Make the request; may have to ask the engine first."""


class RefusedError(EngineError):
    """The engine answered with an error status while the request was made."""

    def __init__(self, failure: AttemptFailure, message: str) -> None:
        super().__init__(message)
        self.failure: AttemptFailure = failure


class LlamacppAttempt:
    """Streams one completion to its sink.

    1. `prepare` makes the body; an abort here needs no word to the engine.
    2. The stream runs inside the connection's read callback.
    3. After an abort or a loss the engine is watched until it holds nothing of it (`settle`), then `closed` is called, once.

    Req: ORCH-4213, ORCH-4214
    """

    def __init__(
        self,
        endpoint: Endpoint,
        sink: AttemptSink,
        prepare: Prepare,
        settle: Callable[[bool], Awaitable[None]],
        forget: Callable[[LlamacppAttempt], None],
    ) -> None:
        self._endpoint = endpoint
        self._sink = sink
        self._prepare = prepare
        self._settle = settle
        self._forget = forget
        self._connection: StreamConnection | None = None
        self._guard: SchemaGuard | None = None
        self._tokens_out = 0
        self._over = False
        self._closed = False
        self._linger: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        self._settling: asyncio.Task[None] | None = None

    def abort(self) -> None:
        """Drop the connection, then watch the engine until the slot is free; only `closed` follows.

        Req: ORCH-3017
        """
        if self._over:
            return
        self._over = True
        if self.sent:
            self._leave()
        else:
            self._task.cancel()
            if self._connection is not None:
                self._connection.close()
            self._loop.call_soon(self._close)

    def drop(self) -> None:
        """End at once because the engine is gone: a running attempt fails, and nothing is watched any more."""
        self._task.cancel()
        if self._connection is not None:
            self._connection.close()
        if self._settling is not None:
            self._settling.cancel()
        if not self._over:
            self._over = True
            self._sink.failed("lost", f"{self._endpoint.url} is gone")
        self._close()

    def on_events(self, events: list[SseEvent]) -> None:
        """Carry what one read brought to the sink, in one call.

        Cost: one typed decode for each event.
        """
        texts: list[str] = []
        last: StreamEvent | None = None
        for sse in events:
            try:
                event = _decode(sse.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                last = StreamEvent(error=_broken(error))
                break
            self._tokens_out = max(self._tokens_out, event.tokens_predicted)
            if event.content:
                texts.append(event.content)
                if self._guard is not None:
                    self._guard.take(event.content)
            if event.stop or event.error is not None or sse.name == b"error":
                last = event
                break
        if self._over:
            return
        if texts:
            self._sink.chunks(tuple(texts), self._tokens_out)
        if last is not None and not self._over:
            self._end(last)

    def on_answer(self, answer: Answer) -> None:
        """Take a refusal: the whole answer came, so the engine holds nothing."""
        if self._over:
            return
        failure = failure_of(answer.status) if answer.status != 200 else "engine_error"
        self._fail(failure, explain(answer.status, answer.body))
        self._close()

    def on_end(self) -> None:
        """Take the proper end of the stream."""
        if not self._over:
            self._fail("lost", "the stream ended without its last event")
            self._leave()
        elif self._settling is None:
            self._close()

    def on_lost(self, detail: str, broken: bool) -> None:
        """Take the loss of the connection."""
        if not self._over:
            self._fail("engine_error" if broken else "lost", detail)
            self._leave()
        elif self._settling is None:
            self._close()

    async def _run(self) -> None:
        try:
            prepared = await self._prepare()
            self._guard = prepared.guard
            body = prepared.body
            request = encode_request(self._endpoint, "POST", "/completion", body)
            # An old server echoes the prompt in its last event, escaped.
            self._connection = StreamConnection(request, self, EVENT_MAX_BYTES + 6 * len(body))
            await open_stream(self._endpoint, self._connection)
        except UnservableError as error:
            self._fail_unsent("rejected", str(error))
        except RefusedError as error:
            self._fail_unsent(error.failure, str(error))
        except (EngineError, OSError, TimeoutError) as error:
            self._fail_unsent("lost", f"{self._endpoint.url}: {str(error) or type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - a bug here would hold the slot until the task's time is over
            self._fail_unsent("rejected", f"the request could not be made: {type(error).__name__}: {error}")

    @property
    def sent(self) -> bool:
        """Tell whether the engine may have seen the request."""
        return self._connection is not None and self._connection.sent

    def _fail_unsent(self, failure: AttemptFailure, detail: str) -> None:
        if not self._over:
            self._fail(failure, detail)
            self._close()

    def _fail(self, failure: AttemptFailure, detail: str) -> None:
        self._over = True
        self._sink.failed(failure, detail)

    def _end(self, last: StreamEvent) -> None:
        if last.error is not None or not last.stop:
            error = last.error
            status = error_status(error) if error is not None else 500
            self._fail(failure_of(status), f"engine reported in its stream: {error.message[:500] if error else '?'}")
            self._leave()
            return
        if self._guard is not None and last.stop_type == "eos" and (problem := self._guard.judge()):
            self._fail("rejected", problem)
            self._leave()
            return
        self._over = True
        timings = last.timings
        completion = Completion(
            finish_reason=finish_reason_of(last),
            tokens_in=last.tokens_evaluated,
            tokens_out=self._tokens_out,
            prefill_ms=round(timings.prompt_ms) if timings else 0,
            decode_ms=round(timings.predicted_ms) if timings else 0,
            cached_tokens=timings.cache_n if timings else 0,
        )
        self._sink.completed(completion)
        if not self._closed:
            self._linger = self._loop.call_later(LINGER_S, self._leave)

    def _leave(self) -> None:
        """Close the connection and watch the engine."""
        assert self._connection is not None
        answered = self._connection.answered
        self._connection.close()
        if self._settling is None and not self._closed:
            self._settling = self._loop.create_task(self._watch(answered))

    async def _watch(self, answered: bool) -> None:
        await self._settle(answered)
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._linger is not None:
            self._linger.cancel()
        if self._connection is not None:
            self._connection.close()
        self._forget(self)
        self._sink.closed()


def _broken(error: Exception) -> ErrorBody:
    return ErrorBody(code=500, message=f"the engine sent an event that is no JSON of its kind: {error}")
