"""A new model on trial is judged, and promoted or taken back."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.settings import CanaryLevels
from tests.unit.core.driving import Driver, key, pool_settings
from tests.unit.core.trying import PATIENT, P, ask, canary, one_after_another, trial


@pytest.mark.req("ORCH-4332", "ORCH-4334")
def test_a_canary_that_kept_its_levels_is_promoted() -> None:
    """After the last task of its trial the others get its model too, the pool serves on, and a rollback leads back."""
    core = trial(50, levels=CanaryLevels(tasks=3))
    one_after_another(core, 6)
    pool = core.pool()
    assert (pool.canary, pool.model_ref, pool.previous_model_ref) == (None, "new", "m")
    assert core.wanted(fx.StopReplica)[-1] == fx.StopReplica(ReplicaId("pr0"))
    assert one_after_another(core, 1) == ["pr1"]
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    assert core.wanted(fx.StartReplica)[-1] == fx.StartReplica(ReplicaId("pr0"), "new")
    core.ready("pr0")
    assert sorted({*one_after_another(core, 1), *one_after_another(core, 1, model_ref="new")}) == ["pr0"]
    core.handle(ev.RollbackRequested(core.reply(), P))
    assert core.wanted(fx.Done)[-1].detail["model_ref"] == "m"
    (note,) = [n for n in core.wanted(fx.Note) if n.event == "canary_promoted"]
    assert note.fields["detail"] == "after 3 tasks, 0 failed, 0 of 0 first tokens late"


@pytest.mark.req("ORCH-4129", "ORCH-4334")
def test_promotion_ends_what_waits_for_the_old_model() -> None:
    """It named a model that is no longer served."""
    core = trial(50, levels=PATIENT)
    core.submit("runs", model_ref="m")
    core.submit("waits", model_ref="m")
    ask(core, 100)
    assert core.wanted(fx.Done)[-1].detail["canary_percent"] == 100
    (told,) = [f.ended for f in core.wanted(fx.Finish)]
    assert told.outcome is Outcome.POOL_UNAVAILABLE
    assert core.pool().model_ref == "new"
    assert core.wanted(fx.StopReplica)[-1].replica_id == "pr1", "what runs on the old model may finish"
    core.complete(1)
    assert core.wanted(fx.StopReplica)[-1].replica_id == "pr0"


@pytest.mark.req("ORCH-4334")
def test_by_hand_only_an_operator_promotes() -> None:
    """With `promote: manual` the trial goes on, and its levels are judged over all of its tasks."""
    core = trial(50, levels=PATIENT)
    one_after_another(core, 20)
    assert canary(core).ended == 10
    ask(core, 100)
    assert (core.pool().canary, core.pool().model_ref) == (None, "new")


@pytest.mark.req("ORCH-4332", "ORCH-4333")
def test_too_many_errors_take_it_back() -> None:
    """With one failure in four allowed the second ends the trial; its replica gets the old model again and says why."""
    core = trial(99, levels=CanaryLevels(tasks=4, errors_per_mille=250))
    one_after_another(core, 1)
    for attempt in (2, 4):
        core.submit(f"bad{attempt}")
        core.fail(attempt, "engine_error")
        core.complete(attempt + 1)
    pool = core.pool()
    assert pool.last_error == "canary of new taken back: 2 of 2 tasks failed, 250 in 1000 may"
    assert (pool.canary, pool.model_ref, pool.previous_model_ref) == (None, "m", None)
    core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
    assert core.wanted(fx.StartReplica)[-1] == fx.StartReplica(ReplicaId("pr1"), "m")
    core.ready("pr1")
    assert pool.ready


@pytest.mark.req("ORCH-4332")
@pytest.mark.parametrize(
    ("outcome", "ended", "errors"),
    [("wall", 1, 1), ("cancel", 0, 0), ("rejected", 0, 0), ("overloaded", 0, 0), ("done", 1, 0)],
)
def test_what_counts_as_its_failure(outcome: str, ended: int, errors: int) -> None:
    """What its caller did, or a full engine, says nothing about the model."""
    core = trial(99)
    one_after_another(core, 1)
    core.submit("t")
    match outcome:
        case "wall":
            core.handle(ev.TimerFired(("wall", key("t"))), after_ms=60_000)
        case "cancel":
            core.cancel("t")
        case "rejected":
            core.fail(2, "rejected")
        case "overloaded":
            core.fail(2, "overloaded")
        case _:
            core.complete(2)
    assert (canary(core).ended, canary(core).errors) == (ended, errors)


@pytest.mark.req("ORCH-4332", "ORCH-4333")
def test_late_first_tokens_take_it_back() -> None:
    """Counted from the start on the replica, of interactive tasks; batch may take its time."""
    levels = CanaryLevels(tasks=10, first_token_ms=100, late_percent=10)
    core = trial(99, levels=levels)
    one_after_another(core, 1)

    def one(name: str, wait_ms: int, priority: str) -> None:
        core.submit(name, priority=priority)
        core.now_ms += wait_ms
        attempt = len(core.starts)
        core.chunk(attempt)
        core.complete(attempt)

    one("slow-batch", 5_000, "batch")
    one("in-time", 100, "interactive")
    one("late-1", 101, "interactive")
    assert (canary(core).first_tokens, canary(core).late) == (2, 1)
    one("late-2", 101, "interactive")
    told = "canary of new taken back: 2 of 3 first tokens took more than 100 ms, 10 percent may"
    assert core.pool().last_error == told


@pytest.mark.req("ORCH-4333")
@pytest.mark.parametrize("when", ["starting", "trying"])
def test_a_replica_that_fails_with_it_takes_it_back(when: str) -> None:
    """Whether it does not come up or is lost later: the old model comes back at once, without backoff."""
    core = Driver(pool_settings(replicas=2))
    ask(core, 50)
    core.handle(ev.ModelVerified(P, "new", ""))
    core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
    if when == "trying":
        core.ready("pr1")
    core.handle(ev.ReplicaLost(ReplicaId("pr1"), "exit", "boom"))
    assert core.pool().last_error == "canary of new taken back: pr1 was lost: exit: boom"
    assert core.wanted(fx.StartReplica)[-1] == fx.StartReplica(ReplicaId("pr1"), "m")
    core.ready("pr1")
    assert core.pool().canary is None
    assert core.pool().replicas[ReplicaId("pr1")].ready


@pytest.mark.req("ORCH-4333")
def test_the_old_engine_dying_while_it_drains_is_not_the_new_models_failure() -> None:
    """It gets the new model then; the restart that was planned for the old one does nothing more."""
    core = Driver(pool_settings(replicas=2))
    core.submit("a")
    core.submit("b")
    ask(core, 50)
    core.handle(ev.ModelVerified(P, "new", ""))
    core.handle(ev.ReplicaLost(ReplicaId("pr1"), "exit", "old engine"))
    assert core.pool().canary is not None
    core.handle(ev.TimerFired(("restart", "pr1")), after_ms=1_100)
    assert core.wanted(fx.StartReplica)[-1] == fx.StartReplica(ReplicaId("pr1"), "new")
    core.close(2)
    assert core.wanted(fx.StopReplica) == []
    core.ready("pr1")
    assert core.pool().canary is not None


@pytest.mark.req("ORCH-4333")
def test_a_canary_without_equal_outputs_is_taken_back() -> None:
    """Where the pool has proven its promise, a model that cannot keep it gets no task."""
    core = Driver(pool_settings(replicas=2))
    ask(core, 50)
    core.handle(ev.ModelVerified(P, "new", ""))
    core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
    core.ready("pr1", strict_proven=False)
    assert core.pool().last_error == "canary of new taken back: pr1 gives no equal outputs with it"


@pytest.mark.req("ORCH-4333")
@pytest.mark.parametrize("when", ["draining", "stopping", "trying"])
def test_one_rollback_takes_it_back(when: str) -> None:
    """Whatever it has come to, the pool serves on with what it has; there is no error and nothing to go back to."""
    core = Driver(pool_settings(replicas=2))
    core.submit("a")
    core.submit("b")
    ask(core, 50)
    core.handle(ev.ModelVerified(P, "new", ""))
    if when != "draining":
        core.complete(2)
    if when == "trying":
        core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
        core.ready("pr1")
    core.handle(ev.RollbackRequested(core.reply(), P))
    assert core.wanted(fx.Done)[-1].detail["model_ref"] == "m"
    pool = core.pool()
    assert (pool.canary, pool.last_error, pool.previous_model_ref) == (None, None, None)
    if when == "draining":
        core.complete(2)
        assert core.wanted(fx.StopReplica) == []
    else:
        core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
        assert core.wanted(fx.StartReplica)[-1] == fx.StartReplica(ReplicaId("pr1"), "m")
        core.ready("pr1")
    assert pool.replicas[ReplicaId("pr1")].ready


@pytest.mark.req("ORCH-2101", "ORCH-4333")
def test_a_drain_takes_the_canary_back_first() -> None:
    """Who drains a pool is not asked to decide about its canary before."""
    core = trial(50)
    core.handle(ev.DrainRequested(core.reply(), P, 1_000))
    assert (core.pool().canary, core.pool().mode) == (None, "drained")
    assert core.pool().last_error == "canary of new taken back: the pool is drained"


@pytest.mark.req("ORCH-4145")
def test_a_canary_keeps_nobody_waiting_for_broken_replicas() -> None:
    """When all others rest, who waits is told to come later, though the new model is up."""
    core = trial(10, breaker_failures=1)
    core.submit("a")
    core.submit("b")
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "boom"))
    assert {f.ended.outcome for f in core.wanted(fx.Finish)} == {Outcome.POOL_UNAVAILABLE}
    assert not core.pool().ready
