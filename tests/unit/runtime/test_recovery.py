"""A start takes over what the journal holds while the loop turns, and says how far it is."""

import asyncio

import msgspec
import pytest

from orchqueue.core.ids import PoolId, TaskId
from orchqueue.core.records import Accepted
from orchqueue.ports.errors import JournalError
from orchqueue.ports.journal import Unfinished
from orchqueue.runtime.recovery import TASKS_A_TURN
from tests.unit.runtime.rig import TENANT, Rig, spec
from tests.unit.runtime.test_barrier import turns
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4377")

TASKS = 3 * TASKS_A_TURN + 1


def held(count: int) -> tuple[Unfinished, ...]:
    """Make waiting tasks."""
    names = [f"t{number}" for number in range(count)]
    return tuple(
        Unfinished(Accepted(TENANT, TaskId(name), spec(name), PoolId("p"), True, "v1", 2, 1000)) for name in names
    )


async def _progress(rig: Rig, starting: "asyncio.Task[None]") -> list[str]:
    """Look on at every turn of the loop."""
    told: list[str] = []
    while not starting.done():
        if rig.gate.recovering() not in told:
            told.append(rig.gate.recovering())
            assert rig.gate.readiness() == [rig.gate.recovering()]
        await asyncio.sleep(0)
    return told


@pytest.mark.req("ORCH-4011", "ORCH-4179")
async def test_the_loop_turns_while_tasks_are_taken_over_and_readiness_says_how_many() -> None:
    """From the first moment on it is known to be recovering, then how many of how many; replicas come up afterwards."""
    rig = Rig(held(TASKS))
    starting = asyncio.create_task(rig.runtime.start())
    told = await _progress(rig, starting)
    await starting
    assert told == [
        "recovering: the journal is being read",
        *(f"recovering {done} of {TASKS} tasks" for done in range(0, TASKS, TASKS_A_TURN)),
    ]
    assert rig.gate.recovering() == ""
    assert rig.gate.readiness() == ["pool p: loading"]
    assert "recovering" in rig.telemetry.lines
    assert rig.telemetry.lines.count("journal_recovered") == 1
    assert [task.task_id for task in rig.runtime.loop.core.state.tasks.values()] == [
        task.accepted.task_id for task in held(TASKS)
    ]
    assert ("start", "p-0") in rig.replicas.asked
    await rig.runtime.stop()


async def test_a_shutdown_ends_recovery_early_and_starts_nothing() -> None:
    """What was not taken over stays in the journal for the next start."""
    rig = Rig(held(TASKS))
    starting = asyncio.create_task(rig.runtime.start())
    while "of" not in rig.gate.recovering():
        await turns(1)
    rig.runtime.begin_shutdown()
    await starting
    assert len(rig.runtime.loop.core.state.tasks) < TASKS
    assert rig.gate.readiness() == ["shutting down"]
    assert rig.replicas.asked == []
    await rig.runtime.stop()
    assert rig.journal.closed
    assert rig.journal.records == []


async def test_a_shutdown_while_the_journal_is_read_ends_the_reading() -> None:
    """Nothing is opened for writing any more."""
    rig = Rig(held(TASKS))
    rig.runtime.begin_shutdown()
    await rig.runtime.start()
    assert len(rig.runtime.loop.core.state.tasks) == 0
    with pytest.raises(AssertionError):
        _ = rig.journal.watcher
    await rig.runtime.stop()


async def test_a_journal_that_cannot_be_read_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words reach whoever started."""
    rig = Rig()

    def refuse() -> None:
        raise JournalError("the journal is damaged")

    monkeypatch.setattr(rig.journal, "recover", refuse)
    with pytest.raises(JournalError, match="damaged"):
        await rig.runtime.start()


async def test_time_limits_that_pass_meanwhile_are_kept() -> None:
    """A deadline that is over already ends its task in its turn, and the others are taken over all the same."""
    late, *others = held(TASKS)
    accepted = msgspec.structs.replace(late.accepted, spec=spec("t0", deadline_ms=1))
    rig = Rig((Unfinished(accepted), *others))
    await rig.runtime.start()
    first, *rest = rig.runtime.loop.core.state.tasks.values()
    await until_async(lambda: first.state.name == "ENDED", what="the end of the task that is late")
    assert {task.state.name for task in rest} == {"WAITING"}
    await rig.runtime.stop()
