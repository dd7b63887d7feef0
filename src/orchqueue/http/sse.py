"""Answering with a task's stream.

The handler waits on one future per stream; every token goes from the engine's read callback straight to the sockets.
"""

from __future__ import annotations

import asyncio

from orchqueue.core.ids import TaskKey, task_id_of
from orchqueue.core.outcome import Fault
from orchqueue.http.exchange import ConnectionExchange, StreamSink
from orchqueue.http.messages import Header, Request, Send
from orchqueue.http.problems import Problem, not_found
from orchqueue.runtime.stream_frames import Position, parse_position
from orchqueue.runtime.stream_log import Reader
from orchqueue.runtime.streams import AttachRefusal, Streams

STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class AlreadyRead(Exception):
    """The reader has seen the terminal event; nothing follows."""


class StreamAnswer:
    """A response whose body is a task's stream.

    Req: ORCH-2002, ORCH-4106
    """

    status = 200

    def __init__(self, exchange: ConnectionExchange, sink: StreamSink, reader: Reader, headers: list[Header]) -> None:
        self._exchange = exchange
        self._sink = sink
        self._reader = reader
        self._headers = headers

    async def run(self, send: Send, correlation_id: str) -> None:
        """Send the head, then let the log write until the task ends or the client leaves."""
        exchange, sink = self._exchange, self._sink
        if exchange.gone:
            sink.lost()
            return
        exchange.follow(sink)
        headers = [*STREAM_HEADERS, *self._headers, (b"x-correlation-id", correlation_id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._reader.resume()
        if await sink.done:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not exchange.gone:
            exchange.abort()


def position_in(request: Request) -> Position | None:
    """Read where a reader left off; None when it starts anew.

    Errors: Problem 400.
    Req: ORCH-4101
    """
    given = request.values(b"last-event-id")
    if not given or given == [""]:
        return None
    position = parse_position(given[0]) if len(given) == 1 else None
    if position is None:
        fault = Fault("/header/Last-Event-ID", "must be the id of an event of this stream, as in 42:1c291ca3")
        raise Problem(400, f"Last-Event-ID {fault.message}", faults=(fault,))
    return position


def answer_with_stream(
    request: Request, streams: Streams, key: TaskKey, position: Position | None, headers: list[Header]
) -> StreamAnswer:
    """Attach the client to a task's stream.

    Errors: AlreadyRead; Problem 404, 409, 429.
    """
    task_id = task_id_of(key)
    exchange = request.exchange
    chunked = request.scope["http_version"] != "1.0"
    if not chunked:
        exchange.send_without_chunks()
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    sink = StreamSink(exchange.connection.wire, chunked=chunked, done=done)
    reader = streams.attach(key, position, sink)
    match reader:
        case Reader():
            sink.reader = reader
            return StreamAnswer(exchange, sink, reader, [*headers, (b"x-task-id", task_id.encode())])
        case AttachRefusal.ALREADY_ENDED:
            raise AlreadyRead
        case AttachRefusal.UNKNOWN:
            raise not_found(
                "/path/task_id", f"no task {task_id} is known; it never existed or its retention time is over"
            )
        case AttachRefusal.MISMATCH:
            fault = Fault("/header/Last-Event-ID", "names bytes that are not those of this stream")
            message = f"task {task_id}: Last-Event-ID {fault.message}; read the stream again from its start"
            raise Problem(409, message, faults=(fault,), task_id=task_id)
        case AttachRefusal.TOO_MANY:
            raise Problem(
                429,
                f"task {task_id} has {streams.readers_per_task} readers, which is the limit; close one or come back later",
                code="ADMISSION_REJECT",
                retriable=True,
                policy_label="readers",
                task_id=task_id,
            )
