"""The beds as fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from orchqueue.adapters.engines import llamacpp, tgi, triton
from orchqueue.adapters.engines import replica as every_engine
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.replica import EngineReplica
from tests.conformance.engine.beds import Bed, SimulatedEngine, start_simulated

StartSimulated = Callable[..., Awaitable[SimulatedEngine]]
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give engines longer to answer than a busy machine stands still: how soon one counts as silent is not looked at here."""
    monkeypatch.setattr(llamacpp, "SLOTS_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(tgi, "METRICS_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(triton, "METRICS_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(every_engine, "HEALTH_TIMEOUT_S", PATIENCE_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(request: pytest.FixtureRequest) -> AsyncIterator[EngineReplica]:
    """Give a connected replica of a bed."""
    bed: Bed = request.param
    async with bed.open() as connected:
        yield connected


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """Name each engine that is simulated."""
    return str(request.param)


@pytest_asyncio.fixture
async def simulate(engine: str) -> AsyncIterator[StartSimulated]:
    """Start simulated servers of one engine that end with the test."""
    started: list[SimulatedEngine] = []

    async def start(*flags: str) -> SimulatedEngine:
        running = await start_simulated(engine, *flags)
        started.append(running)
        return running

    yield start
    for running in started:
        await running.end()
