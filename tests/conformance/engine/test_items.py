"""What every engine behind the port does, simulated or real: each item of the suite on each bed that offers what it needs."""

from __future__ import annotations

import pytest

from orchqueue.adapters.engines.conformance.items import ITEMS, Item
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.replica import EngineReplica
from tests.conformance.engine.beds import Bed, chosen_beds

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


def _pair(bed: Bed, item: Item) -> object:
    marks = [pytest.mark.real_engine] if bed.kind == "real" else []
    return pytest.param(bed, item, id=f"{bed.name}-{item.name}", marks=marks)


PAIRS = [
    _pair(bed, item) for bed in chosen_beds() for item in ITEMS if item.applies(ENGINES[bed.engine].offers, bed.workload)
]  # fmt: skip


@pytest.mark.req(
    "ORCH-4212", "ORCH-4431", "ORCH-4432", "ORCH-3003", "ORCH-3017", "ORCH-3045", "ORCH-4036", "ORCH-4056", "ORCH-4062",
    "ORCH-4059", "ORCH-4063", "ORCH-4064", "ORCH-4135", "ORCH-4171", "ORCH-4172", "ORCH-4178", "ORCH-4213", "ORCH-4214", "ORCH-4216",
    "ORCH-4218", "ORCH-4273",
)  # fmt: skip
@pytest.mark.parametrize(("replica", "item"), PAIRS, indirect=["replica"], scope="module")
async def test_item(replica: EngineReplica, item: Item) -> None:
    """The engine does what the item asks; what it does not offer it refuses by name, which is an item too."""
    await item.check(replica)
