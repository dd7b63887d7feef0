"""Pictures of the core: true at the moment they are taken, and taking them changes nothing."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import views
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId
from orchqueue.core.snapshots import PoolPicture, TaskPicture
from tests.unit.core.driving import TENANT, Driver, both_classes, key, pool_settings

R = ReplicaId("pr0")


def picture(core: Driver, name: str) -> TaskPicture:
    """Look at a task that is known."""
    found = views.task(core.core.state, key(name), core.now_ms)
    assert found is not None
    return found


def pool(core: Driver) -> PoolPicture:
    """Look at the only pool."""
    (found,) = views.pools(core.core.state)
    return found


@pytest.mark.req("ORCH-4002")
def test_a_task_is_pictured_in_each_phase_of_its_life() -> None:
    """Position and prediction only while it waits, the replica only while it runs, the end when it ended."""
    core = Driver()
    core.submit("t")
    core.submit("next")
    running, waiting = picture(core, "t"), picture(core, "next")
    assert (running.state, running.replica_id, running.queue_position) == ("running", R, None)
    assert running.started_at_ms == core.now_ms
    assert (waiting.state, waiting.replica_id, waiting.queue_position, waiting.basis) == ("queued", None, 0, "selftest")
    assert waiting.predicted_start_ms is not None
    core.chunk(1)
    core.handle(ev.ReaderAttached(key("t"), 2))
    assert (picture(core, "t").tokens_out, picture(core, "t").readers) == (1, 2)
    core.complete(1, tokens_out=5)
    done = picture(core, "t")
    assert (done.state, done.tokens_out, done.replica_id, done.basis) == ("succeeded", 5, None, "none")
    assert done.ended is not None


@pytest.mark.req("ORCH-4002")
def test_what_was_never_accepted_has_no_picture() -> None:
    """A task whose prompt is being counted is as unknown as one that never was."""
    core = Driver()
    core.submit("counting", prompt="x" * 300)
    assert views.task(core.core.state, key("counting"), core.now_ms) is None
    assert views.task(core.core.state, key("never"), core.now_ms) is None


@pytest.mark.req("ORCH-4002")
def test_ends_are_named_as_the_api_does() -> None:
    """A completed task succeeded, a canceled one is canceled, any other failed."""
    core = Driver()
    for name, attempt in (("a", 1), ("b", 2), ("c", 3)):
        core.submit(name)
        if name == "a":
            core.complete(attempt)
        elif name == "b":
            core.cancel(name)
            core.close(attempt)
        else:
            core.fail(attempt, "rejected")
    assert [picture(core, name).state for name in "abc"] == ["succeeded", "canceled", "failed"]


@pytest.mark.req("ORCH-2103")
def test_a_pool_is_pictured_with_what_waits_and_what_runs() -> None:
    """Depth and running tasks by class; an attempt whose task has ended is no running task, but its slot is not free."""
    core = Driver(pool_settings(slots=2, strict=False, capacity=9, classes=both_classes(64)))
    core.submit("a")
    core.submit("b", priority="batch")
    core.submit("waits", priority="batch")
    core.submit("counted", prompt="x" * 300)
    found = pool(core)
    assert (found.running, found.depths) == ({"interactive": 1, "batch": 1}, {"interactive": 0, "batch": 1})
    assert (found.capacity, found.capacities) == (9, {"interactive": 9, "batch": 9})
    assert (found.mode, found.live, found.ready, found.strict) == ("serving", True, True, False)
    core.cancel("a")
    found = pool(core)
    assert found.running == {"interactive": 0, "batch": 1}
    assert (found.replicas[0].slots_total, found.replicas[0].slots_free) == (2, 0)


@pytest.mark.req("ORCH-2103")
def test_a_pool_tells_why_it_does_not_serve() -> None:
    """A lost replica's error while none is up, that it was drained, and nothing when all is well again."""
    core = Driver()
    assert pool(core).last_error is None
    core.handle(ev.ReplicaLost(R, "cuda", "device lost"))
    down = pool(core)
    assert (down.live, down.ready, down.last_error) == (False, False, "cuda: device lost")
    assert (down.replicas[0].state, down.replicas[0].restarts, down.replicas[0].slots_free) == ("backoff", 1, 0)
    core.handle(ev.TimerFired(("restart", R)))
    assert pool(core).live
    core.ready(R)
    assert (pool(core).ready, pool(core).last_error) == (True, None)
    core.handle(ev.DrainRequested(core.reply(), PoolId("p"), 1))
    drained = pool(core)
    assert (drained.mode, drained.ready, drained.last_error) == ("drained", False, views.DRAINED)
    core.handle(ev.ShutdownBegan())
    assert not pool(core).ready


@pytest.mark.req("ORCH-2103")
def test_a_pool_serves_while_the_model_of_its_reload_is_checked() -> None:
    """Nothing has stopped yet, so it says serving; the error of a failed reload stays visible."""
    core = Driver()
    core.handle(ev.ReloadRequested(core.reply(), PoolId("p"), "new"))
    assert (pool(core).mode, pool(core).ready) == ("serving", True)
    core.handle(ev.ModelVerified(PoolId("p"), "new", "checksum differs"))
    assert pool(core).last_error == "reload of new refused: checksum differs"


@pytest.mark.req("ORCH-2103")
def test_a_replica_is_pictured_with_its_own_figures() -> None:
    """Memory of its devices is added up as far as it is told; what nobody measured is left out."""
    core = Driver(up=False)
    bare = pool(core).replicas[0]
    assert (bare.facts, bare.vram_used_bytes, bare.decode_us_per_token, bare.prefill_us_per_token) == (None,) * 4
    core.ready(R)
    devices = (ev.DeviceFigures("0", 5.0, 10, 3), ev.DeviceFigures("1"), ev.DeviceFigures("2", None, 7))
    core.handle(ev.ReplicaScraped(R, 0.5, devices))
    found = pool(core).replicas[0]
    assert (found.vram_used_bytes, found.kv_usage_ratio, found.devices) == (17, 0.5, devices)
    assert (found.decode_us_per_token, found.prefill_us_per_token) == (1_000, 100)
    assert core.core.state.replicas[R].vram_free_bytes == 3


@pytest.mark.req("ORCH-3041")
def test_first_tokens_are_counted_against_the_objective() -> None:
    """One in time and one late are two seen, one in time."""
    core = Driver(pool_settings(slots=2, strict=False), slo_first_token_ms=100)
    core.submit("early")
    core.submit("late")
    core.handle(ev.ChunksArrived(AttemptId(1), ("a",), 1), after_ms=100)
    core.handle(ev.ChunksArrived(AttemptId(2), ("a",), 1), after_ms=1)
    assert (pool(core).first_tokens_in_time, pool(core).first_tokens_seen) == (1, 2)


@pytest.mark.req("ORCH-2004", "ORCH-4253", "ORCH-4254")
def test_a_session_that_has_left_nothing_is_cold() -> None:
    """Unknown and never finished sessions are not warm, and no bytes are told of them."""
    core = Driver(pool_settings(strict=False))
    assert views.is_warm(core.core.state, (TENANT, "s"), core.now_ms) is False
    assert views.session(core.core.state, (TENANT, "s"), core.now_ms) is None
    core.submit("t", session_id="s")
    found = views.session(core.core.state, (TENANT, "s"), core.now_ms)
    assert found is not None
    assert (found.kv_warmth, found.kv_bytes, found.turns) == (False, 0, 1)


@pytest.mark.req("ORCH-4094", "ORCH-4095")
def test_followers_hear_no_figures_before_there_are_any() -> None:
    """A task that is being counted says nothing, one without a first token has no rate."""
    core = Driver()
    core.submit("counting", prompt="x" * 300)
    core.submit("t")
    core.handle(ev.ReaderAttached(key("counting"), 1))
    core.handle(ev.ReaderAttached(key("t"), 1))
    (told,) = core.wanted(fx.EmitMetrics, core.handle(ev.Ticked(), after_ms=1_000))
    assert (told.key, told.tokens_per_s) == (key("t"), None)


@pytest.mark.req("ORCH-3029", "ORCH-4094")
def test_followers_of_one_pool_hear_what_each_would_hear_alone() -> None:
    """The slots are looked at once for all of them, and nobody's figures change by that."""
    core = Driver()
    for name in ("runs", "a", "b"):
        core.submit(name)
    core.handle(ev.ReaderAttached(key("a"), 1))
    core.handle(ev.ReaderAttached(key("b"), 1))
    both = core.wanted(fx.EmitMetrics, core.handle(ev.Ticked()))
    assert [(e.key, e.queue_position) for e in both] == [(key("a"), 0), (key("b"), 1)]
    assert [e.predicted_start_ms for e in both] == [picture(core, name).predicted_start_ms for name in ("a", "b")]
