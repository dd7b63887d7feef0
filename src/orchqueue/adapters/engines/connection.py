"""One request on one connection: the answer as a whole, or its events as they come.

A stream is handled to completion inside `data_received`: no task, future or queue for a token. Closing the connection is how an
engine learns that nobody wants the rest, so connections are not shared between attempts.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from orchqueue.adapters.engines.wire import EVENT_MAX_BYTES, Head, ResponseReader, SseEvent, SseSplitter, WireError
from orchqueue.ports.errors import EngineError

ANSWER_MAX_BYTES = 16 * 1024 * 1024
CONNECT_TIMEOUT_S = 5.0


class Endpoint(msgspec.Struct, frozen=True):
    """Where an engine listens. `query`: what the URL says beyond that, for an adapter that reads it; it is never sent."""

    host: str
    port: int
    prefix: str = ""
    secure: bool = False
    api_key: str = ""
    query: str = ""

    @property
    def url(self) -> str:
        """Give the base URL, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.prefix}"


def parse_endpoint(url: str, api_key: str = "") -> Endpoint:
    """Read a base URL.

    Errors: EngineError where it is not http or https with a host.

    >>> parse_endpoint("http://127.0.0.1:8081/llama/").prefix
    '/llama'
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise EngineError(f"engine URL {url!r} is not http://HOST:PORT or https://HOST:PORT")
    secure = parts.scheme == "https"
    return Endpoint(
        parts.hostname, parts.port or (443 if secure else 80), parts.path.rstrip("/"), secure, api_key, parts.query
    )


class Answer(msgspec.Struct, frozen=True):
    """A whole response."""

    status: int
    body: bytes


class StreamListener(Protocol):
    """Who follows a streamed response; exactly one of `on_answer`, `on_end`, `on_lost` comes last, unless it was closed."""

    def on_events(self, events: list[SseEvent]) -> None:
        """Take all events that one read brought."""
        ...

    def on_answer(self, answer: Answer) -> None:
        """Take a response that is no event stream."""
        ...

    def on_end(self) -> None:
        """Learn that the event stream ended properly."""
        ...

    def on_lost(self, detail: str, broken: bool) -> None:
        """Learn that the connection went away; `broken`: because the peer broke the protocol."""
        ...


class StreamConnection(asyncio.Protocol):
    """A connection that sends one request and reports what comes back."""

    def __init__(self, request: bytes, listener: StreamListener, event_max_bytes: int = EVENT_MAX_BYTES) -> None:
        self._request = request
        self._listener = listener
        self._reader = ResponseReader()
        self._splitter = SseSplitter(event_max_bytes)
        self._streaming = False
        self._whole = bytearray()
        self._transport: asyncio.Transport | None = None
        self._done = False

    @property
    def sent(self) -> bool:
        """Tell whether the engine may have seen the request."""
        return self._transport is not None and not self._request

    @property
    def answered(self) -> bool:
        """Tell whether a response head has arrived."""
        return self._reader.head is not None

    def close(self) -> None:
        """Drop the connection at once; the listener hears nothing more."""
        self._done = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Send the request. uvloop's transports are no subclass of asyncio's, so this can only be declared."""
        self._transport = transport
        if self._done:
            transport.abort()
            return
        transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        """Carry one read through to the listener.

        Cost: runs for every read of every stream.
        """
        if self._done:
            return
        try:
            body = self._reader.feed(data)
            head = self._reader.head
            if head is None:
                return
            events = self._take_body(head, body) if body else []
        except WireError as error:
            self._lost(str(error), broken=True)
            return
        if events:
            self._listener.on_events(events)
        if self._reader.complete:
            self._finish(head)

    def _take_body(self, head: Head, body: bytes) -> list[SseEvent]:
        if self._streaming:
            return self._splitter.feed(body)
        if head.status == 200 and head.content_type == b"text/event-stream":
            self._streaming = True
            return self._splitter.feed(body)
        self._whole += body
        if len(self._whole) > ANSWER_MAX_BYTES:
            raise WireError(f"the answer is longer than {ANSWER_MAX_BYTES} bytes")
        return []

    def _finish(self, head: Head) -> None:
        if self._done:
            return
        self.close()
        if self._streaming:
            self._listener.on_end()
        else:
            self._listener.on_answer(Answer(head.status, bytes(self._whole)))

    def _lost(self, detail: str, broken: bool) -> None:
        if not self._done:
            self.close()
            self._listener.on_lost(detail, broken)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the listener, where the response was not whole."""
        if self._done:
            return
        try:
            self._reader.feed_eof()
        except WireError as error:
            self._lost(f"{error} ({exc})" if exc else str(error), broken=False)
            return
        assert self._reader.head is not None
        self._finish(self._reader.head)


class _Whole:
    """Collect one answer into a future."""

    def __init__(self, answer: asyncio.Future[Answer]) -> None:
        self._answer = answer

    def on_events(self, events: list[SseEvent]) -> None:
        del events
        self.on_lost("an event stream where a plain answer was due", broken=True)

    def on_answer(self, answer: Answer) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def on_end(self) -> None:
        self.on_lost("an event stream where a plain answer was due", broken=True)

    def on_lost(self, detail: str, broken: bool) -> None:
        del broken
        if not self._answer.done():
            self._answer.set_exception(ConnectionError(detail))


def encode_request(endpoint: Endpoint, method: str, path: str, body: bytes | None) -> bytes:
    """Build the bytes of a request."""
    lines = [
        f"{method} {endpoint.prefix}{path} HTTP/1.1",
        f"Host: {endpoint.host}:{endpoint.port}",
        "Connection: close",
    ]
    if endpoint.api_key:
        lines.append(f"Authorization: Bearer {endpoint.api_key}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def open_stream(endpoint: Endpoint, connection: StreamConnection) -> None:
    """Connect.

    Errors: OSError, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if endpoint.secure else None
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        await loop.create_connection(lambda: connection, endpoint.host, endpoint.port, ssl=context)


async def request(
    endpoint: Endpoint, method: str, path: str, body: bytes | None = None, timeout_s: float = 5.0
) -> Answer:
    """Ask once and wait for the whole answer, whatever its status.

    Errors: EngineError where no answer came; its cause is ConnectionError when the engine refused or dropped the connection,
        TimeoutError when it was silent.
    """
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    connection = StreamConnection(encode_request(endpoint, method, path, body), _Whole(answer))
    try:
        async with asyncio.timeout(timeout_s):
            await open_stream(endpoint, connection)
            return await answer
    except TimeoutError as error:
        raise EngineError(f"{method} {endpoint.url}{path}: no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise EngineError(f"{method} {endpoint.url}{path}: {error}") from error
    finally:
        connection.close()
