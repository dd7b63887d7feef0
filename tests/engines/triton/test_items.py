"""The suite of every engine, on the real tritonserver; `make ci STAGE=triton` runs it, after `make engines-triton`."""

import pytest

from orchqueue.adapters.engines.conformance.items import ITEMS, Item
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.replica import EngineReplica
from tests.conformance.engine.beds import BEDS
from tests.conformance.engine.conftest import replica

__all__ = ["replica"]  # a fixture

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

(BED,) = (bed for bed in BEDS if (bed.engine, bed.kind) == ("triton", "real"))
APPLYING = [item for item in ITEMS if item.applies(ENGINES["triton"].offers)]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.req("ORCH-4212", "ORCH-4222", "ORCH-4213", "ORCH-4214", "ORCH-4434")
@pytest.mark.parametrize("replica", [BED], indirect=True, scope="module", ids=[BED.name])
@pytest.mark.parametrize("item", APPLYING, ids=[item.name for item in APPLYING])
async def test_item(replica: EngineReplica, item: Item) -> None:
    """The real engine does what the item asks."""
    await item.check(replica)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.req("ORCH-4222")
@pytest.mark.parametrize("replica", [BED], indirect=True, scope="module", ids=[BED.name])
async def test_it_is_strict(replica: EngineReplica) -> None:
    """With one slot behind it, it proves itself strict."""
    facts = await replica.self_test()
    assert facts.strict_proven, facts.selftest_note
    assert (facts.engine_version, facts.ctx, facts.can_continue) == ("triton-2.51.0+trtllm-python", 2048, True)
