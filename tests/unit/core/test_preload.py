"""A pool that is not preloaded starts its replicas at its first task, and takes tasks until then."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import views
from orchqueue.core.forecast import FALLBACK_START_MS
from orchqueue.core.ids import PoolId, ReplicaId, TaskId
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Quotas, Settings, TenantSettings
from tests.unit.core.driving import TENANT, Driver, pool_settings

ASLEEP = pool_settings(replicas=2, preload=False)
P = PoolId("p")


def started(core: Driver) -> list[str]:
    """Name the replicas that were started."""
    return [e.replica_id for e in core.wanted(fx.StartReplica)]


@pytest.mark.req("ORCH-4138", "ORCH-4133")
def test_nothing_is_started_before_the_first_task() -> None:
    """The pool says that it takes tasks; the first one starts every replica, is told how long that may take, and waits."""
    core = Driver(ASLEEP, pool_settings("q", model_ref="other"), up=False)
    assert started(core) == ["qr0"]
    assert [pool.ready for pool in views.pools(core.core.state)] == [True, False]
    core.submit("a", model_ref="m")
    assert started(core) == ["qr0", "pr0", "pr1"]
    (accept,) = core.wanted(fx.Accept)
    assert (accept.predicted_start_ms, accept.basis) == (FALLBACK_START_MS, "none")
    told = core.explained("a")
    assert told is not None
    assert told.waiting is not None
    assert told.waiting.waits_for == "pool_loading"
    core.submit("b", model_ref="m")
    assert len(core.wanted(fx.Accept)) == 2, "others may wait for the first start too"
    core.ready("pr0")
    assert core.starts == ["a"]
    assert started(core) == ["qr0", "pr0", "pr1"]


@pytest.mark.req("ORCH-4118", "ORCH-4138")
def test_a_first_start_that_fails_makes_it_a_pool_like_any_other() -> None:
    """Newcomers are refused while nothing is up; who was accepted waits for the next try."""
    core = Driver(pool_settings(preload=False), up=False)
    core.submit("a")
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "boom"))
    core.submit("b")
    assert core.refusal().refusal.outcome is Outcome.POOL_UNAVAILABLE
    core.handle(ev.TimerFired(("restart", "pr0")), after_ms=2_000)
    core.ready("pr0")
    assert core.starts == ["a"]


@pytest.mark.req("ORCH-4138")
def test_one_that_was_up_and_is_lost_is_not_asleep() -> None:
    """Then the pool's state says that nothing is up."""
    core = Driver(pool_settings(preload=False), up=False)
    core.submit("a")
    core.ready("pr0")
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "boom"))
    assert not views.pools(core.core.state)[0].ready


@pytest.mark.req("ORCH-4138", "ORCH-4331")
def test_a_reload_starts_it_and_a_canary_has_nothing_to_stand_beside() -> None:
    """A whole reload has to prove the model, so it starts the engines; a trial without any other engine is refused."""
    core = Driver(ASLEEP, up=False)
    core.handle(ev.ReloadRequested(core.reply(), P, "new", 50))
    assert "no replica is up" in core.refusal().refusal.message
    core.handle(ev.ReloadRequested(core.reply(), P, "new"))
    core.handle(ev.ModelVerified(P, "new", ""))
    assert core.wanted(fx.StartReplica) == [fx.StartReplica(ReplicaId(n), "new") for n in ("pr0", "pr1")]
    assert not views.pools(core.core.state)[0].ready


@pytest.mark.req("ORCH-4138")
def test_a_drained_one_stays_asleep() -> None:
    """It takes no task, so none wakes it."""
    core = Driver(ASLEEP, up=False)
    core.handle(ev.DrainRequested(core.reply(), P, 0))
    core.submit("a")
    assert core.refusal().refusal.outcome is Outcome.POOL_UNREADY
    assert started(core) == []


@pytest.mark.req("ORCH-4138", "ORCH-4011")
def test_a_recovered_task_wakes_its_pool_once() -> None:
    """What an earlier life accepted is as good as a first task, though it comes before the start of the others."""
    core = Orchestrator(Settings((ASLEEP, pool_settings("q", model_ref="other"))))
    accepted = Accepted(TENANT, TaskId("a"), TaskSpec(prompt="hi", seed=1), P, True, "v1", 3, 500, model_ref="m")
    effects = [*core.handle(1_000, ev.TaskRecovered(accepted, None, "")), *core.begin(1_000)]
    assert [e.replica_id for e in effects if isinstance(e, fx.StartReplica)] == ["pr0", "pr1", "qr0"]


@pytest.mark.req("ORCH-4138", "ORCH-2007")
def test_a_quota_that_is_full_while_nothing_is_up_frees_after_the_start() -> None:
    """The time to come back covers the start of an engine."""
    quotas = Quotas(concurrent_tasks=1)
    core = Driver(pool_settings(preload=False), up=False, tenants=(TenantSettings(TENANT, quotas=quotas),))
    core.submit("a")
    core.submit("b")
    refusal = core.refusal().refusal
    assert refusal.outcome is Outcome.REJECTED_QUOTA
    assert (refusal.retry_after_ms or 0) >= FALLBACK_START_MS
