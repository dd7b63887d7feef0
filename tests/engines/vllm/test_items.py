"""The suite of every engine, on the real vLLM; `make ci STAGE=vllm` runs it, after `make engines-vllm`."""

import pytest

from orchqueue.adapters.engines.conformance.items import ITEMS, Item
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.replica import EngineReplica
from tests.conformance.engine.beds import BEDS
from tests.conformance.engine.conftest import replica
from tests.conformance.engine.recorded_vllm import SPECIAL, ask, form_of, load, names
from tests.real_vllm import server

__all__ = ["replica"]  # a fixture

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(1200)]

REAL = [bed for bed in BEDS if (bed.engine, bed.kind) == ("vllm", "real")]
PAIRS = [(bed, item) for bed in REAL for item in ITEMS if item.applies(ENGINES[bed.engine].offers, bed.workload)]
TEXT = REAL[0]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.req("ORCH-4212", "ORCH-4220", "ORCH-4213", "ORCH-4214", "ORCH-4441", "ORCH-4470")
@pytest.mark.parametrize(
    ("replica", "item"),
    PAIRS,
    indirect=["replica"],
    scope="module",
    ids=[f"{bed.name}-{item.name}" for bed, item in PAIRS],
)
async def test_item(replica: EngineReplica, item: Item) -> None:
    """The real engine does what the item asks."""
    await item.check(replica)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.req("ORCH-4220", "ORCH-4441")
@pytest.mark.parametrize("replica", [TEXT], indirect=True, scope="module", ids=[TEXT.name])
async def test_it_is_strict(replica: EngineReplica) -> None:
    """Started with the flags of the committed configuration, it proves itself strict."""
    facts = await replica.self_test()
    assert facts.strict_proven, facts.selftest_note
    assert facts.engine_version == "vllm-0.32.0"
    assert (facts.ctx, facts.can_continue, len(facts.known_answer)) == (2048, True, 64)


@pytest.mark.req("ORCH-4442")
@pytest.mark.parametrize("name", [name for name in names() if name not in SPECIAL])
async def test_the_recorded_answers_are_still_given(name: str) -> None:
    """What was recorded has the form that the installed version gives."""
    running = server(0)
    running.wait_ready()
    recorded = load(name)
    told = await ask(running.url, recorded)
    assert (told.status, form_of(told)) == (recorded.status, form_of(recorded))
