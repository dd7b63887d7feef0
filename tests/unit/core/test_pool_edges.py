"""What operators ask of a pool at a moment when it cannot be, and what comes too late."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.request import PlacementWish
from orchqueue.core.settings import TenantSettings
from tests.unit.core.driving import Driver, both_classes, pool_settings

P = PoolId("p")
PINNED = PlacementWish("pin", ("a",))


def reload(core: Driver, model_ref: str) -> None:
    core.handle(ev.ReloadRequested(core.reply(), P, model_ref))
    core.handle(ev.ModelVerified(P, model_ref, ""))


@pytest.mark.req("ORCH-2101", "ORCH-2102", "ORCH-3034")
@pytest.mark.parametrize("ask", ["drain", "reload", "rollback"])
def test_a_pool_that_is_not_there_is_unknown(ask: str) -> None:
    """The answer points to the name in the path and lists the names there are."""
    core = Driver()
    none = PoolId("none")
    events: dict[str, ev.AnyEvent] = {
        "drain": ev.DrainRequested(core.reply(), none, 1_000),
        "reload": ev.ReloadRequested(core.reply(), none, "m"),
        "rollback": ev.RollbackRequested(core.reply(), none),
    }
    core.handle(events[ask])
    refusal = core.refusal().refusal
    assert refusal.outcome is Outcome.UNKNOWN_ID
    assert [(f.pointer, f.message) for f in refusal.faults] == [("/path/pool_id", "no such pool; pools: p")]


@pytest.mark.req("ORCH-2101", "ORCH-4127")
@pytest.mark.parametrize("verified", [False, True])
def test_a_pool_that_is_being_reloaded_is_not_drained(verified: bool) -> None:
    """The operator is told to wait, and the reload goes on, while the model is checked and while it is swapped."""
    core = Driver()
    core.handle(ev.ReloadRequested(core.reply(), P, "new"))
    if verified:
        core.handle(ev.ModelVerified(P, "new", ""))
    mode = core.pool().mode
    core.handle(ev.DrainRequested(core.reply(), P, 1_000))
    refusal = core.refusal().refusal
    assert (refusal.outcome, refusal.pool_id) == (Outcome.POOL_UNREADY, "p")
    assert refusal.retry_after_ms is not None
    assert refusal.retry_after_ms >= 1
    assert (core.pool().mode, core.pool().drain_at_ms) == (mode, None)


@pytest.mark.req("ORCH-4123")
def test_an_empty_pool_stays_drained_when_it_is_drained_again() -> None:
    """The second drain is done at once and sets no timer."""
    core = Driver()
    core.handle(ev.DrainRequested(core.reply(), P, 1_000))
    assert core.pool().mode == "drained"
    effects = core.handle(ev.DrainRequested(core.reply(), P, 500))
    assert [d.detail["mode"] for d in core.wanted(fx.Done, effects)] == ["drained"]
    assert core.wanted(fx.SetTimer, effects) == []


@pytest.mark.req("ORCH-4128")
def test_a_checksum_that_comes_too_late_changes_nothing() -> None:
    """Nothing is being verified any more, so neither a good nor a bad one begins anything."""
    core = Driver()
    assert core.handle(ev.ModelVerified(P, "new", "")) == []
    assert core.handle(ev.ModelVerified(P, "new", "bad")) == []
    assert (core.pool().mode, core.pool().model_ref, core.pool().last_error) == ("serving", "m", None)


@pytest.mark.req("ORCH-2102")
def test_a_reload_waits_for_replicas_that_still_stop() -> None:
    """One that an earlier, failed reload told to stop is not told again, and starts with the newest model."""
    core = Driver(pool_settings(replicas=2))
    reload(core, "new")
    for name in ("pr0", "pr1"):
        core.handle(ev.ReplicaStopped(ReplicaId(name)))
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "new model fails"))
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "old model fails too"))
    assert core.core.state.replicas[ReplicaId("pr1")].state is ReplicaState.STOPPING
    before = len(core.wanted(fx.StopReplica))
    reload(core, "newer")
    assert len(core.wanted(fx.StopReplica)) == before, "pr0 is down and pr1 stops already"
    core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
    assert core.wanted(fx.StartReplica)[-2:] == [
        fx.StartReplica(ReplicaId("pr0"), "newer"),
        fx.StartReplica(ReplicaId("pr1"), "newer"),
    ]


@pytest.mark.req("ORCH-3038", "ORCH-4270")
def test_a_replica_that_nobody_stopped_is_not_started_anew_by_a_late_word() -> None:
    """`stopped` of a replica that runs, and `lost` or `ready` of one that waits for its restart, change nothing."""
    core = Driver()
    name = ReplicaId("pr0")
    assert core.handle(ev.ReplicaStopped(name)) == []
    assert core.ready(name) == []
    core.handle(ev.ReplicaLost(name, "exit", "once"))
    assert core.handle(ev.ReplicaLost(name, "exit", "twice")) == []
    assert core.ready(name) == []
    replica = core.core.state.replicas[name]
    assert (replica.state, replica.restarts, replica.last_error) == (ReplicaState.BACKOFF, 1, "exit: once")


@pytest.mark.req("ORCH-3038", "ORCH-4164")
def test_a_lost_replica_fails_each_of_its_attempts_once() -> None:
    """One that is being aborted is not aborted again, one without a task ends nothing, and slots stay until the close."""
    core = Driver(pool_settings(slots=2, strict=False))
    core.submit("canceled")
    core.submit("t")
    core.cancel("canceled")
    effects = core.handle(ev.ReplicaLost(ReplicaId("pr0"), "signal", "9"))
    assert [a.attempt_id for a in core.wanted(fx.AbortAttempt, effects)] == [2]
    assert core.wanted(fx.Finish, effects) == []
    assert core.waiting() == ["t"]
    assert len(core.core.state.slots.holders(ReplicaId("pr0"))) == 2


@pytest.mark.req("ORCH-4205", "ORCH-4153")
def test_settings_with_the_same_weights_keep_the_shares() -> None:
    """A batch task that waited through seven interactive starts has not to wait through eight more."""
    core = Driver(pool_settings(classes=both_classes(64)))
    core.submit("running")
    for number in range(20):
        core.submit(f"i{number}")
    core.submit("b", priority="batch")
    for attempt in range(1, 8):
        core.complete(attempt)
    settings = core.core.state.settings
    pools = (msgspec.structs.replace(settings.pools[0], classes=both_classes(65)),)
    core.handle(ev.SettingsReplaced(core.reply(), msgspec.structs.replace(settings, pools=pools)))
    for attempt in range(8, 11):
        core.complete(attempt)
    assert "b" in core.starts


@pytest.mark.req("ORCH-2101", "ORCH-4124")
def test_a_draining_pool_empties_its_own_queue_only() -> None:
    """A slot of it that its own waiting task leaves free is not given to the queue of a sibling."""
    core = Driver(pool_settings("a", 2, strict=False), pool_settings("b", strict=False))
    core.submit("first", session_id="s", placement=PINNED)
    core.complete(1)
    core.submit("short", placement=PINNED)
    assert core.wanted(fx.StartAttempt)[-1].replica_id == "ar0", "where the session is warm"
    core.submit("warm", session_id="s", placement=PINNED)
    core.handle(ev.DrainRequested(core.reply(), PoolId("a"), 60_000))
    core.submit("inb")
    core.submit("waits")
    assert core.starts == ["first", "short", "inb"]
    assert (core.waiting("a"), core.waiting("b")) == (["warm"], ["waits"])
    core.complete(2)
    assert core.starts == ["first", "short", "inb", "warm"]


@pytest.mark.req("ORCH-4170")
def test_strict_tasks_wait_while_a_sibling_may_keep_their_promise() -> None:
    """When the replicas of one pool fail the proof, the set's other pool still takes their tasks."""
    core = Driver(pool_settings("a"), pool_settings("b"))
    core.submit("inb", placement=PlacementWish("pin", ("b",)))
    core.submit("ina", placement=PINNED)
    core.submit("t", placement=PlacementWish("prefer", ("a",)))
    core.handle(ev.ReplicaLost(ReplicaId("ar0"), "exit", "scripted"))
    core.handle(ev.TimerFired(("restart", "ar0")))
    core.ready("ar0", strict_proven=False)
    assert core.wanted(fx.Finish) == []
    core.close(2)
    core.complete(1)
    assert core.starts == ["inb", "ina", "t"]


@pytest.mark.req("ORCH-4166", "ORCH-2102")
def test_another_model_begins_with_its_own_rates() -> None:
    """What the old model took says nothing of the new one: its self-test is what predictions rest on."""
    core = Driver()
    core.submit("old", max_tokens=10)
    core.handle(ev.AttemptCompleted(AttemptId(1), "stop", 2, 10, 5, 1_000))
    core.close(1)
    core.handle(ev.ReloadRequested(core.reply(), PoolId("p"), "m2"))
    core.handle(ev.ModelVerified(PoolId("p"), "m2", ""))
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.ready("pr0", slots_total=1, decode_us_per_token=2_000)
    rates = core.core.state.replicas[ReplicaId("pr0")].rates
    assert (rates.basis, rates.at(1).decode_us, rates.overhead_us) == ("selftest", 2_000, 0)


@pytest.mark.req("ORCH-4205", "ORCH-4156")
def test_new_weights_of_tenants_hold_for_what_waits_too() -> None:
    """A tenant that is given twice the weight gets twice the turns at once; each keeps its order."""
    core = Driver()
    core.submit("running")
    for turn in range(4):
        core.submit_of("light", f"l{turn}")
        core.submit_of("heavy", f"h{turn}")
    settings = msgspec.structs.replace(
        core.core.state.settings, tenants=(TenantSettings("heavy", 3), TenantSettings("acme", 2))
    )
    core.handle(ev.SettingsReplaced(core.reply(), settings))
    assert core.task("running").weight == 2
    for attempt in range(1, 10):
        core.complete(attempt, tokens_out=8)
    assert core.starts[1:6] == ["l0", "h0", "h1", "h2", "l1"]
    assert core.core.state.active == {}
