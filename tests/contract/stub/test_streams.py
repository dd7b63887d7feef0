"""Streams of the stub: event by event, for each reader on its own, until someone leaves."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

import httpx
import pytest

from orchqueue.stub.app import StubApp
from orchqueue.stub.pact import read_pact, shipped_pact
from tests.contract.consumer.shapes import TASK_ID, whole_stream
from tests.contract.stub.stub_process import StubProcess, stub_running
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4041")
PATH = f"/v1/tasks/{TASK_ID}/stream"
EVENTS = [f"{event}\n\n".encode() for event in whole_stream().split("\n\n") if event]
Message = MutableMapping[str, Any]


class Reader:
    """A connection to the app that is read when the test says so."""

    def __init__(self, app: StubApp, *, stalled: bool = False) -> None:
        self.received: list[bytes] = []
        self.ended = False
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()
        if not stalled:
            self.reads.set()
        scope: Message = {
            "type": "http",
            "method": "GET",
            "path": PATH,
            "query_string": b"",
            "headers": [(b"accept", b"text/event-stream")],
        }
        self._asked = False
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.body":
            if message["body"]:
                self.received.append(message["body"])
            self.ended = not message["more_body"]


def app_with(pause: Callable[[], Any]) -> StubApp:
    """Make an app over the shipped pact."""
    return StubApp(read_pact(shipped_pact()), pause)


async def test_each_event_waits_for_its_time() -> None:
    """After n pauses exactly n + 1 events have been sent, each in a write of its own."""
    pauses = asyncio.Semaphore(0)
    reader = Reader(app_with(pauses.acquire))
    for count in range(1, len(EVENTS) + 1):
        await until_async(lambda count=count: len(reader.received) == count)  # type: ignore[misc]
        for _ in range(10):
            await asyncio.sleep(0)
        assert reader.received == EVENTS[:count]
        pauses.release()
    await reader.task
    assert reader.ended


async def test_a_reader_that_stalls_holds_up_nobody_else() -> None:
    """Two readers at once: one takes nothing, the other gets everything; then the first does too."""
    app = app_with(lambda: asyncio.sleep(0))
    slow, quick = Reader(app, stalled=True), Reader(app)
    await quick.task
    assert (quick.received, slow.received) == (EVENTS, [])
    slow.reads.set()
    await slow.task
    assert (slow.received, slow.ended) == (EVENTS, True)


async def test_nothing_is_sent_to_a_reader_that_has_left() -> None:
    """The stream stops where its reader left it."""
    reader = Reader(app_with(asyncio.Event().wait))
    await until_async(lambda: reader.received == EVENTS[:1])
    reader.gone.set()
    await reader.task
    assert (reader.received, reader.ended) == (EVENTS[:1], False)


async def test_stopping_ends_streams_without_a_terminal_event() -> None:
    """An open stream is closed properly, and a client can see that it was not the task's end."""
    app = app_with(asyncio.Event().wait)
    reader = Reader(app)
    await until_async(lambda: reader.received == EVENTS[:1])
    app.stop()
    await reader.task
    assert (reader.received, reader.ended) == (EVENTS[:1], True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_events_leave_the_process_one_by_one_and_a_signal_ends_it(number: signal.Signals) -> None:
    """The first event arrives although the second is an hour away; Ctrl-C then ends stream and process, status 0, no noise."""
    with (
        stub_running("--pace-ms", "3600000") as stub,
        stub.http.stream("GET", PATH, headers={"Accept": "text/event-stream"}) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces) == EVENTS[0]
        assert stub.end(number) == (0, "")
        assert list(pieces) == []


async def _read_all(url: str) -> bytes:
    async with httpx.AsyncClient(timeout=None) as client:
        return (await client.get(url, headers={"Accept": "text/event-stream"})).content


async def test_many_readers_of_one_process_get_the_same_bytes(stub: StubProcess) -> None:
    """Streams read at the same time do not mix, and a client that asks and never reads harms none of them."""
    with socket.create_connection(("127.0.0.1", stub.port)) as silent:
        silent.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        read = await asyncio.gather(*(_read_all(stub.url + PATH) for _ in range(8)))
    assert set(read) == {b"".join(EVENTS)}
