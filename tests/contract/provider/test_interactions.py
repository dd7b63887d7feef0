from __future__ import annotations

import pytest

from tests.contract.provider.verification import Interaction, Verification, interactions

REMEDY = "mend the daemon, or change the contract first (docs/contracts.md)"


@pytest.mark.req("ORCH-2006", "ORCH-2007", "ORCH-4044")
@pytest.mark.timeout(90)
@pytest.mark.parametrize("interaction", interactions(), ids=lambda one: one["description"])
def test_the_daemon_keeps_the_pact(interaction: Interaction, verification: Verification) -> None:
    """The real daemon answers as the pact says, and every part of its answer is one that the contract declares."""
    # What fits a line first: the Pact verifier tells a page.
    faults = sorted(verification.faults(interaction), key=lambda fault: "\n" in fault)
    assert not faults, f"{faults[0].splitlines()[0]}; {REMEDY}\n" + "\n".join(faults)
