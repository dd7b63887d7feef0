"""While the journal cannot commit, nothing is promised that a healed journal would not keep."""

import pytest

from orchqueue.core.effects import Accept
from orchqueue.core.ids import PoolId, ReplicaId, TaskId, task_key
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.settings import PoolSettings, ReplicaSettings, Settings
from tests.unit.runtime.rig import TENANT, Rig
from tests.unit.runtime.test_barrier import started, submit, turns
from tests.waiting import until_async


@pytest.fixture
async def rig() -> Rig:
    """Give a started runtime."""
    rig = Rig()
    await started(rig)
    return rig


@pytest.mark.req("ORCH-4013")
async def test_repeat_read_during_the_stall_is_turned_away_like_the_first(rig: Rig) -> None:
    """Who posts again just before the stall is known gets no 202 for the task that is being taken back."""
    first = submit(rig)
    await turns()
    again = submit(rig)
    await turns(1)
    assert not again.done()
    rig.journal.watcher.stalled("no space left")
    await turns()
    assert isinstance(first.result(), Refusal)
    answer = again.result()
    assert isinstance(answer, Refusal)
    assert answer.outcome is Outcome.JOURNAL_DOWN
    rig.journal.watcher.healed()
    rig.journal.commit()
    await turns()
    assert await rig.gate.task(task_key(TENANT, TaskId("t1"))) is None


@pytest.mark.req("ORCH-4188")
async def test_newcomer_read_before_the_stall_is_known_is_turned_away_at_once(rig: Rig) -> None:
    """A request that stood in the mailbox when the disk failed is not left without an answer until it heals."""
    late = submit(rig)
    await turns(1)
    rig.journal.watcher.stalled("no space left")
    await turns()
    assert isinstance(late.result(), Refusal)
    rig.journal.watcher.healed()
    rig.journal.commit()
    await turns()
    again = submit(rig)
    await turns()
    rig.journal.commit()
    await turns()
    accept = again.result()
    assert isinstance(accept, Accept)
    assert not accept.repeated


@pytest.mark.req("ORCH-4013")
async def test_withdrawn_task_has_no_reader_to_tell_its_end(rig: Rig) -> None:
    """A task that was taken back before its stream was opened does not stop the late ends of others."""
    answer = submit(rig)
    await turns()
    rig.journal.watcher.stalled("no space left")
    await turns()
    assert isinstance(answer.result(), Refusal)
    rig.clock.at_ms += 60_000
    rig.runtime.loop.tick()
    rig.journal.watcher.healed()
    rig.journal.commit()
    await turns()
    assert rig.bugs == []
    assert task_key(TENANT, TaskId("t1")) not in rig.runtime.streams


@pytest.mark.req("ORCH-4211")
async def test_bug_in_a_tick_ends_the_process(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the pulse is told like any other bug: a daemon without heartbeats must not live on."""

    def explode() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(rig.runtime.loop.interpreter, "tick", explode)
    rig.runtime.loop.tick()
    assert [str(b) for b in rig.bugs] == ["planted"]


@pytest.mark.req("ORCH-4374", "ORCH-4133")
async def test_a_journal_that_is_full_is_noticed_and_told() -> None:
    """Its size is looked at in every interval: newcomers are refused, and probes say why, until there is room again."""
    pool = PoolSettings(PoolId("p"), "llamacpp", "m", (ReplicaSettings(ReplicaId("p-0")),), 2048)
    rig = Rig(settings=Settings((pool,), metrics_interval_ms=1))
    await rig.runtime.start()
    rig.replicas.come_up("p-0")
    rig.journal.used = 1_000
    full = "journal: it holds as much as journal.max_bytes allows"
    await until_async(lambda: rig.gate.readiness() == [full], what="a full journal to be noticed")
    refused = await submit(rig)
    assert isinstance(refused, Refusal)
    assert (refused.outcome, refused.retry_after_ms) == (Outcome.JOURNAL_DOWN, 1_000)
    rig.journal.used = 999
    await until_async(lambda: rig.gate.readiness() == [], what="room to be noticed")
    await rig.runtime.stop()
