"""Whose a session is, and where its context is."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId, TaskId, Tenant
from orchqueue.core.records import Accepted
from orchqueue.core.request import TaskSpec
from orchqueue.core.sessions import Sessions
from orchqueue.core.settings import SessionLimits
from orchqueue.core.snapshots import SessionPicture
from orchqueue.core.views import session
from tests.unit.core.driving import TENANT, Driver, pool_settings

SESSION = "s"


def picture(core: Driver, name: str = SESSION, tenant: Tenant = TENANT) -> SessionPicture:
    """Look a session up that is there."""
    found = session(core.core.state, (tenant, name), core.now_ms)
    assert found is not None
    return found


def warm_core(**facts: object) -> Driver:
    """Let a session's first turn complete on the only replica."""
    core = Driver(pool_settings(strict=False), up=False)
    core.ready("pr0", **facts)
    core.submit("first", session_id=SESSION)
    core.complete(1, tokens_out=5)
    return core


@pytest.mark.req("ORCH-3036", "ORCH-4246")
def test_two_tenants_have_sessions_of_their_own_under_one_id() -> None:
    """Turns of one do not count for the other."""
    core = Driver()
    core.submit("mine", session_id=SESSION)
    core.submit("mine2", session_id=SESSION)
    other = Tenant("other")
    spec = TaskSpec(prompt="hi", seed=1, max_tokens=8, session_id=SESSION)
    core.handle(ev.TaskSubmitted(core.reply(), TaskId("theirs"), other, spec))
    assert picture(core).turns == 2
    assert picture(core, tenant=other).turns == 1


@pytest.mark.req("ORCH-4247")
def test_a_recovered_task_takes_its_turn_again_and_its_session_lives_no_longer() -> None:
    """The session's end is counted from the acceptance in the earlier life."""
    core = Driver()
    spec = TaskSpec(prompt="hi", seed=1, max_tokens=8, session_id=SESSION)
    accepted = Accepted(TENANT, TaskId("t"), spec, core.pool().pool_id, True, "v1", 2, core.now_ms - 100_000)
    core.handle(ev.TaskRecovered(accepted))
    assert picture(core).turns == 1
    assert picture(core).ttl_ms_remaining == 500_000


@pytest.mark.req("ORCH-3023")
def test_a_session_is_cold_after_its_replica_was_lost() -> None:
    """Its context is gone with the replica, also when that comes back."""
    core = warm_core()
    assert picture(core).kv_warmth
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "scripted"))
    assert not picture(core).kv_warmth
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.ready("pr0")
    assert not picture(core).kv_warmth
    assert picture(core).kv_bytes == 0


@pytest.mark.req("ORCH-3023")
def test_nobody_waits_for_context_that_was_lost() -> None:
    """A turn takes the first free slot once the replica that was warm has been replaced."""
    core = Driver(pool_settings(replicas=2, strict=False))
    core.submit("first", session_id=SESSION)
    core.complete(1)
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "scripted"))
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.ready("pr0")
    core.submit("another")
    core.submit("second", session_id=SESSION)
    assert [start.replica_id for start in core.wanted(fx.StartAttempt)] == ["pr0", "pr0", "pr1"]


@pytest.mark.req("ORCH-4253", "ORCH-4256")
@pytest.mark.parametrize("wish", [{"session_id": "another"}, {"session_id": None}, {"kv_hint": "cold"}])
def test_warmth_ends_when_another_context_takes_the_place(wish: dict[str, object]) -> None:
    """One slot holds one context: whatever runs there next leaves the session cold."""
    core = warm_core()
    assert picture(core).kv_warmth
    core.submit("next", **wish)
    assert not picture(core).kv_warmth


@pytest.mark.req("ORCH-4254")
@pytest.mark.parametrize(("per_token", "expected"), [(0, 0), (1_024, 7 * 1_024)])
def test_the_bytes_of_a_session_are_its_tokens_times_their_cost(per_token: int, expected: int) -> None:
    """Prompt and output are both cached; where the cost of a token is not known nothing is claimed."""
    core = warm_core(kv_bytes_per_token=per_token)
    assert picture(core).kv_bytes == expected


@pytest.mark.req("ORCH-3021", "ORCH-4246")
def test_a_tenant_s_live_sessions_are_its_own_until_they_end() -> None:
    """One that was evicted or whose time is over is not told, the others stay, and of who has none nothing is kept."""
    sessions = Sessions(SessionLimits(ttl_ms=100))
    other = Tenant("other")
    for key, now_ms in (((TENANT, "x"), 0), ((TENANT, "y"), 5), ((TENANT, "z"), 5), ((other, "x"), 5)):
        sessions.count_turn(key, now_ms)
    live = [{key for key, _ in sessions.live_of(TENANT, now_ms)} for now_ms in (99, 100, 104, 105)]
    assert live == [
        {(TENANT, "x"), (TENANT, "y"), (TENANT, "z")},
        {(TENANT, "y"), (TENANT, "z")},
        {(TENANT, "y"), (TENANT, "z")},
        set(),
    ]
    sessions.evict((TENANT, "y"))
    assert [(key, one.turns) for key, one in sessions.live_of(TENANT, 50) if key[1] != "x"] == [((TENANT, "z"), 1)]
    assert list(sessions.live_of(Tenant("nobody"), 50)) == []
    for key in ((TENANT, "x"), (TENANT, "z"), (other, "x"), (other, "never")):
        sessions.evict(key)
    assert (len(sessions), sessions._by_tenant) == (0, {})


@pytest.mark.req("ORCH-4255", "ORCH-4254")
def test_the_engine_s_own_count_replaces_ours_where_it_is_the_session_s() -> None:
    """Of an idle replica with one slot the engine's figure counts; while somebody runs there, or without one, ours stays."""
    core = warm_core(kv_bytes_per_token=1_000)
    replica = ReplicaId("pr0")
    assert picture(core).kv_bytes == 7_000
    core.handle(ev.ReplicaScraped(replica))
    assert picture(core).kv_bytes == 7_000
    core.handle(ev.ReplicaScraped(replica, cached_tokens=6))
    assert picture(core).kv_bytes == 6_000
    core.submit("second", session_id=SESSION)
    core.handle(ev.ReplicaScraped(replica, cached_tokens=90))
    assert picture(core).kv_bytes == 6_000


@pytest.mark.req("ORCH-4255")
def test_a_figure_of_nobodys_context_is_nobodys() -> None:
    """What an engine holds before a session's first turn, for a task without one, or after a loss, changes no session."""
    core = Driver(pool_settings(strict=False), up=False)
    core.ready("pr0", kv_bytes_per_token=1_000)
    core.handle(ev.ReplicaScraped(ReplicaId("pr0"), cached_tokens=5))
    core.submit("first", session_id=SESSION)
    core.complete(1, tokens_out=5)
    core.submit("stranger")
    core.complete(2)
    core.handle(ev.ReplicaScraped(ReplicaId("pr0"), cached_tokens=99))
    sessions = core.core.state.sessions
    found = sessions.find((TENANT, SESSION), core.now_ms)
    assert found is not None
    assert found.cached_tokens == 7
    sessions.measure((TENANT, SESSION), ReplicaId("pr9"), 1, core.now_ms)
    sessions.measure((TENANT, "never"), ReplicaId("pr0"), 1, core.now_ms)
    assert found.cached_tokens == 7


def evictions(core: Driver) -> list[object]:
    """List what each ended task's log line counts."""
    return [note.fields["eviction_events"] for note in core.wanted(fx.Note) if note.event == "task_ended"]


@pytest.mark.req("ORCH-4257")
def test_a_log_line_counts_the_sessions_that_gave_way() -> None:
    """Another context in the only slot evicts the session that was there; its own next turn and a dead session do not count."""
    core = warm_core()
    core.submit("own", session_id=SESSION)
    core.complete(2)
    core.submit("another", session_id="t")
    core.complete(3)
    core.submit("none")
    core.complete(4)
    core.submit("nothing left to lose")
    core.complete(5)
    assert evictions(core) == [0, 0, 1, 1, 0]
    core.submit("again", session_id=SESSION)
    core.complete(6)
    core.core.state.sessions.evict((TENANT, SESSION))
    core.submit("after it ended")
    core.complete(7)
    assert evictions(core) == [0, 0, 1, 1, 0, 0, 0]
