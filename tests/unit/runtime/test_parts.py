"""Timers, attempts and the gate's lists."""

import asyncio

import pytest

from orchqueue.core.events import ReplicaLost
from orchqueue.core.ids import ReplicaId, TaskId, TimerKey
from orchqueue.core.outcome import Fault, Refusal
from orchqueue.runtime import loop as loop_module
from orchqueue.runtime.timers import Timers
from tests.unit.runtime.rig import TENANT, ManualClock, Rig, spec
from tests.unit.runtime.test_barrier import started, submit, turns
from tests.waiting import until_async


async def test_timer_fires_once_at_its_last_instant() -> None:
    """A timer that was set again fires once; a cleared one never; others in order."""
    clock, fired = ManualClock(), list[TimerKey]()
    timers = Timers(clock, fired.append)
    timers.set(("a", "1"), clock.at_ms + 1)
    timers.set(("a", "1"), clock.at_ms + 50)
    timers.set(("b", "1"), clock.at_ms + 20)
    timers.set(("c", "1"), clock.at_ms + 1)
    timers.clear(("c", "1"))
    clock.at_ms += 20
    timers.set(("now", ""), clock.at_ms)
    await until_async(lambda: len(fired) == 2)
    assert fired == [("b", "1"), ("now", "")]
    clock.at_ms += 30
    timers.set(("now", ""), clock.at_ms)
    await until_async(lambda: len(fired) == 4)
    assert sorted(fired[2:]) == [("a", "1"), ("now", "")]
    assert len(timers) == 0


async def test_timers_that_are_replaced_do_not_pile_up() -> None:
    """Setting one key again and again keeps the heap small."""
    clock = ManualClock()
    timers = Timers(clock, lambda _: None)
    for turn in range(10_000):
        timers.set(("idle", "t"), clock.at_ms + 10_000 + turn)
    assert len(timers._heap) < 200
    timers.close()


@pytest.mark.req("ORCH-4173")
async def test_start_on_a_replica_that_is_gone_is_tried_elsewhere() -> None:
    """A start that finds no engine counts as lost: the task goes to the other replica and the first one is probed."""
    rig = Rig()
    await started(rig)
    del rig.replicas.engines["p-0"]
    submit(rig)
    await turns()
    rig.journal.commit()
    await turns()
    rig.journal.commit()
    assert ("probe", "p-0") in rig.replicas.asked
    assert len(rig.replicas.engines["p-1"].attempts) == 1
    assert rig.telemetry.counts["failovers_total"] == 1


async def test_attempt_that_fails_inside_start_is_handled() -> None:
    """An engine that refuses synchronously leaves no attempt and no slot behind."""
    rig = Rig()
    await started(rig)
    for engine in rig.replicas.engines.values():
        engine.refuses = ("rejected", "bad grammar")
    submit(rig)
    await turns()
    rig.journal.commit()
    await turns()
    rig.journal.commit()
    await turns()
    listener = rig.listen("t1")
    assert b"INVALID_PARAMS" in listener.got
    assert not rig.runtime.loop.core.state.attempts


@pytest.mark.req("ORCH-4122")
async def test_full_mailbox_refuses_clients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the writer cannot keep up, clients hear so at once, and the world's events still enter."""
    rig = Rig()
    await started(rig)
    monkeypatch.setattr(loop_module, "MAILBOX_AT_MOST", 2)
    answers = [submit(rig, f"t{n}") for n in range(4)]
    await turns(2)
    refused = [a for a in answers if a.done() and isinstance(a.result(), Refusal)]
    assert len(refused) == 2
    rig.journal.commit()
    await turns()


async def test_one_turn_handles_a_bounded_batch() -> None:
    """A burst of submissions is spread over turns, so tokens get in between."""
    rig = Rig()
    await started(rig)
    for n in range(loop_module.BATCH_AT_MOST + 10):
        submit(rig, f"t{n}")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    accepted = [r for r in rig.journal.records if type(r).__name__ == "Accepted"]
    assert len(accepted) == loop_module.BATCH_AT_MOST
    await turns()
    rig.journal.commit()


@pytest.mark.req("ORCH-4082")
async def test_lists_are_paged_newest_first_without_gap_or_repeat() -> None:
    """Following cursors visits every task once, newest first, also while tasks are added."""
    rig = Rig()
    await started(rig)
    for n in range(7):
        submit(rig, f"t{n}", priority="batch" if n % 2 else "interactive")
    await turns()
    rig.journal.commit()
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(9):
        page = await rig.gate.tasks(TENANT, None, None, 3, cursor)
        assert not isinstance(page, Fault)
        seen.extend(p.accepted.task_id for p in page[0])
        cursor = page[1]
        if cursor is None:
            break
    assert seen == [f"t{n}" for n in reversed(range(7))]
    batch = await rig.gate.tasks(TENANT, "queued", "batch", 50, None)
    assert not isinstance(batch, Fault)
    assert {p.accepted.spec.priority for p in batch[0]} == {"batch"}
    assert isinstance(await rig.gate.tasks(TENANT, None, None, 3, "nonsense"), Fault)
    assert isinstance(await rig.gate.tasks(TENANT, None, None, 3, "ÿ"), Fault)


@pytest.mark.req("ORCH-3026")
async def test_task_whose_only_reader_left_is_canceled_after_the_grace() -> None:
    """An interactive task stops when nobody reads it any more; one that is read again goes on."""
    rig = Rig()
    await started(rig)
    submit(rig)
    await turns()
    rig.journal.commit()
    key = next(iter(rig.runtime.loop.core.state.active))
    listener = rig.listen("t1")
    rig.runtime.streams.release_readers()
    await turns()
    assert listener.over
    assert ("disconnect", key) in rig.runtime._timers._due
    rig.listen("t1")
    await turns()
    assert ("disconnect", key) not in rig.runtime._timers._due
    rig.runtime.streams.release_readers()
    await turns()
    rig.clock.at_ms += 10_000
    rig.runtime.loop.fire(("disconnect", key))
    await turns()
    rig.journal.commit()
    picture = await rig.gate.task(key)
    assert picture is not None
    assert picture.state == "canceled"
    assert spec("t1").cancels_on_disconnect
    assert TaskId("t1") == picture.accepted.task_id


@pytest.mark.req("ORCH-4134")
async def test_readiness_names_states_and_no_details() -> None:
    """Whoever may ask without a key hears what state a pool is in, not which file or address failed."""
    rig = Rig()
    await rig.runtime.start()
    assert rig.gate.readiness() == ["pool p: loading"]
    for name in ("p-0", "p-1"):
        rig.replicas.post(ReplicaLost(ReplicaId(name), "checksum", "/secret/model.gguf is damaged"))
    await turns()
    assert rig.gate.readiness() == ["pool p: no live replica"]
    rig.replicas.come_up("p-0")
    rig.runtime.begin_shutdown()
    await turns()
    assert rig.gate.readiness() == ["shutting down"]
