"""The real tritonserver, once for all tests that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.triton_serve import Stack, StackSettings, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run it with one slot."""
    with running(StackSettings(), tmp_path_factory.mktemp("triton")) as found:
        yield found
