from __future__ import annotations

import pytest

from tests.contract.provider.verification import Interaction, Verification, interactions


@pytest.mark.req("ORCH-2006", "ORCH-2007", "ORCH-4029")
@pytest.mark.timeout(90)
@pytest.mark.parametrize("interaction", interactions(), ids=lambda one: one["description"])
def test_the_daemon_keeps_the_pact(interaction: Interaction, verification: Verification) -> None:
    """The real daemon answers as the pact says, and every part of its answer is one that the contract declares."""
    assert verification.faults(interaction) == []
