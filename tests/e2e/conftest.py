"""One daemon with the embedded engine serves all tests that only use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon, running


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon without a configuration: two replicas of the bundled model."""
    with running(tmp_path_factory.mktemp("embedded")) as daemon:
        daemon.wait_all_replicas()
        yield daemon
