"""Whether a failed attempt is tried again."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.replica_states import ReplicaState
from tests.unit.core.driving import Driver, pool_settings


def last_outcome(core: Driver) -> Outcome | None:
    ends = core.wanted(fx.Finish)
    return ends[-1].ended.outcome if ends else None


@pytest.mark.req("ORCH-4091", "ORCH-4173")
@pytest.mark.parametrize("failure", ["lost", "overloaded", "engine_error"])
def test_before_the_first_token_a_failure_is_invisible(failure: ev.AttemptFailure) -> None:
    """The task runs again elsewhere; `started` is told once."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t")
    core.fail(1, failure)
    assert [s.replica_id for s in core.wanted(fx.StartAttempt)] == ["pr0", "pr1"]
    assert len(core.wanted(fx.EmitStarted)) == 1
    core.complete(2)
    assert last_outcome(core) is Outcome.COMPLETED


@pytest.mark.req("ORCH-4177")
def test_after_the_first_token_a_lost_engine_ends_the_task() -> None:
    """One WORKER_RESET and no second start, where a stream can neither be computed again nor continued."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t", determinism="best_effort")
    core.chunk(1)
    core.fail(1)
    assert last_outcome(core) is Outcome.ENGINE_LOST
    assert core.starts == ["t"]


@pytest.mark.req("ORCH-4176")
def test_what_the_engine_refuses_is_not_tried_elsewhere() -> None:
    """A request that is wrong for one replica is wrong for all."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t")
    core.fail(1, "rejected")
    assert last_outcome(core) is Outcome.ENGINE_REFUSED
    assert core.starts == ["t"]


@pytest.mark.req("ORCH-4174")
def test_when_every_replica_was_tried_the_task_is_exhausted() -> None:
    """An error of the engine on each replica of the set ends it with REPLICA_EXHAUSTED."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t")
    core.fail(1, "engine_error")
    core.fail(2, "engine_error")
    assert last_outcome(core) is Outcome.REPLICAS_EXHAUSTED
    assert len(core.starts) == 2


@pytest.mark.req("ORCH-4174")
def test_attempts_are_bounded() -> None:
    """Overload everywhere is waited out, but not more than max_attempts times."""
    core = Driver(pool_settings(max_attempts=3))
    core.submit("t")
    for attempt in (1, 2, 3):
        core.fail(attempt, "overloaded")
        core.handle(ev.TimerFired(("cool", "pr0")), after_ms=500)
    assert last_outcome(core) is Outcome.REPLICAS_EXHAUSTED
    assert len(core.starts) == 3


@pytest.mark.req("ORCH-4175")
def test_a_task_that_kills_three_replicas_is_poison() -> None:
    """It stops before it brings the whole pool down."""
    core = Driver(pool_settings(replicas=4))
    core.submit("t")
    for attempt in (1, 2, 3):
        replica = core.wanted(fx.StartAttempt)[-1].replica_id
        core.handle(ev.ReplicaLost(ReplicaId(replica), "signal", "died"))
        core.close(attempt)
    assert last_outcome(core) is Outcome.POISON
    assert len(core.starts) == 3


@pytest.mark.req("ORCH-4143")
def test_a_lost_replica_takes_no_attempt_before_it_was_probed() -> None:
    """A broken connection makes a replica suspect; it is probed, and trusted again when it answers."""
    core = Driver()
    core.submit("t")
    core.fail(1)
    assert core.wanted(fx.ProbeReplica) == [fx.ProbeReplica(ReplicaId("pr0"))]
    assert core.starts == ["t"]
    core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
    assert core.starts == ["t", "t"]


@pytest.mark.req("ORCH-3040", "ORCH-4145")
def test_the_breaker_opens_and_waiting_tasks_are_told() -> None:
    """After five failures in a row the replica rests for the breaker's time, and nobody waits for that."""
    core = Driver()
    core.submit("running")
    core.submit("waiting")
    for number in range(5):
        core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "died"))
        core.close(1)
        if number < 4:
            core.handle(ev.TimerFired(("restart", "pr0")), after_ms=60_000)
    assert {f.ended.outcome for f in core.wanted(fx.Finish)} == {Outcome.POOL_UNAVAILABLE}
    restart = core.wanted(fx.SetTimer)[-1]
    timers = [t for t in core.wanted(fx.SetTimer) if t.key == ("restart", "pr0")]
    assert timers[-1].at_ms == core.now_ms + 300_000, restart
    core.handle(ev.TimerFired(("restart", "pr0")), after_ms=300_000)
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "died again"))
    assert core.core.state.replicas[ReplicaId("pr0")].state is ReplicaState.BROKEN, "one try, then it rests again"
