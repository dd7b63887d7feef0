"""Nothing is told before it is durable, and what need not wait does not."""

import asyncio

import pytest

from orchqueue.core.effects import Accept
from orchqueue.core.ids import PoolId, TaskId, task_key
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Accepted, Bound, Ended, Forgotten, Spoken
from orchqueue.ports.engine import AttemptSink
from orchqueue.ports.journal import Unfinished
from tests.unit.runtime.rig import TENANT, Listener, Rig, completion, spec


async def turns(count: int = 5) -> None:
    """Let the event loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def started(rig: Rig) -> None:
    """Bring the runtime and both replicas up."""
    await rig.runtime.start()
    rig.replicas.come_up("p-0")
    rig.replicas.come_up("p-1")
    await turns()


def submit(rig: Rig, task_id: str = "t1", **fields: object) -> asyncio.Task[Accept | Refusal]:
    """Post a task without waiting for the answer."""
    return asyncio.create_task(rig.gate.submit(TaskId(task_id), TENANT, spec(task_id, **fields)))


async def running(rig: Rig) -> tuple[Listener, AttemptSink]:
    """Have a first task accepted; give who listens to it and what its engine speaks into."""
    submit(rig)
    await turns()
    rig.journal.commit()
    return rig.listen("t1"), rig.replicas.engines["p-0"].attempts[0].sink


@pytest.fixture
async def rig() -> Rig:
    """Give a started runtime."""
    rig = Rig()
    await started(rig)
    return rig


@pytest.mark.req("ORCH-3015", "ORCH-4013")
async def test_202_waits_for_its_record(rig: Rig) -> None:
    """The client hears of its acceptance only when the journal has it."""
    answer = submit(rig)
    await turns()
    assert not answer.done()
    assert [type(r) for r in rig.journal.records] == [Accepted, Bound]
    rig.journal.commit()
    await turns()
    assert isinstance(answer.result(), Accept)


@pytest.mark.req("ORCH-4013")
async def test_engine_is_not_started_before_commit(rig: Rig) -> None:
    """An attempt that a crash could undo is not begun."""
    submit(rig)
    await turns()
    assert not rig.replicas.engines["p-0"].attempts
    rig.journal.commit(1)
    assert not rig.replicas.engines["p-0"].attempts
    rig.journal.commit(2)
    assert len(rig.replicas.engines["p-0"].attempts) == 1


@pytest.mark.req("ORCH-4186", "ORCH-4293")
async def test_tokens_pass_before_commit_and_end_waits(rig: Rig) -> None:
    """Text flows while a commit is pending; the terminal event does not."""
    listener, sink = await running(rig)
    submit(rig, "t2")
    await turns()
    sink.chunks(("Hel", "lo"), 2)
    assert b'"Hel"' in listener.got
    sink.completed(completion())
    sink.closed()
    assert b"event: end" not in listener.got
    rig.journal.commit()
    assert b"event: end" in listener.got
    assert listener.over


@pytest.mark.req("ORCH-4013")
async def test_get_waits_for_what_it_tells(rig: Rig) -> None:
    """A look at a task is not answered while its state could still be undone."""
    submit(rig)
    await turns()
    look = asyncio.create_task(rig.gate.task(task_key(TENANT, TaskId("t1"))))
    await turns()
    assert not look.done()
    rig.journal.commit()
    await turns()
    picture = look.result()
    assert picture is not None
    assert picture.state == "running"


@pytest.mark.req("ORCH-2003", "ORCH-4013", "ORCH-4109")
async def test_cancel_is_durable_before_its_answer_and_fences_at_once(rig: Rig) -> None:
    """After a cancel was decided no text is appended, and 204 waits for the record."""
    submit(rig)
    await turns()
    rig.journal.commit()
    listener = rig.listen("t1")
    attempt = rig.replicas.engines["p-0"].attempts[0]
    attempt.sink.chunks(("one",), 1)
    answer = asyncio.create_task(rig.gate.cancel(task_key(TENANT, TaskId("t1"))))
    await turns()
    attempt.sink.chunks(("two",), 2)
    assert (answer.done(), attempt.aborted) == (False, False)
    rig.journal.commit()
    await turns()
    assert answer.result() is None
    assert attempt.aborted
    assert b'"two"' not in listener.got
    assert b'"canceled":true' in listener.got


@pytest.mark.req("ORCH-3017", "ORCH-4164")
async def test_slot_is_kept_until_engine_has_stopped(rig: Rig) -> None:
    """A canceled task's slot is used again only after the engine said that it is idle."""
    for name in ("t1", "t2", "t3"):
        submit(rig, name)
    await turns()
    rig.journal.commit()
    first = rig.replicas.engines["p-0"].attempts[0]
    cancel = asyncio.create_task(rig.gate.cancel(task_key(TENANT, TaskId("t1"))))
    await turns()
    rig.journal.commit()
    await turns()
    assert cancel.done()
    assert len(rig.replicas.engines["p-0"].attempts) == 1
    first.sink.closed()
    rig.journal.commit()
    assert [a.spec.seed for a in rig.replicas.engines["p-0"].attempts] == [spec("t1").seed, spec("t3").seed]


@pytest.mark.req("ORCH-4188", "ORCH-4189")
async def test_stalled_journal_turns_the_unanswered_away(rig: Rig) -> None:
    """Whoever was not answered when the disk failed gets 503, its task is taken back, and newcomers hear it at once."""
    answer = submit(rig)
    await turns()
    rig.journal.watcher.stalled("no space left")
    await turns()
    refusal = answer.result()
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.JOURNAL_DOWN
    assert "no space left" in refusal.message
    late = submit(rig, "t2")
    await turns()
    assert isinstance(late.result(), Refusal)
    assert [type(r) for r in rig.journal.records] == [Accepted, Bound, Ended, Forgotten]
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


@pytest.mark.req("ORCH-4190")
async def test_end_of_stalled_journal_goes_out_late_and_says_so(rig: Rig) -> None:
    """An end waits for the stalled journal for stall_ms and then goes out as not durable, once."""
    listener, sink = await running(rig)
    sink.chunks(("a",), 1)
    rig.journal.watcher.stalled("disk full")
    sink.completed(completion(1))
    sink.closed()
    rig.clock.at_ms += 4_999
    rig.runtime.loop.interpreter.tick()
    assert b"event: end" not in listener.got
    rig.clock.at_ms += 1
    rig.runtime.loop.interpreter.tick()
    assert b'"durable":false' in listener.got
    rig.journal.watcher.healed()
    rig.journal.commit()
    assert listener.got.count(b"event: end") == 1


@pytest.mark.req("ORCH-3024", "ORCH-4065")
async def test_same_request_again_gets_the_same_answer(rig: Rig) -> None:
    """The same id and body are accepted once and answered twice; another body is a conflict."""
    first, second = submit(rig), submit(rig)
    other = submit(rig, prompt="something else")
    await turns()
    rig.journal.commit()
    await turns()
    one, two = first.result(), second.result()
    assert isinstance(one, Accept)
    assert isinstance(two, Accept)
    assert (one.queue_position, one.seed, one.repeated, two.repeated) == (two.queue_position, two.seed, False, True)
    conflict = other.result()
    assert isinstance(conflict, Refusal)
    assert conflict.outcome is Outcome.CONFLICT
    assert rig.telemetry.counts["tasks_enqueued_total"] == 1


@pytest.mark.req("ORCH-4208")
async def test_shutdown_keeps_running_tasks_in_the_journal(rig: Rig) -> None:
    """Stopping engines does not end their tasks: no end is recorded for what was still running."""
    listener, sink = await running(rig)
    sink.chunks(("a",), 1)
    rig.runtime.begin_shutdown()
    await turns()
    assert rig.runtime.running() == 1
    refused = submit(rig, "t2")
    await turns()
    rig.journal.commit()
    await turns()
    assert isinstance(refused.result(), Refusal)
    await rig.runtime.stop()
    assert [(r.at_bytes, r.text) for r in rig.journal.records if isinstance(r, Spoken)] == [(0, "a")]
    sink.failed("lost", "gone")
    sink.closed()
    assert not any(isinstance(r, Ended) for r in rig.journal.records)
    assert listener.over
    assert rig.replicas.closed
    assert rig.journal.closed


@pytest.mark.req("ORCH-4208")
async def test_a_stop_waits_until_readers_were_told_the_end(rig: Rig) -> None:
    """A task that runs no more is still to be waited for: its end is told only once it is committed."""
    listener, sink = await running(rig)
    sink.chunks(("a",), 1)
    rig.runtime.begin_shutdown()
    sink.completed(completion())
    sink.closed()
    await turns()
    assert (rig.runtime.running(), listener.over, rig.runtime.is_at_work()) == (0, False, True)
    rig.journal.commit()
    assert (listener.over, rig.runtime.is_at_work()) == (True, False)


@pytest.mark.req("ORCH-4179")
async def test_waiting_tasks_run_after_a_restart_in_their_order() -> None:
    """What the journal held is started in order of acceptance, and can be read under its id."""
    held = tuple(
        Unfinished(Accepted(TENANT, TaskId(f"t{n}"), spec(f"t{n}"), PoolId("p"), True, "v1", 3, 999_000))
        for n in range(4)
    )
    rig = Rig(held)
    await started(rig)
    rig.journal.commit()
    begun = [e.attempts[0].spec.seed for e in rig.replicas.engines.values()]
    assert begun == [spec("t0").seed, spec("t1").seed]
    picture = await rig.gate.task(task_key(TENANT, TaskId("t3")))
    assert picture is not None
    assert (picture.state, picture.queue_position) == ("queued", 1)


@pytest.mark.req("ORCH-4211")
async def test_bug_in_the_core_stops_everything(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exception out of the core nothing more is decided, and the process is told to end."""
    monkeypatch.setattr(rig.runtime.loop.core, "handle", _explode)
    answer = submit(rig)
    await turns()
    assert [str(b) for b in rig.bugs] == ["planted"]
    records = len(rig.journal.records)
    rig.runtime.loop.deliver(None)  # type: ignore[arg-type]
    assert len(rig.journal.records) == records
    assert not answer.done()
    answer.cancel()


def _explode(now_ms: int, event: object) -> list[object]:
    raise RuntimeError("planted")


@pytest.mark.req("ORCH-3024", "ORCH-4011")
async def test_end_of_a_reused_id_does_not_record_the_forgotten_tasks_text(rig: Rig) -> None:
    """A task that ends before its stream is opened records its own empty text, not that of the forgotten task."""
    key = task_key(TENANT, TaskId("t1"))
    submit(rig)
    await turns()
    rig.journal.commit()
    sink = rig.replicas.engines["p-0"].attempts[0].sink
    sink.chunks(("old text",), 2)
    sink.completed(completion())
    sink.closed()
    rig.journal.commit()
    rig.runtime.loop.fire(("retention", key))
    again = submit(rig)
    cancel = asyncio.create_task(rig.gate.cancel(key))
    await turns()
    ended = [record for record in rig.journal.records if isinstance(record, Ended)]
    assert [record.text for record in ended] == ["old text", ""]
    rig.journal.commit()
    await turns()
    assert cancel.result() is None
    assert isinstance(again.result(), Accept)
