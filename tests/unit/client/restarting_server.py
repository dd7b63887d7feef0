"""A scripted server that can go away and come back at the same address, as a daemon that is killed and started again."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.unit.client.scripted_server import Asked, Script, ScriptedServer, serving


class Address:
    """A port that is served by one script after another, and by nobody in between."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._stack = AsyncExitStack()
        self._lives: list[ScriptedServer] = []

    @property
    def asked(self) -> list[Asked]:
        """List what all lives were asked."""
        return [asked for life in self._lives for asked in life.asked]

    async def live(self, script: Script) -> None:
        """Begin to serve."""
        self._lives.append(await self._stack.enter_async_context(serving(script, self._port)))

    async def die(self) -> None:
        """Cut every connection and refuse new ones."""
        await self._stack.aclose()


@asynccontextmanager
async def address() -> AsyncIterator[Address]:
    """Give a port that nobody else gets meanwhile; whatever still serves there afterwards is ended."""
    with socket.socket() as held:
        # Bound and never listening, it refuses every connection, and lets only those listen who also wish to reuse.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        served = Address(held.getsockname()[1])
        try:
            yield served
        finally:
            await served.die()
