"""An attempt whose request cannot be made, and one whose text ends before its engine does."""

import asyncio
from contextlib import suppress

import pytest

from orchqueue.adapters.engines.attempt import EngineAttempt, Prepared
from orchqueue.adapters.engines.conformance.listening import Listener
from orchqueue.adapters.engines.connection import Answer, parse_endpoint
from orchqueue.adapters.engines.reading import Broken, Ended, Reading
from orchqueue.adapters.engines.wire import SseEvent
from orchqueue.ports.engine import Completion


@pytest.mark.req("ORCH-4164")
async def test_request_that_cannot_be_made_gives_its_slot_back() -> None:
    """Whatever goes wrong before the engine is asked is told once, and the attempt is closed."""

    async def prepare() -> Prepared:
        raise KeyError("planted")

    async def settle(answered: bool) -> None:
        raise AssertionError("nothing was sent, so there is nothing to wait for")

    listener = Listener()
    EngineAttempt(parse_endpoint("http://127.0.0.1:9"), listener, prepare, settle, lambda _: None)
    await listener.closed_event.wait()
    assert listener.failure is not None
    assert listener.failure[0] == "rejected"
    assert "planted" in listener.failure[1]


class EndsAtOnce:
    """Reads a text that ends with its first event while the engine goes on."""

    def take(self, events: list[SseEvent]) -> Reading:
        """End."""
        return Reading(("a",), len(events), Ended(Completion("stop", 1, 1, 0, 0), whole=False, goes_on=True))

    def finish(self) -> Reading:
        """Not reached."""
        raise AssertionError("the attempt was over")

    def refusal(self, answer: Answer) -> Broken:
        """Not reached."""
        raise AssertionError(answer)


@pytest.mark.req("ORCH-4451")
async def test_an_engine_that_goes_on_behind_the_end_is_stopped() -> None:
    """Its connection is closed at once, and the attempt is closed when the engine is seen to hold nothing of it."""
    dropped = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n")
        await writer.drain()
        with suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        dropped.set()

    async def prepare() -> Prepared:
        return Prepared("/", b"", EndsAtOnce())

    async def settle(answered: bool) -> None:
        assert answered
        await dropped.wait()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        endpoint = parse_endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        listener = Listener()
        EngineAttempt(endpoint, listener, prepare, settle, lambda _: None)
        await listener.end()
    assert dropped.is_set()
    assert listener.completion is not None
    assert listener.text == "a"
