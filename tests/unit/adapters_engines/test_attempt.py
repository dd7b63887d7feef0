"""An attempt whose request cannot be made."""

import asyncio

import pytest

from orchqueue.adapters.engines.attempt import EngineAttempt, Prepared
from orchqueue.adapters.engines.conformance.listening import Listener
from orchqueue.adapters.engines.connection import parse_endpoint


@pytest.mark.req("ORCH-4164")
async def test_request_that_cannot_be_made_gives_its_slot_back() -> None:
    """Whatever goes wrong before the engine is asked is told once, and the attempt is closed."""

    async def prepare() -> Prepared:
        raise KeyError("planted")

    async def settle(answered: bool) -> None:
        raise AssertionError("nothing was sent, so there is nothing to wait for")

    listener = Listener()
    EngineAttempt(parse_endpoint("http://127.0.0.1:9"), listener, prepare, settle, lambda _: None)
    async with asyncio.timeout(5):
        await listener.closed_event.wait()
    assert listener.failure is not None
    assert listener.failure[0] == "rejected"
    assert "planted" in listener.failure[1]
