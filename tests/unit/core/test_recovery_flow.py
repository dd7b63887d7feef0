"""Tasks of an earlier life under another configuration, and what is kept of their limits."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId, TaskId
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import SessionLimits
from tests.unit.core.driving import TENANT, Driver, key, pool_settings


def recover(core: Driver, spec: TaskSpec, pool: str = "p", age_ms: int = 0) -> list[fx.AnyEffect]:
    """Tell of task `t`, accepted in an earlier life."""
    accepted = Accepted(TENANT, TaskId("t"), spec, PoolId(pool), True, "v1", 2, core.now_ms - age_ms)
    return core.handle(ev.TaskRecovered(accepted))


@pytest.mark.req("ORCH-4011")
@pytest.mark.parametrize("pool", ["gone", "p"])
def test_a_task_whose_pool_or_model_is_gone_runs_where_it_fits_now(pool: str) -> None:
    """Its pool was renamed, or serves another model by now: a pool that has its model takes it."""
    core = Driver(pool_settings(model_ref="new"), pool_settings("q"))
    recover(core, TaskSpec(prompt="hi", seed=1, max_tokens=8, model_ref="m"), pool)
    assert core.task("t").pool_id == "q"
    assert core.starts == ["t"]


@pytest.mark.req("ORCH-4011")
def test_a_task_that_fits_nowhere_any_more_is_told_so() -> None:
    """It reaches one end, which says that it may be sent again, and its stream is there to tell it."""
    core = Driver(pool_settings(model_ref="new"))
    effects = recover(core, TaskSpec(prompt="hi", seed=1, max_tokens=8, model_ref="m", deadline_ms=5_000), "gone")
    (finish,) = core.wanted(fx.Finish, effects)
    assert finish.ended.outcome is Outcome.POOL_UNAVAILABLE
    assert finish.ended.message == "its pool is no longer configured; send it again"
    assert core.wanted(fx.OpenStream, effects) == [fx.OpenStream(key("t"))]
    assert core.starts == []


@pytest.mark.req("ORCH-3016", "ORCH-4179")
@pytest.mark.parametrize(("age_ms", "left_ms"), [(2_000, 3_000), (9_000, 0)])
def test_a_deadline_counts_from_the_acceptance_in_the_earlier_life(age_ms: int, left_ms: int) -> None:
    """What was used up before the restart is gone; one that passed meanwhile is due at once."""
    core = Driver()
    effects = recover(core, TaskSpec(prompt="hi", seed=1, max_tokens=8, deadline_ms=5_000), age_ms=age_ms)
    assert fx.SetTimer(("deadline", key("t")), core.now_ms + left_ms) in effects


@pytest.mark.req("ORCH-4247")
def test_a_task_runs_though_its_session_has_no_turn_left_any_more() -> None:
    """It was promised before the limit was lowered, and takes no turn beyond the last."""
    core = Driver(sessions=SessionLimits(max_turns=1))
    spec = TaskSpec(prompt="hi", seed=1, max_tokens=8, session_id="s")
    core.submit("now", session_id="s")
    recover(core, spec)
    assert core.task("t").ended is None
    session = core.core.state.sessions.find((TENANT, "s"), core.now_ms)
    assert session is not None
    assert session.turns == 1
