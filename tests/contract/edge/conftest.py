"""Stages for the edge's tests."""

import inspect
from collections.abc import Iterator

import httpx
import pytest

from tests.contract.edge.stage import Stage, running

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def patient_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let httpx wait longer than its 5 s where a test names no time: a machine that stalls is no edge that is silent."""
    by_default = inspect.signature(httpx.get).parameters["timeout"].default
    for wait in ("connect", "read", "write", "pool"):
        monkeypatch.setattr(by_default, wait, PATIENCE_S)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Run an edge with the default limits and no keys."""
    with running() as running_stage:
        yield running_stage
