"""The stub as a server of its own, until it is told to stop.

Req: ORCH-4041
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from orchqueue.stub.app import StubApp
from orchqueue.stub.pact import Interaction


class _Server(uvicorn.Server):
    """Uvicorn's server, without its signal handlers: it would raise each signal once more after the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve_stub(
    interactions: tuple[Interaction, ...], sockets: list[socket.socket], pace_ms: int, on_ready: Callable[[], None]
) -> None:
    """Serve on bound sockets until SIGINT or SIGTERM.

    Units: `pace_ms` lies between two events of a stream.
    Req: ORCH-4041
    """
    asyncio.run(_serve(interactions, sockets, pace_ms, on_ready))


async def _serve(
    interactions: tuple[Interaction, ...], sockets: list[socket.socket], pace_ms: int, on_ready: Callable[[], None]
) -> None:
    app = StubApp(interactions, lambda: asyncio.sleep(pace_ms / 1000))
    server = _Server(
        uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )

    def stop() -> None:
        app.stop()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    for one in sockets:
        one.listen()
    on_ready()
    await server.serve(sockets)
