"""Explanations and usage tell nothing that a crash could still undo."""

import asyncio

import pytest

from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import TaskId, Tenant, task_key
from orchqueue.core.usage import Amounts
from tests.unit.runtime.rig import TENANT, Rig, spec

KEY = task_key(TENANT, TaskId("t1"))


async def turns(count: int = 5) -> None:
    """Let the event loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Rig:
    """Give a runtime whose replicas are up and whose one task is not committed yet."""
    rig = Rig()
    await rig.runtime.start()
    rig.replicas.come_up("p-0")
    rig.replicas.come_up("p-1")
    await turns()
    asking = asyncio.create_task(rig.gate.submit(TaskId("t1"), TENANT, spec("t1"), "k1"))
    await turns()
    assert not asking.done()
    return rig


@pytest.mark.req("ORCH-4013")
async def test_an_explanation_waits_for_what_it_tells(rig: Rig) -> None:
    """A task whose acceptance is not durable yet is explained only when it is."""
    asking = asyncio.create_task(rig.gate.explain(KEY))
    await turns()
    assert not asking.done()
    rig.journal.commit()
    await turns()
    found = asking.result()
    assert isinstance(found, Explanation)
    assert (found.state, found.attempts[0].replica_id) == ("running", "p-0")
    assert await rig.gate.explain(task_key(Tenant("beta"), TaskId("t1"))) is None


@pytest.mark.req("ORCH-4004", "ORCH-4013")
async def test_usage_waits_for_what_it_counts(rig: Rig) -> None:
    """An acceptance that is not durable yet is not told of, and another tenant has none."""
    asking = asyncio.create_task(rig.gate.usage(TENANT, 0, 0))
    await turns()
    assert not asking.done()
    rig.journal.commit()
    await turns()
    (row,) = asking.result().rows
    assert (row.day, row.account, row.amounts) == (0, ("k1", "m"), Amounts(accepted=1))
    assert (await rig.gate.usage(Tenant("beta"), 0, 0)).rows == ()
