"""One attempt on an engine, from its request to the moment when the engine is seen to hold nothing of it.

What the engine says is read by a `StreamReader` of its adapter; this module owns the connection and the order of calls.

Req: ORCH-4217, ORCH-4431
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from orchqueue.adapters.engines.connection import Answer, Endpoint, StreamConnection, encode_request, open_stream
from orchqueue.adapters.engines.reading import Broken, Ended, Reading, StreamReader
from orchqueue.adapters.engines.sampling import UnservableError
from orchqueue.adapters.engines.schema_guard import SchemaGuard
from orchqueue.adapters.engines.wire import EVENT_MAX_BYTES, SseEvent
from orchqueue.core.events import AttemptFailure
from orchqueue.ports.engine import AttemptSink
from orchqueue.ports.errors import EngineError

HTTP_OK = 200
LINGER_S = 2.0
"""How long a stream may stay open after its last event before we close it."""


class Prepared(msgspec.Struct, frozen=True):
    """A request to be posted, who reads its answer, and who watches the text that it brings.

    `whole`: reads an answer that is meant to come at once.
    """

    path: str
    body: bytes
    reader: StreamReader
    guard: SchemaGuard | None = None
    whole: Callable[[bytes], Reading] | None = None


Prepare = Callable[[], Awaitable[Prepared]]
"""Make the request; may have to ask the engine first."""

Settle = Callable[[bool], Awaitable[None]]
"""Return when the engine holds nothing of the attempt; the argument tells whether it had begun to answer."""


class RefusedError(EngineError):
    """The engine answered with an error status while the request was made."""

    def __init__(self, failure: AttemptFailure, message: str) -> None:
        super().__init__(message)
        self.failure: AttemptFailure = failure


class EngineAttempt:
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
        settle: Settle,
        forget: Callable[[EngineAttempt], None],
    ) -> None:
        self._endpoint = endpoint
        self._sink = sink
        self._prepare = prepare
        self._settle = settle
        self._forget = forget
        self._connection: StreamConnection | None = None
        self._prepared: Prepared | None = None
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
        """Carry what one read brought to the sink, in one call."""
        if self._over:
            return
        assert self._prepared is not None
        self._take(self._prepared.reader.take(events))

    def on_answer(self, answer: Answer) -> None:
        """Take a refusal, or a result: the whole answer came, so the engine holds nothing."""
        if self._over:
            return
        assert self._prepared is not None
        if answer.status == HTTP_OK and self._prepared.whole is not None:
            self._take_last(self._prepared.whole(answer.body))
            return
        refusal = self._prepared.reader.refusal(answer)
        self._fail(refusal.failure, refusal.detail)
        self._close()

    def on_end(self) -> None:
        """Take the proper end of the stream."""
        if not self._over:
            assert self._prepared is not None
            self._take_last(self._prepared.reader.finish())
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
            self._prepared = prepared
            body = prepared.body
            request = encode_request(self._endpoint, "POST", prepared.path, body)
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

    def _take(self, reading: Reading) -> None:
        assert self._prepared is not None
        if reading.texts:
            if self._prepared.guard is not None:
                self._prepared.guard.take("".join(reading.texts))
            self._sink.chunks(reading.texts, reading.tokens_out)
        if reading.end is not None and not self._over:
            self._end(reading.end)

    def _take_last(self, reading: Reading) -> None:
        self._take(reading)
        if not self._over:
            self._end(Broken("lost", "the stream ended without its last event"))
        if self._settling is None:
            self._close()

    def _end(self, end: Ended | Broken) -> None:
        guard = self._prepared.guard if self._prepared is not None else None
        if isinstance(end, Ended) and end.whole and guard is not None and (problem := guard.judge()):
            end = Broken("rejected", problem)
        if isinstance(end, Broken):
            self._fail(end.failure, end.detail)
            self._leave()
            return
        self._over = True
        self._sink.completed(end.completion)
        if end.goes_on:
            self._leave()
        elif not self._closed:
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
