"""One stub for all tests that only ask: it keeps no state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.stub.stub_process import StubProcess, stub_running


@pytest.fixture(scope="session")
def stub() -> Iterator[StubProcess]:
    """Serve the shipped pact, quickly."""
    with stub_running("--pace-ms", "1") as process:
        yield process
