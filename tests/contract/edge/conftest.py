"""Stages for the edge's tests."""

from collections.abc import Iterator

import pytest

from tests.contract.edge.stage import Stage, running


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Run an edge with the default limits and no keys."""
    with running() as running_stage:
        yield running_stage
