"""The real client library with a witness at its wire: every event is noted before the library looks at it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final
from urllib.parse import unquote

import httpx
import msgspec

from orchqueue.client import AsyncClient, ReconnectPolicy, RetryPolicy, Timeouts
from orchqueue.client.sse import SseParser
from orchqueue.client.transport import Transport
from tests.chaos.evidence import Book, Connection, Heard

_NOTE: Final = "chaos_connection"
TIMEOUTS: Final = Timeouts(connect_ms=5_000, answer_ms=20_000)
PATIENT: Final = ReconnectPolicy(patience_ms=60_000, idle_ms=30_000, first_backoff_ms=60)
RETRY: Final = RetryPolicy(max_wait_ms=8_000, first_backoff_ms=60)


class _Named(msgspec.Struct):
    task_id: str = ""


class Tap(Transport):
    """A transport that writes down what comes through it."""

    def __init__(self, base_url: str, book: Book) -> None:
        super().__init__(base_url, timeouts=TIMEOUTS)
        self._book = book

    async def open_stream(
        self, method: str, path: str, *, body: bytes | None = None, last_event_id: str = "", idle_ms: int
    ) -> httpx.Response:
        """Open a stream, and a record of it."""
        response = await super().open_stream(method, path, body=body, last_event_id=last_event_id, idle_ms=idle_ms)
        if response.status_code == 200:
            task_id = unquote(path.split("/")[3]) if body is None else msgspec.json.decode(body, type=_Named).task_id
            response.extensions[_NOTE] = self._book.connect(task_id, last_event_id)
        return response

    async def read_chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Pass on what arrives, noting each event that is whole."""
        connection = response.extensions[_NOTE]
        assert isinstance(connection, Connection)
        parser = SseParser()
        async with aclosing(super().read_chunks(response)) as chunks:
            async for chunk in chunks:
                at_s = self._book.now_s()
                connection.heard += [
                    Heard(event.event, event.last_event_id if event.has_own_id else "", event.data, at_s)
                    for event in parser.feed(chunk)
                ]
                yield chunk


class WatchedClient(AsyncClient):
    """The client library as anybody uses it, but for its transport."""

    def __init__(self, base_url: str, book: Book) -> None:
        super().__init__(base_url, retry=RETRY, reconnect=PATIENT)
        self._transport = Tap(base_url, book)
