"""A new model is tried by a counted share of the starts, and every task keeps its model."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import views
from orchqueue.core.decisions import Bound, PoolChanged
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.request import PlacementWish
from orchqueue.core.snapshots import CanaryPicture
from tests.unit.core.driving import Driver, key, pool_settings
from tests.unit.core.trying import LOOSE, P, ask, canary, one_after_another, trial, went


@pytest.mark.req("ORCH-4131")
def test_a_canary_restarts_some_replicas_while_the_pool_serves() -> None:
    """The last replica finishes what it has, gets the new model, and takes tasks when it has proven it; the other goes on."""
    core = Driver(pool_settings(replicas=2))
    core.submit("a")
    core.submit("b")
    assert went(core) == ["pr0", "pr1"]
    ask(core, 10)
    core.handle(ev.ModelVerified(P, "new", ""))
    assert core.wanted(fx.StopReplica) == []
    core.complete(1)
    core.submit("c")
    assert went(core)[-1] == "pr0"
    core.complete(2)
    assert core.wanted(fx.StopReplica) == [fx.StopReplica(ReplicaId("pr1"))]
    core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
    assert core.wanted(fx.StartReplica)[-1] == fx.StartReplica(ReplicaId("pr1"), "new")
    assert core.pool().ready
    assert views.pools(core.core.state)[0].canary == CanaryPicture("new", 10, ("pr1",), False, 0, 0, 0, 0, 0, 0)
    core.ready("pr1")
    assert core.pool().mode == "serving"


@pytest.mark.req("ORCH-4131", "ORCH-4329")
@pytest.mark.parametrize(("percent", "tried"), [(1, 1), (10, 10), (33, 33), (50, 50), (99, 99)])
def test_the_share_is_exact_and_never_exceeded(percent: int, tried: int) -> None:
    """Of a hundred starts exactly the share goes to the new model, and at no time more than that."""
    core = trial(percent)
    there = [name == "pr1" for name in one_after_another(core, 100)]
    assert sum(there) == tried
    for count in range(1, 101):
        assert sum(there[:count]) * 100 <= percent * count
    assert (canary(core).starts, canary(core).tried) == (100, tried)


@pytest.mark.req("ORCH-4329")
def test_the_other_replicas_do_not_wait_for_a_slow_canary() -> None:
    """Where the new model owes a start but has no free slot, the old one goes on; the debt is paid later."""
    core = trial(50)
    core.submit("a")
    core.submit("b")
    assert went(core) == ["pr0", "pr1"]
    core.complete(1)
    for attempt in (3, 4, 5):
        core.submit(f"c{attempt}")
        core.complete(attempt)
    assert went(core) == ["pr0", "pr1", "pr0", "pr0", "pr0"]
    core.complete(2)
    assert one_after_another(core, 5) == ["pr1", "pr1", "pr1", "pr0", "pr1"]


@pytest.mark.req("ORCH-4329")
def test_a_share_that_is_not_owed_is_not_taken() -> None:
    """A free replica of the new model lets tasks wait rather than take more than its share."""
    core = trial(10)
    core.submit("a")
    core.submit("b")
    assert went(core) == ["pr0"]
    explained = core.explained("b")
    assert explained is not None
    assert explained.waiting is not None
    assert (explained.waiting.waits_for, explained.waiting.slots_total) == ("slot", 1)
    assert explained.waiting.predicted_start_ms > 0
    core.complete(1)
    assert went(core) == ["pr0", "pr0"]


@pytest.mark.req("ORCH-4131")
@pytest.mark.parametrize(("replicas", "percent", "count"), [(2, 99, 1), (4, 10, 1), (4, 30, 2), (4, 99, 3), (3, 34, 2)])
def test_as_many_replicas_as_the_share_needs_try_it(replicas: int, percent: int, count: int) -> None:
    """At least one, and never all."""
    assert len(canary(trial(percent, replicas)).replica_ids) == count


@pytest.mark.req("ORCH-4330")
def test_who_named_a_model_gets_that_one() -> None:
    """Such tasks are no part of the share and never run on what is tried, which has no name for them yet."""
    core = trial(99)
    assert set(one_after_another(core, 5, model_ref="m")) == {"pr0"}
    assert canary(core).starts == 0
    core.submit("early", model_ref="new")
    assert [fault.pointer for fault in core.refusal().refusal.faults] == ["/model_ref"]


@pytest.mark.req("ORCH-4330")
def test_a_task_that_failed_there_without_text_goes_to_the_old_model() -> None:
    """Nobody notices, and it is not tried on the new model again."""
    core = trial(99, 3)
    core.submit("a")
    core.complete(1)
    core.submit("b")
    there = went(core)[-1]
    assert there in canary(core).replica_ids
    core.fail(2, "engine_error")
    assert went(core)[-1] == "pr0"
    assert (canary(core).ended, canary(core).errors) == (1, 1)


@pytest.mark.req("ORCH-4330")
def test_a_task_tried_in_vain_by_the_old_model_does_not_wait_for_the_new_one() -> None:
    """Where its only replica was tried, that one may be tried again: the canary's are no part of the choice."""
    core = trial(1)
    core.submit("a")
    core.fail(1, "engine_error")
    assert went(core) == ["pr0", "pr0"]


@pytest.mark.req("ORCH-4330", "ORCH-4368")
@pytest.mark.parametrize(("percent", "place"), [(99, "pr1"), (1, "pr0")])
def test_text_goes_on_only_with_its_model(percent: int, place: str) -> None:
    """A task whose attempt failed after some text goes back to the model that made it, whatever the share."""
    core = trial(percent)
    one_after_another(core, 1)
    core.submit("x")
    assert went(core) == ["pr0", place]
    core.chunk(2, "text")
    core.fail(2, "engine_error")
    assert went(core) == ["pr0", place, place]
    assert canary(core).starts == 2


@pytest.mark.req("ORCH-4330", "ORCH-4368")
def test_text_of_a_model_that_is_taken_back_is_continued_by_nobody() -> None:
    """Its task ends, retriable, as one whose engine was lost, when the replica has come back with the old model."""
    core = trial(99)
    one_after_another(core, 1)
    core.submit("x")
    core.chunk(2, "text")
    core.fail(2, "lost")
    core.handle(ev.RollbackRequested(core.reply(), P))
    core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
    core.ready("pr1")
    (told,) = [f.ended.outcome for f in core.wanted(fx.Finish) if f.key == key("x")]
    assert told is Outcome.ENGINE_LOST
    assert went(core) == ["pr0", "pr1"]


@pytest.mark.req("ORCH-4330", "ORCH-3047")
def test_a_canary_is_of_another_replica_set() -> None:
    """Siblings hand no task to it, though its pool is theirs; known answers are compared among equal models only."""
    core = Driver(pool_settings("p", 2, canary=LOOSE), pool_settings("q", 1))
    ask(core, 99)
    core.handle(ev.ModelVerified(P, "new", ""))
    core.handle(ev.ReplicaStopped(ReplicaId("pr1")))
    state, pool = core.core.state, core.pool()
    regular, tried = pool.replicas[ReplicaId("pr0")], pool.replicas[ReplicaId("pr1")]
    assert pool.key_of(regular) == pool.set_key == core.pool("q").set_key
    assert pool.key_of(tried) != pool.set_key
    core.ready("pr1", known_answer="other")
    assert tried.ready
    assert pool.key_of(tried) != pool.set_key
    assert state.siblings(core.pool("q")) == [pool]
    for name in ("a", "b", "c"):
        core.submit(name, placement=PlacementWish("prefer", ("q",)))
    assert sorted(went(core)) == ["pr0", "qr0"]


@pytest.mark.req("ORCH-4331")
@pytest.mark.parametrize(
    ("replicas", "before", "model", "told"),
    [
        (1, None, "new", "has 1 replica"),
        (2, ev.DrainRequested, "new", "is drained"),
        (2, None, "m", "serves m already"),
    ],
)
def test_where_no_canary_can_be(replicas: int, before: type[ev.DrainRequested] | None, model: str, told: str) -> None:
    """The answer is 409 with the reason, and nothing is verified or stopped."""
    core = Driver(pool_settings(replicas=replicas))
    if before is not None:
        core.handle(before(core.reply(), P, 0))
    ask(core, 50, model)
    refusal = core.refusal().refusal
    assert refusal.meaning.status == 409
    assert told in refusal.message
    assert core.wanted(fx.VerifyModel) == []


@pytest.mark.req("ORCH-4331")
def test_a_bad_file_is_not_even_tried() -> None:
    """A model whose checksum is wrong stops no replica."""
    core = Driver(pool_settings(replicas=2))
    ask(core, 50)
    core.handle(ev.ModelVerified(P, "new", "checksum differs"))
    assert (core.pool().canary, core.pool().mode) == (None, "serving")
    assert core.pool().last_error == "reload of new refused: checksum differs"
    assert core.wanted(fx.StopReplica) == []


@pytest.mark.req("ORCH-4127", "ORCH-4334")
def test_a_canary_is_a_reload_under_way() -> None:
    """Another reload waits, also the whole one of the same model while its replicas come up."""
    core = Driver(pool_settings(replicas=2))
    ask(core, 50)
    core.handle(ev.ModelVerified(P, "new", ""))
    for percent, model in ((100, "other"), (50, "other"), (100, "new"), (20, "new")):
        ask(core, percent, model)
        assert core.refusal().refusal.outcome is Outcome.POOL_UNREADY
        assert "tries new" in core.refusal().refusal.message


@pytest.mark.req("ORCH-4335")
def test_explanations_and_the_log_tell_of_the_canary() -> None:
    """The pool's changes name what is tried; an attempt there says so, and one elsewhere why not there."""
    core = trial(50)
    one_after_another(core, 2)
    tried = [(d.canary_model_ref, d.canary_percent) for d in core.decided("p") if isinstance(d, PoolChanged)]
    assert tried == [(None, None), ("new", 50), ("new", 50)]
    bound = {d.replica_id: d for n in ("t0", "t1") for d in core.decided(key(n)) if isinstance(d, Bound)}
    assert bound[ReplicaId("pr1")].choice == "canary"
    assert [c.standing for c in bound[ReplicaId("pr0")].candidates] == ["chosen", "other_model"]
    told = core.explained("t1")
    assert told is not None
    assert any("tries another model with a share of the tasks" in line for line in told.story)
