"""Every interaction of the pact.

Req: ORCH-4233
"""

from __future__ import annotations

from tests.contract.consumer.control_interactions import CONTROL
from tests.contract.consumer.data_interactions import DATA
from tests.contract.consumer.failure_interactions import FAILURES
from tests.contract.consumer.insight_interactions import INSIGHT
from tests.contract.consumer.overview_interactions import OVERVIEWS
from tests.contract.consumer.recording import Interaction

INTERACTIONS: tuple[Interaction, ...] = (*DATA, *FAILURES, *INSIGHT, *CONTROL, *OVERVIEWS)
