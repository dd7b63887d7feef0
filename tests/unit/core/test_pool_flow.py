"""What operators do to a pool."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.outcome import MEANINGS, Outcome
from tests.unit.core.driving import Driver, both_classes, key, pool_settings

P = PoolId("p")


def reload(core: Driver, model_ref: str) -> None:
    core.handle(ev.ReloadRequested(core.reply(), P, model_ref))
    core.handle(ev.ModelVerified(P, model_ref, ""))


@pytest.mark.req("ORCH-2102")
def test_the_same_model_can_be_loaded_again() -> None:
    """A reload with the model that is there restarts the replicas and ends in serving."""
    core = Driver()
    reload(core, "m")
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.ready("pr0")
    assert core.pool().mode == "serving"
    assert len(core.wanted(fx.StartReplica)) == 2


@pytest.mark.req("ORCH-4128")
def test_an_old_replica_that_dies_while_it_stops_does_not_fail_the_reload() -> None:
    """Only the new model's own failure leads back to the old one."""
    core = Driver()
    reload(core, "new")
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "signal", "killed"))
    core.ready("pr0")
    assert (core.pool().mode, core.pool().model_ref, core.pool().last_error) == ("serving", "new", None)


@pytest.mark.req("ORCH-4128")
def test_no_replica_stays_down_when_old_and_new_model_fail() -> None:
    """When even the old model fails to come back, replicas that were still stopping are started all the same."""
    core = Driver(pool_settings(replicas=2))
    reload(core, "new")
    for name in ("pr0", "pr1"):
        core.handle(ev.ReplicaStopped(ReplicaId(name)))
    core.ready("pr0")
    core.handle(ev.ReplicaLost(ReplicaId("pr1"), "exit", "new model fails"))
    core.handle(ev.ReplicaLost(ReplicaId("pr1"), "exit", "old model fails too"))
    assert core.pool().mode == "serving"
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.ready("pr0")
    assert core.pool().ready
    assert core.wanted(fx.StartReplica)[-1] == fx.StartReplica(ReplicaId("pr0"), "m")


@pytest.mark.req("ORCH-4153")
def test_new_weights_hold_from_the_next_start_on() -> None:
    """Shares begin anew with new weights, so that no old claim outlives them."""
    core = Driver(pool_settings(classes=both_classes(interactive=100)))
    for number in range(20):
        core.submit(f"i{number}")
    core.submit("b", priority="batch")
    core.complete(1)
    settings = core.core.state.settings
    pools = (msgspec.structs.replace(settings.pools[0], classes=both_classes(interactive=8)),)
    core.handle(ev.SettingsReplaced(core.reply(), msgspec.structs.replace(settings, pools=pools)))
    for attempt in range(2, 12):
        core.complete(attempt)
    assert "b" in core.starts


@pytest.mark.req("ORCH-4129")
def test_a_task_that_named_the_old_model_does_not_run_on_the_new_one() -> None:
    """What waited for the replaced model is told so and may be sent again; what named no model runs."""
    core = Driver()
    core.submit("running")
    core.submit("named", model_ref="m")
    core.submit("any")
    reload(core, "new")
    core.complete(1)
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.ready("pr0")
    assert core.starts == ["running", "any"]
    (told,) = [f.ended for f in core.wanted(fx.Finish) if f.key == key("named")]
    assert told.outcome is Outcome.POOL_UNAVAILABLE
    assert told.retry_after_ms is not None


@pytest.mark.req("ORCH-4128")
def test_a_failed_reload_leaves_those_waiting_who_named_the_old_model() -> None:
    """When the old model comes back, they are served by it."""
    core = Driver()
    core.submit("running")
    core.submit("named", model_ref="m")
    reload(core, "new")
    core.complete(1)
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "new model fails"))
    core.ready("pr0")
    assert core.starts == ["running", "named"]


@pytest.mark.req("ORCH-3014", "ORCH-4129")
def test_a_model_replaced_while_a_prompt_was_counted_is_unknown() -> None:
    """The name that was known when the request came is not known any more."""
    core = Driver()
    core.submit("t", model_ref="m", prompt="x" * 300)
    reload(core, "new")
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.ready("pr0")
    core.handle(ev.PromptCounted(key("t"), 10))
    assert [f.pointer for f in core.refusal().refusal.faults] == ["/model_ref"]


@pytest.mark.req("ORCH-4123")
def test_a_drain_is_answered_with_the_deadline_that_holds() -> None:
    """A later deadline than the first is not promised: the answer tells what is left of the shortest."""
    core = Driver()
    core.submit("runs")
    for deadline_ms in (3_000, 9_000, 1_000):
        core.handle(ev.DrainRequested(core.reply(), P, deadline_ms), after_ms=500)
    assert [d.detail["deadline_ms"] for d in core.wanted(fx.Done)] == [3_000, 2_500, 1_000]


@pytest.mark.req("ORCH-3034")
def test_a_rollback_is_answered_with_the_model_that_comes_back() -> None:
    """Nobody has to remember what was served before."""
    core = Driver()
    reload(core, "new")
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.ready("pr0")
    core.handle(ev.RollbackRequested(core.reply(), P))
    assert core.wanted(fx.Done)[-1].detail["model_ref"] == "m"


@pytest.mark.req("ORCH-4120", "ORCH-4127")
def test_a_second_reload_is_told_when_the_first_is_probably_done() -> None:
    """The time rests on how long the replicas took to start before, less what they have taken so far."""
    core = Driver(up=False)
    core.now_ms += 40_000
    core.ready("pr0")
    reload(core, "new")
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.handle(ev.ReloadRequested(core.reply(), P, "newer"), after_ms=10_000)
    assert core.refusal().refusal.retry_after_ms == 30_000


@pytest.mark.req("ORCH-4125")
def test_what_a_drain_leaves_ends_as_unavailable() -> None:
    """At the deadline, and not before, what waits and what runs both end retriable; the slot is kept until the engine has stopped."""
    core = Driver()
    core.submit("runs")
    core.submit("waits")
    core.handle(ev.DrainRequested(core.reply(), PoolId("p"), 5_000))
    assert core.wanted(fx.Finish) == []
    core.handle(ev.TimerFired(("drain", "p")), after_ms=5_000)
    ends = {f.key: f.ended for f in core.wanted(fx.Finish)}
    assert {name: end.outcome for name, end in ends.items()} == {
        key(n): Outcome.POOL_DRAINED for n in ("runs", "waits")
    }
    assert MEANINGS[Outcome.POOL_DRAINED].code == "POOL_UNAVAILABLE"
    assert all(end.retry_after_ms for end in ends.values())
    assert core.pool().mode == "draining"
    core.close(1)
    assert core.pool().mode == "drained"


@pytest.mark.req("ORCH-4128")
@pytest.mark.parametrize("found_when", ["verified", "started"])
def test_a_reload_that_fails_says_why_and_leaves_the_old_model(found_when: str) -> None:
    """Whether the file is bad or the engine does not come up with it, the old model serves and the pool says what happened."""
    core = Driver()
    if found_when == "verified":
        core.handle(ev.ReloadRequested(core.reply(), P, "new"))
        core.handle(ev.ModelVerified(P, "new", "checksum differs"))
        assert len(core.wanted(fx.StopReplica)) == 0
    else:
        reload(core, "new")
        core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
        core.handle(ev.ReplicaLost(ReplicaId("pr0"), "selftest", "checksum differs"))
        core.ready("pr0")
    pool = core.pool()
    assert (pool.mode, pool.model_ref, pool.ready) == ("serving", "m", True)
    assert pool.last_error is not None
    assert "new" in pool.last_error
    assert "checksum differs" in pool.last_error
    core.submit("t", model_ref="m")
    assert core.starts == ["t"]


@pytest.mark.req("ORCH-3034")
def test_a_rollback_needs_a_model_to_go_back_to() -> None:
    """A pool that was never reloaded answers 409 and goes on serving."""
    core = Driver()
    core.handle(ev.RollbackRequested(core.reply(), P))
    assert core.refusal().refusal.meaning.status == 409
    assert core.pool().mode == "serving"
