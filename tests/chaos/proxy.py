"""A network that breaks on demand: everything between clients and daemon goes through here."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from random import Random

_PIECE_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class _Pair:
    """One client's connection and ours to the daemon."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers

    def reset(self) -> None:
        """Break both with a reset, losing what is on the way."""
        for writer in self.writers:
            abort(writer)


def abort(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, as a machine that lost power would have it seen."""
    wire = writer.get_extra_info("socket")
    if wire is not None:
        with suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Proxy:
    """Forwards bytes to `target`, the daemon's port, until told to break or to hold them."""

    def __init__(self) -> None:
        self.target = 0
        self.url = ""
        self.resets = 0
        self._pairs: set[_Pair] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen at a port of the system's choice."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Break what is open and listen no more."""
        assert self._server is not None
        self._server.close()
        self.cut(Random(0), 1.0)
        await self._server.wait_closed()

    def cut(self, chance: Random, share: float) -> int:
        """Reset about that share of all connections; tell how many."""
        chosen = [pair for pair in self._pairs if chance.random() < share]
        for pair in chosen:
            pair.reset()
        self.resets += len(chosen)
        return len(chosen)

    def hold(self) -> None:
        """Let nothing through, without breaking anything."""
        self._flows.clear()

    def flow(self) -> None:
        """Let everything through again."""
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            abort(writer)
            return
        pair = _Pair(writer, far_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._pairs.discard(pair)
            for each in pair.writers:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_PIECE_BYTES):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            # One side broke: so does the other, or it would wait for ever.
            abort(writer)
