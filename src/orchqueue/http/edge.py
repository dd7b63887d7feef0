"""One connection: uvicorn's HTTP protocol, taught to bound what a client may send and how slowly.

The parser's callbacks and the response's end move one deadline; the server looks at all deadlines about once a second,
so a connection costs no timer. What is wrong with a request is put into its exchange and answered in turn by the app;
only what never became a request is answered from here.

Req: ORCH-4023
"""

from __future__ import annotations

import asyncio
import socket
from enum import Enum
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from orchqueue.http.exchange import ConnectionExchange, PoliteTransport, StreamSink
from orchqueue.http.messages import Header
from orchqueue.http.problems import Problem, body_too_large

if TYPE_CHECKING:
    from orchqueue.http.server import EdgeServer

SPARE_CONNECTIONS = 128
MAX_PIPELINED = 32
LINGER_S = 2.0
DISCARD_BYTES = 256 * 1024 * 1024
CHUNK_OVERHEAD = 8


class Phase(Enum):
    """Where the parser stands."""

    BETWEEN = "between"
    HEAD = "head"
    BODY = "body"


class TooManyPipelined(Exception):
    """A client sent requests far ahead of the answers."""


class EdgeProtocol(HttpToolsProtocol):
    """A connection with limits.

    `_running` is the request that is being answered; uvicorn's `cycle` is the latest one parsed, which differs when a
    client pipelines. `_broken`: what follows cannot be parsed; the connection ends after the answers that are owed.

    Req: ORCH-4022, ORCH-4072, ORCH-4078
    """

    def __init__(
        self, server: EdgeServer, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state, asyncio.get_running_loop())
        self._server = server
        self._limits = server.limits
        self._phase = Phase.BETWEEN
        self._deadline_s: float | None = None
        self._head_bytes = 0
        self._body_bytes = 0
        self._running: RequestResponseCycle | None = None
        self._exchange: ConnectionExchange | None = None
        self._over_limit = False
        self._broken = False
        self._half_closed = False
        self._discarding = False
        self._discarded_bytes = 0
        self._upgrading = False
        self._begun = 0
        self.sink: StreamSink | None = None
        self.wire: asyncio.Transport
        self.polite: PoliteTransport

    # the transport's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in, or tell it that there are too many."""
        super().connection_made(transport)
        self.wire = transport
        self.transport = self.polite = PoliteTransport(transport, self)
        own = transport.get_extra_info("socket")
        if own is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._limits.send_buffer_bytes)
        transport.set_write_buffer_limits(high=self._limits.send_buffer_bytes)
        self._due_in(self._limits.header_timeout_ms)
        excess = len(self.connections) - self._limits.connections
        self._over_limit = excess > 0
        if excess > SPARE_CONNECTIONS:
            self._answer_now(self._too_many())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who still works for this client."""
        running, self._running = self._running, None
        super().connection_lost(exc)
        self._deadline_s = None
        self.pipeline.clear()
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.lost()
        self._drop_buffers(running)
        self._server.connection_gone()

    def _drop_buffers(self, running: RequestResponseCycle | None) -> None:
        """Let go of what the client sent: connections are freed by the cycle collector, which does not count bytes."""
        for cycle in (running, self.cycle):
            if cycle is not None:
                cycle.body = bytearray()
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]
        self.url = b""
        self._exchange = None

    def data_received(self, data: bytes) -> None:
        """Parse, and count what is being parsed."""
        if self._discarding or self._broken:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARD_BYTES:
                self.wire.abort()
            return
        head_before = self._head_bytes if self._phase is Phase.HEAD else None
        self._begun = int(self._phase is not Phase.BETWEEN)
        if self._phase is Phase.BODY:
            self._count_body(len(data))
        self._parse(data)
        if self._phase is Phase.HEAD and not self._broken:
            if head_before is not None and self._begun == 1:
                self._head_bytes = head_before + len(data)
            elif head_before is None and self._begun == 1:
                self._head_bytes = len(data)
            if self._head_bytes > self._limits.header_bytes:
                self._refuse(self._headers_too_large())

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer what was asked completely before the client stopped sending; a stream's reader has left."""
        running = self._running
        if self._discarding or self._broken or self._over_limit or self.scheme == "https":
            return None
        if running is None:
            if self._phase is Phase.HEAD:
                self._refuse(Problem(400, "the connection ended inside the request's headers"))
            return None
        if self._exchange is not None and self._exchange.streaming:
            return None
        self._half_closed = True
        running.keep_alive = False
        if self._phase is Phase.BODY:
            self._fail_body(Problem(400, "the connection ended inside the request's body"))
        return True

    def pause_writing(self) -> None:
        """Stop writing to a client that does not read."""
        super().pause_writing()
        if self.sink is not None:
            self.sink.pause()

    def resume_writing(self) -> None:
        """Go on where the client left off."""
        super().resume_writing()
        if self.sink is not None:
            self.sink.resume()

    # the parser's callbacks

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise TooManyPipelined
        super().on_message_begin()
        self._begun += 1
        self._exchange = ConnectionExchange(self)
        self.scope["extensions"] = {"orchqueue": self._exchange}  # type: ignore[dict-item]
        self._phase = Phase.HEAD
        self._head_bytes = 0
        self._body_bytes = 0
        if self._running is None:
            self._due_in(self._limits.header_timeout_ms)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is dropped."""
        if self._phase is Phase.HEAD:
            self._head_bytes += len(name) + len(value) + 4
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or note why it will be refused."""
        exchange = self._exchange
        assert exchange is not None
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        self._phase = Phase.BODY
        exchange.problem = self._problem_with_head()
        super().on_headers_complete()
        exchange.cycle = self.cycle
        if self._running is self.cycle:
            self._due_in(self._limits.body_timeout_ms)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if not self._discarding:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request's body."""
        if self._upgrading:
            return
        super().on_message_complete()
        self._phase = Phase.BETWEEN
        self._deadline_s = None
        if self._running is None:
            self._due_in(self._limits.idle_timeout_ms)

    # answering

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self._deadline_s = None
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request, wait for one, or close."""
        self.server_state.total_requests += 1
        finished, self._running = self._running, None
        self.sink = None
        if self.transport.is_closing():
            return
        if finished is not None and finished.more_body:
            self.close_politely()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            if cycle.more_body:
                self._due_in(self._limits.body_timeout_ms)
        elif self._broken or self._half_closed:
            self.close_politely()
        else:
            in_head = self._phase is Phase.HEAD
            self._due_in(self._limits.header_timeout_ms if in_head else self._limits.idle_timeout_ms)

    def shutdown(self) -> None:
        """Close when what is being answered is answered."""
        if self._running is None:
            self.transport.close()
            return
        for cycle in (self._running, self.cycle):
            cycle.keep_alive = False

    def close_politely(self) -> None:
        """Close so that the client can still read the answer: what it goes on sending is thrown away for a moment."""
        wire = self.wire
        if self._discarding or wire.is_closing():
            return
        if self._phase is Phase.BETWEEN and not self._broken:
            wire.close()
            return
        self._discarding = True
        self._deadline_s = self.loop.time() + LINGER_S
        self.flow.resume_reading()
        if self.scheme == "http" and wire.can_write_eof():
            wire.write_eof()
        else:
            wire.close()

    @property
    def broken(self) -> bool:
        """Tell whether nothing more can be read from this client."""
        return self._broken

    @property
    def discarding(self) -> bool:
        """Tell whether the connection is only waiting for the client to go."""
        return self._discarding

    def check_deadline(self, now_s: float) -> None:
        """End what takes too long; the server calls this about once a second.

        Req: ORCH-4073, ORCH-4077
        """
        due_s = self._deadline_s
        if due_s is None or now_s < due_s:
            return
        self._deadline_s = None
        if self._discarding:
            self.wire.abort()
        elif self._phase is Phase.HEAD:
            self._refuse(self._too_slow("headers", self._limits.header_timeout_ms))
        elif self._phase is Phase.BODY:
            self._fail_body(self._too_slow("body", self._limits.body_timeout_ms))
        else:
            self.wire.close()

    # refusing

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what the parser could not read.

        Req: ORCH-4074
        """
        self._refuse(Problem(400, "this is not a well-formed HTTP/1.1 request"))

    def _refuse(self, problem: Problem) -> None:
        """Stop parsing; answer at once unless an earlier request's answer is owed first."""
        self._broken = True
        if self._running is None and not self.pipeline:
            self._answer_now(problem)
        elif self._phase is Phase.BODY:
            self._fail_body(problem)

    def _fail_body(self, problem: Problem) -> None:
        """Wake the handler that reads this body and have it answer with the problem."""
        if self._exchange is not None and self.cycle.more_body:
            self._exchange.problem = self._exchange.problem or problem
            self.cycle.message_event.set()

    def _answer_now(self, problem: Problem) -> None:
        headers: list[Header] = self.headers if self._phase is Phase.HEAD and self.headers else []
        self._broken = True
        if not self.wire.is_closing():
            self.wire.write(self._server.refusal_bytes(problem, headers, self.client))
        self.close_politely()

    def _problem_with_head(self) -> Problem | None:
        if self._over_limit:
            return self._too_many()
        if self._head_bytes > self._limits.header_bytes:
            self._broken = True
            return self._headers_too_large()
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self._limits.body_bytes:
                return body_too_large(self._limits.body_bytes)
        return None

    def _headers_too_large(self) -> Problem:
        return Problem(431, f"request line and headers are larger than {self._limits.header_bytes} bytes")

    def _too_many(self) -> Problem:
        return Problem(
            429,
            f"{self._limits.connections} connections are open, which is the limit; close some or come back later",
            code="ADMISSION_REJECT",
            retriable=True,
            policy_label="connections",
        )

    @staticmethod
    def _too_slow(what: str, limit_ms: int) -> Problem:
        return Problem(408, f"the request's {what} did not arrive within {limit_ms} ms", retriable=True)

    # parsing

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read on as if the client had not offered another protocol: its parser skips the body, so begin anew."""
        self._upgrading = False
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("")
            return
        offered = (b"upgrade", b"http2-settings", b"connection")
        lines = [method + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name not in offered]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(b"\r\n".join([*lines, b"", b""]) + rest)

    def _count_body(self, count: int) -> None:
        self._body_bytes += count
        if self._body_bytes > CHUNK_OVERHEAD * self._limits.body_bytes:
            self._refuse(body_too_large(self._limits.body_bytes))

    def _due_in(self, delay_ms: int) -> None:
        self._deadline_s = self.loop.time() + delay_ms / 1000
