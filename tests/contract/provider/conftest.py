"""One set of daemons for all of the provider's tests: each interaction leaves them as it found them."""

from collections.abc import Iterator

import pytest

from tests.contract.provider.verification import Verification, verifying


@pytest.fixture(scope="session")
def verification(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verification]:
    """Verify against real daemons in front of simulated engines."""
    with verifying(tmp_path_factory.mktemp("provider")) as running:
        yield running
