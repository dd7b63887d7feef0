"""One HTTP request of a simulated client, on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import httptools
import msgspec

from orchqueue_sim.level2.daemon import ADDRESS
from orchqueue_sim.level2.wires import Network, Wire


class Gone(Exception):
    """The connection ended before the answer was whole."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """Read the body."""
        found: dict[str, object] = msgspec.json.decode(self.body)
        return found


class Call(asyncio.Protocol):
    """Sends one request and collects what comes back; `on_body` gets an event stream's bytes as they come."""

    def __init__(self, request: bytes, on_body: Callable[[bytes], None] | None = None) -> None:
        self._request = request
        self._on_body = on_body
        self._parser = httptools.HttpResponseParser(self)
        self.wire: Wire | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.whole = False
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: Wire) -> None:  # type: ignore[override]
        """Ask."""
        self.wire = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        self._parser.feed_data(data)

    def eof_received(self) -> bool | None:
        """Close as well."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that it is over."""
        del exc
        self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        """Take the end of the head."""
        self.status = self._parser.get_status_code()
        if not self.head.done():
            self.head.set_result(None)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._on_body is not None and self.streaming:
            self._on_body(body)
        else:
            self.body += body

    def on_message_complete(self) -> None:
        """Take the proper end."""
        self.whole = True
        self.close()

    @property
    def streaming(self) -> bool:
        """Tell whether the answer is an event stream."""
        return self.headers.get("content-type") == "text/event-stream"

    def close(self) -> None:
        """Leave."""
        if self.wire is not None:
            self.wire.close()
        self._end()

    def _end(self) -> None:
        for future in (self.head, self.over):
            if not future.done():
                future.set_result(None)


def encode(method: str, path: str, tenant: str, body: object = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Write a request."""
    data = b"" if body is None else msgspec.json.encode(body)
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {tenant}",
        "X-Correlation-Id: simulated",
    ]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


RECOVERING = b"the daemon has just started and is recovering"
WAITS = "waits for a recovery"


async def begin(network: Network, request: bytes, on_body: Callable[[bytes], None] | None = None) -> Call:
    """Send a request.

    Errors: Gone where nobody listens.
    """
    call = Call(request, on_body)
    try:
        await network.connect(lambda: call, *ADDRESS)
    except ConnectionRefusedError as error:
        raise Gone("refused") from error
    return call


async def head_of(call: Call) -> None:
    """Wait for the head of an answer, and for all of it where that may send the client away.

    Errors: Gone without a head, and where the daemon is there but not yet with all of its tasks: both are waited out.
    """
    await call.head
    if call.status == 0:
        call.close()
        raise Gone("no head")
    if call.status == 503:
        await call.over
        _raise_if_recovering(call)


async def ask(network: Network, request: bytes) -> Answer:
    """Send a request and wait for the whole answer.

    Errors: Gone.
    """
    call = await begin(network, request)
    try:
        await call.over
    finally:
        call.close()
    if not call.whole:
        raise Gone("no whole answer")
    _raise_if_recovering(call)
    return Answer(call.status, call.headers, bytes(call.body))


def _raise_if_recovering(call: Call) -> None:
    if call.status == 503 and RECOVERING in call.body:
        call.close()
        raise Gone(WAITS)
