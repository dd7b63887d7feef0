"""What was accepted in other circumstances still reaches its end."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId, ReplicaId, TaskId
from orchqueue.core.outcome import MEANINGS, Outcome
from orchqueue.core.records import Accepted, Bound
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.request import PlacementWish, TaskSpec
from orchqueue.core.settings import Supervision
from tests.unit.core.driving import TENANT, Driver, key, pool_settings


def recovered(
    name: str, *, strict: bool = True, accepted_at_ms: int = 999_000, was_bound: bool = False
) -> ev.TaskRecovered:
    """Describe a task of an earlier life, waiting unless told otherwise."""
    spec = TaskSpec(prompt="hi", seed=1, max_tokens=8)
    return ev.TaskRecovered(
        Accepted(TENANT, TaskId(name), spec, PoolId("p"), strict, "v1", 3, accepted_at_ms),
        Bound(TENANT, TaskId(name), ReplicaId("p-0"), 1) if was_bound else None,
    )


@pytest.mark.req("ORCH-4170")
def test_strict_tasks_end_when_no_replica_can_keep_the_promise_any_more() -> None:
    """A strict task of an earlier life does not wait for ever for engines that now fail the proof; others run."""
    core = Driver(pool_settings(replicas=2), up=False)
    core.handle(recovered("strict"))
    core.handle(recovered("other", strict=False))
    core.ready("pr0", strict_proven=False)
    assert core.wanted(fx.Finish) == []
    core.ready("pr1", strict_proven=False)
    (told,) = core.wanted(fx.Finish)
    assert (told.key, told.ended.outcome) == (key("strict"), Outcome.POOL_UNAVAILABLE)
    assert core.starts == ["other"]


@pytest.mark.req("ORCH-4245")
def test_withdrawn_acceptance_uses_up_no_turn() -> None:
    """Who is told 503 at its last turn may send it again; a session that had only withdrawn turns never was."""
    core = Driver()
    for turn in range(8):
        core.submit(f"t{turn}", session_id="s")
    core.submit("fresh", session_id="only")
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.AcceptsWithdrawn((key("t7"), key("fresh"))))
    core.handle(ev.JournalHealed())
    assert core.core.state.sessions.find((TENANT, "only"), core.now_ms) is None
    assert core.wanted(fx.Accept, core.submit("t7", session_id="s"))
    core.submit("t8", session_id="s")
    assert [f.pointer for f in core.refusal().refusal.faults] == ["/session_id"]


@pytest.mark.req("ORCH-4082")
def test_tasks_stand_in_order_of_acceptance_when_one_was_counted_meanwhile() -> None:
    """A list paged by acceptance leaves no task out."""
    core = Driver()
    core.submit("slow", prompt="x" * 300)
    core.submit("quick")
    core.handle(ev.PromptCounted(key("slow"), 10))
    assert [t.task_id for t in core.core.state.tasks.values()] == ["quick", "slow"]
    assert [t.seq for t in core.core.state.tasks.values()] == sorted(t.seq for t in core.core.state.tasks.values())


@pytest.mark.req("ORCH-4011")
def test_clock_set_back_between_two_lives_gives_no_negative_wait() -> None:
    """A task that seems to come from the future has waited for nothing."""
    core = Driver()
    core.handle(recovered("t", accepted_at_ms=core.now_ms + 3_600_000))
    (started,) = core.wanted(fx.EmitStarted)
    assert started.queue_time_ms == 0


@pytest.mark.req("ORCH-4145")
def test_tasks_of_every_pool_of_a_set_are_told_when_its_last_replica_is_given_up() -> None:
    """What waits in the pool that failed first does not wait for the breaker while its sibling's tasks are told."""
    once = Supervision(breaker_failures=1)
    core = Driver(pool_settings("p", supervision=once), pool_settings("q", supervision=once))
    pin = {
        "p": PlacementWish(mode="pin", pool_ids=(PoolId("p"),)),
        "q": PlacementWish(mode="pin", pool_ids=(PoolId("q"),)),
    }
    core.submit("runs", placement=pin["p"])
    core.submit("early", placement=pin["p"])
    core.submit("other", placement=pin["q"])
    core.submit("late", placement=pin["q"])
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "scripted"))
    assert core.wanted(fx.Finish) == []
    core.handle(ev.ReplicaLost(ReplicaId("qr0"), "exit", "scripted"))
    told = {f.key: f.ended.outcome for f in core.wanted(fx.Finish)}
    assert told == {key(name): Outcome.POOL_UNAVAILABLE for name in ("runs", "early", "other", "late")}


@pytest.mark.req("ORCH-3039")
def test_replica_that_is_suspected_as_its_stable_time_ends_has_been_stable() -> None:
    """A short doubt at the wrong moment does not keep old failures counted for the rest of its life."""
    core = Driver(pool_settings(supervision=Supervision(breaker_failures=2)))
    lost = ev.ReplicaLost(ReplicaId("pr0"), "exit", "scripted")
    core.handle(lost)
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.ready("pr0")
    core.submit("t")
    core.fail(1)
    core.handle(ev.TimerFired(("stable", "pr0")), after_ms=300_000)
    core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
    core.handle(lost)
    assert core.core.state.replicas[ReplicaId("pr0")].state is ReplicaState.BACKOFF


@pytest.mark.req("ORCH-4181")
def test_a_best_effort_task_that_ran_when_the_daemon_died_is_told() -> None:
    """It ends with WORKER_RESET and may be sent again where it has text that cannot be continued; others go on."""
    core = Driver(pool_settings(replicas=3, strict=False))
    core.handle(msgspec.structs.replace(recovered("ran", strict=False, was_bound=True), text="so", tokens_out=1))
    core.handle(recovered("waited", strict=False))
    (finish,) = core.wanted(fx.Finish)
    assert (finish.key, finish.ended.outcome) == (key("ran"), Outcome.ENGINE_LOST)
    assert MEANINGS[finish.ended.outcome].code == "WORKER_RESET"
    assert MEANINGS[finish.ended.outcome].retriable
    assert core.starts == ["waited"]
