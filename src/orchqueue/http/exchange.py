"""What a handler may know of its connection, and the socket side of a stream's reader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from orchqueue.runtime.stream_log import Reader

if TYPE_CHECKING:
    from orchqueue.http.edge import EdgeProtocol


class PoliteTransport(asyncio.Transport):
    """The transport as uvicorn's response cycle sees it: writing never raises, closing lets the client read to the end.

    Between `hold` and `release` nothing is sent, so that a head and its body leave in one write.
    """

    def __init__(self, wire: asyncio.Transport, connection: EdgeProtocol) -> None:
        super().__init__()
        self._wire = wire
        self._connection = connection
        self._held: list[bytes | bytearray | memoryview] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes unless the connection is closing."""
        if self._held is not None:
            self._held.append(data)
        elif not self._wire.is_closing() and not self._connection.discarding:
            self._wire.write(data)

    def hold(self) -> None:
        """Gather what is written."""
        self._held = []

    def release(self) -> None:
        """Send what was gathered."""
        held, self._held = self._held, None
        if held:
            self.write(b"".join(held))

    def close(self) -> None:
        """Close when everything is sent."""
        self.release()
        self._connection.close_politely()

    def abort(self) -> None:
        """Cut the connection."""
        self._wire.abort()

    def is_closing(self) -> bool:
        """Tell whether nothing can be sent any more."""
        return self._connection.discarding or self._wire.is_closing()


class ConnectionExchange:
    """One request's side of its connection.

    `problem`: why the request is refused whatever it asks. `streaming`: a client that stops sending has left.
    """

    __slots__ = ("connection", "cycle", "problem", "streaming")

    def __init__(self, connection: EdgeProtocol) -> None:
        self.connection = connection
        self.cycle: RequestResponseCycle | None = None
        self.problem: Exception | None = None
        self.streaming = False

    @property
    def gone(self) -> bool:
        """Tell whether the client has left."""
        return self.cycle is None or self.cycle.disconnected or self.connection.wire.is_closing()

    @property
    def body_complete(self) -> bool:
        """Tell whether the whole body has arrived."""
        return self.cycle is not None and not self.cycle.more_body

    @property
    def must_close(self) -> bool:
        """Tell whether the connection cannot be used for another request."""
        return self.problem is not None or not self.body_complete or self.connection.broken

    @property
    def transport(self) -> PoliteTransport:
        """Give what the response is written to."""
        return self.connection.polite

    def send_without_chunks(self) -> None:
        """Send the body as it is and end it by closing: the client speaks HTTP/1.0."""
        assert self.cycle is not None
        self.cycle.chunked_encoding = False
        self.cycle.keep_alive = False

    def follow(self, sink: StreamSink) -> None:
        """Let a stream write to the connection."""
        self.connection.sink = sink

    def abort(self) -> None:
        """Cut the connection: the client lacks bytes that it does not take."""
        assert self.cycle is not None
        self.cycle.disconnected = True
        self.connection.wire.abort()


class StreamSink:
    """A reader's socket: ready-made frames go straight to the transport from whatever callback brings them.

    Shape: `done` becomes True when the response can be completed, False when the client is gone or was dropped.
    Req: ORCH-4107
    """

    __slots__ = ("_chunked", "_wire", "done", "reader")

    def __init__(self, wire: asyncio.Transport, *, chunked: bool, done: asyncio.Future[bool]) -> None:
        self._wire = wire
        self._chunked = chunked
        self.done = done
        self.reader: Reader | None = None

    def write(self, frames: bytes, framed: bytes) -> None:
        """Send whole bytes of the stream."""
        wire = self._wire
        if not wire.is_closing():
            wire.write(framed if self._chunked else frames)

    def ended(self) -> None:
        """Let the response be completed."""
        self._settle(completed=True)

    def dropped(self) -> None:
        """Have the connection cut."""
        self._settle(completed=False)

    def lost(self) -> None:
        """Leave the task: the client is gone."""
        if self.reader is not None:
            self.reader.detach()
        self._settle(completed=False)

    def pause(self) -> None:
        """Take no more: the socket is full."""
        if self.reader is not None:
            self.reader.pause()

    def resume(self) -> None:
        """Take more again."""
        if self.reader is not None:
            self.reader.resume()

    def _settle(self, *, completed: bool) -> None:
        if not self.done.done():
            self.done.set_result(completed)
