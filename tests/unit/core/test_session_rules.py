"""Turns, warmth and time of sessions, and that only accepted tasks make one."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from orchqueue.core.sessions import Sessions
from orchqueue.core.settings import SessionLimits
from tests.unit.core.driving import TENANT, Driver, key, pool_settings

S, OTHER = (TENANT, "s"), (TENANT, "other")
R, Q = ReplicaId("r"), ReplicaId("q")


@pytest.mark.req("ORCH-3021", "ORCH-3022")
def test_turns_are_counted_within_the_time_of_a_session() -> None:
    """The first accepted turn begins it, its end does not move, and after it a new one begins."""
    sessions = Sessions(SessionLimits(ttl_ms=100, max_turns=2))
    assert (sessions.turns_left(S, 0), len(sessions)) == (2, 0)
    assert sessions.count_turn(S, 0).expires_at_ms == 100
    assert sessions.count_turn(S, 50).expires_at_ms == 100
    assert sessions.turns_left(S, 99) == 0
    with pytest.raises(AssertionError, match="session s has no turn left"):
        sessions.count_turn(S, 99)
    assert sessions.turns_left(S, 100) == 2
    assert sessions.count_turn(S, 100).turns == 1


@pytest.mark.req("ORCH-4245")
def test_a_turn_taken_back_leaves_what_was_before() -> None:
    """The last one takes the session with it; one of a session that is gone takes nothing."""
    sessions = Sessions(SessionLimits())
    sessions.count_turn(S, 0)
    sessions.count_turn(S, 0)
    sessions.take_turn_back(S)
    assert sessions.turns_left(S, 0) == 7
    sessions.take_turn_back(S)
    assert len(sessions) == 0
    sessions.take_turn_back(S)
    assert len(sessions) == 0


@pytest.mark.req("ORCH-3021", "ORCH-4248")
def test_a_session_is_forgotten_when_its_time_is_over_and_not_before() -> None:
    """Expiry gives the session that went, and nothing where there is none or where it still lives."""
    sessions = Sessions(SessionLimits(ttl_ms=100))
    session = sessions.count_turn(S, 0)
    assert sessions.expire(S, 99) is None
    assert sessions.find(S, 99) is session
    assert sessions.find(S, 100) is None
    assert sessions.expire(S, 100) is session
    assert sessions.expire(S, 100) is None


@pytest.mark.req("ORCH-3023")
def test_warmth_is_noted_of_living_sessions_and_lost_with_their_replica() -> None:
    """A turn that ends after its session's time leaves nothing; another replica's loss leaves it warm."""
    sessions = Sessions(SessionLimits(ttl_ms=100))
    session, other = sessions.count_turn(S, 0), sessions.count_turn(OTHER, 0)
    sessions.warm(S, R, 7, 50)
    sessions.warm(OTHER, Q, 9, 100)
    assert (session.warm_on, session.cached_tokens) == (R, 7)
    assert (other.warm_on, other.cached_tokens) == (None, 0)
    sessions.chill(Q)
    assert session.warm_on == R
    sessions.chill(R)
    assert [session.warm_on, session.cached_tokens] == [None, 0]


@pytest.mark.req("ORCH-2005")
def test_deleting_a_session_evicts_its_context_where_there_is_any() -> None:
    """A warm one's replica is told, a cold or unknown one is as good as gone; work in flight goes on."""
    core = Driver(pool_settings(strict=False))
    core.submit("first", session_id="s")
    core.complete(1)
    core.submit("running", session_id="s")
    warm = core.handle(ev.SessionDeleteRequested(core.reply(), S))
    assert core.wanted(fx.EvictKv, warm) == [fx.EvictKv(ReplicaId("pr0"), S)]
    assert fx.ClearTimer(("session", "acme/s")) in warm
    assert core.task("running").ended is None
    again = core.handle(ev.SessionDeleteRequested(core.reply(), S))
    assert (core.wanted(fx.EvictKv, again), len(core.wanted(fx.Done, again))) == ([], 1)


@pytest.mark.req("ORCH-4189", "ORCH-4245")
def test_withdrawing_what_is_not_known_changes_nothing() -> None:
    """A task that was forgotten meanwhile, or never was, has nothing to take back."""
    core = Driver()
    core.submit("t", session_id="s")
    core.handle(ev.JournalStalled("disk full"))
    assert core.handle(ev.AcceptsWithdrawn((key("never"),))) == []
    assert core.core.state.sessions.turns_left(S, core.now_ms) == 7
