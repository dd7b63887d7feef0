"""What was accepted in other circumstances still reaches its end."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId, TaskId
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted
from orchqueue.core.request import TaskSpec
from tests.unit.core.driving import TENANT, Driver, key, pool_settings


def recovered(name: str, *, strict: bool = True, accepted_at_ms: int = 999_000) -> ev.TaskRecovered:
    """Describe a waiting task of an earlier life."""
    spec = TaskSpec(prompt="hi", seed=1, max_tokens=8)
    return ev.TaskRecovered(
        Accepted(TENANT, TaskId(name), spec, PoolId("p"), strict, "v1", 3, accepted_at_ms), was_bound=False
    )


@pytest.mark.req("ORCH-3047", "ORCH-4011")
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
