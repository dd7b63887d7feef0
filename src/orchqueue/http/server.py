"""The listening side: sockets, deadlines and a stop that leaves no one hanging.

Req: ORCH-4022, ORCH-4209
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate

from uvicorn.config import Config
from uvicorn.server import ServerState

from orchqueue.http.app import App
from orchqueue.http.edge import EdgeProtocol
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.messages import Header, correlation_id_of
from orchqueue.http.problems import Problem, problem_response
from orchqueue.runtime.streams import Streams

BACKLOG = 1024
MAX_SWEEP_S = 1.0
# libuv accepts one connection for each listening descriptor and turn of the loop. Under load a turn takes tens of
# milliseconds, and a burst of clients would wait seconds to be let in.
ACCEPTS_PER_TURN = 16


class EdgeServer:
    """Serves an app on sockets until it is stopped.

    It runs on the loop that `start` is called on and installs no signal handlers.

    Req: ORCH-4023
    """

    def __init__(self, app: App, streams: Streams, limits: EdgeLimits, tls: ssl.SSLContext | None = None) -> None:
        self.limits = limits
        self._app = app
        self._streams = streams
        self._tls = tls
        self._state = ServerState()
        self._config = Config(
            app=app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        self._config.load()
        self._listeners: list[asyncio.Server] = []
        self._sweep_s = min(
            MAX_SWEEP_S,
            *(ms / 4000 for ms in (limits.header_timeout_ms, limits.body_timeout_ms, limits.idle_timeout_ms)),
        )
        self._sweep: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event | None = None

    @property
    def connections(self) -> int:
        """Count open sockets."""
        return len(self._state.connections)

    def open_connections(self) -> list[EdgeProtocol]:
        """List open connections."""
        return [one for one in tuple(self._state.connections) if isinstance(one, EdgeProtocol)]

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Listen on bound sockets.

        Errors: OSError.
        """
        loop = asyncio.get_running_loop()
        doors = [bound if door == 0 else bound.dup() for bound in sockets for door in range(ACCEPTS_PER_TURN)]
        for door in doors:
            listener = await loop.create_server(self._connection, sock=door, ssl=self._tls, backlog=BACKLOG)
            self._listeners.append(listener)
        self._on_sweep(loop)

    def stop_listening(self) -> None:
        """Take no new connections; open ones go on."""
        for listener in self._listeners:
            listener.close()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop: 1. no new connections; 2. streams are let go; 3. answers in progress may finish; 4. cut the rest."""
        self.stop_listening()
        self._streams.release_readers()
        for connection in self.open_connections():
            connection.shutdown()
        self._all_gone = asyncio.Event()
        self.connection_gone()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_gone.wait(), grace_s)
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self.open_connections():
            connection.wire.abort()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=1.0)
        self._listeners.clear()

    def connection_gone(self) -> None:
        """Learn that a connection ended."""
        if self._all_gone is not None and not self._state.connections:
            self._all_gone.set()

    def refusal_bytes(self, problem: Problem, headers: Sequence[Header], client: tuple[str, int] | None) -> bytes:
        """Answer what never became a request, and log it like one.

        Req: ORCH-4075
        """
        correlation_id = correlation_id_of(headers)
        response = problem_response(problem, correlation_id)
        self._app.log_refusal(response.status, problem.message, correlation_id, client)
        return response.as_bytes(correlation_id, self._state.default_headers)

    def _connection(self) -> EdgeProtocol:
        return EdgeProtocol(self, self._config, self._state, {})

    def _on_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for connection in self.open_connections():
            connection.check_deadline(now_s)
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        self._sweep = loop.call_later(self._sweep_s, self._on_sweep, loop)


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address that a host name means.

    Errors: OSError names the address.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _name, address in dict.fromkeys(found):
            if port == 0 and sockets:
                break
            bound = socket.socket(family, kind, protocol)
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(address)
            bound.setblocking(False)
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    """Load a server's certificate and key.

    Errors: OSError, ssl.SSLError.
    Req: ORCH-4038
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    return context
