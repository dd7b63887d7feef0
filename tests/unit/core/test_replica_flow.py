"""Which replicas are let in, and how often one comes back."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.settings import Supervision
from tests.unit.core.driving import Driver, pool_settings


@pytest.mark.req("ORCH-4136")
@pytest.mark.parametrize(
    ("facts", "word"),
    [({"known_answer": "x"}, "known answer"), ({"model_digest": "x"}, "model"), ({"engine_version": "x"}, "version")],
)
def test_a_replica_that_differs_from_its_siblings_is_refused(facts: dict[str, object], word: str) -> None:
    """It takes no task, and its last error says in what it differs and from whom."""
    core = Driver(pool_settings(replicas=2), up=False)
    core.ready("pr0", known_answer="a")
    core.ready("pr1", **({"known_answer": "a"} | facts))
    odd = core.core.state.replicas[ReplicaId("pr1")]
    assert odd.state is ReplicaState.BACKOFF
    assert odd.last_error is not None
    assert word in odd.last_error
    assert "pr0" in odd.last_error


@pytest.mark.req("ORCH-4136")
@pytest.mark.parametrize("failure", ["lost", "overloaded"])
def test_a_sibling_that_rests_for_a_moment_still_counts(failure: ev.AttemptFailure) -> None:
    """One that is probed or cools off takes attempts again soon, so no other version comes in meanwhile."""
    core = Driver(pool_settings(replicas=2), up=False)
    core.ready("pr0")
    core.submit("a")
    core.fail(1, failure)
    assert not core.core.state.replicas[ReplicaId("pr0")].ready
    core.ready("pr1", engine_version="x")
    assert core.core.state.replicas[ReplicaId("pr1")].state is ReplicaState.BACKOFF


@pytest.mark.req("ORCH-4136")
def test_other_engine_versions_are_let_in_where_the_pool_allows_them() -> None:
    """The operator may mix versions in a pool that promises no equal outputs."""
    core = Driver(pool_settings(replicas=2, strict=False, require_same_engine_version=False), up=False)
    core.ready("pr0")
    core.ready("pr1", engine_version="x")
    assert core.core.state.replicas[ReplicaId("pr1")].ready


@pytest.mark.req("ORCH-4144")
def test_restarts_of_a_replica_are_bounded_by_the_minute() -> None:
    """However short its backoff, no minute sees more starts than are allowed."""
    quick = Supervision(backoff_initial_ms=1, backoff_max_ms=1, breaker_failures=100, restarts_per_minute=3)
    core = Driver(pool_settings(supervision=quick))
    began = core.now_ms
    starts = []
    for _ in range(7):
        core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "scripted"))
        due = [t for t in core.wanted(fx.SetTimer) if t.key == ("restart", "pr0")][-1].at_ms
        core.handle(ev.TimerFired(("restart", "pr0")), after_ms=due - core.now_ms)
        starts.append(core.now_ms - began)
    assert starts[2] < 60_000
    assert all(later - earlier >= 60_000 for earlier, later in zip(starts, starts[3:], strict=False))
