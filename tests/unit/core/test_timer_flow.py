"""What a timer does when it is due, and that one which came too late does nothing."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.settings import SessionLimits, Timeouts
from tests.unit.core.driving import TENANT, Driver, key, pool_settings

R = ReplicaId("pr0")
LIMITS = pool_settings(timeouts=Timeouts(wall_ms=10_000, idle_ms=1_000, first_token_ms=2_000))


def fire(core: Driver, kind: str, name: str = "t", after_ms: int = 0) -> list[fx.AnyEffect]:
    """Let a timer of a task be due."""
    return core.handle(ev.TimerFired((kind, key(name))), after_ms)


def outcomes(core: Driver) -> list[Outcome]:
    return [finish.ended.outcome for finish in core.wanted(fx.Finish)]


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize(
    ("kind", "text", "after_ms", "outcome"),
    [
        ("deadline", False, 50, Outcome.DEADLINE_PASSED),
        ("wall", False, 10_000, Outcome.WALL_TIMEOUT),
        ("first_token", False, 2_000, Outcome.FIRST_TOKEN_TIMEOUT),
        ("idle", True, 1_000, Outcome.IDLE_TIMEOUT),
    ],
)
def test_each_limit_ends_a_task_with_its_own_outcome(kind: str, text: bool, after_ms: int, outcome: Outcome) -> None:
    """The engine is told to stop, and the message names the limit."""
    core = Driver(msgspec.structs.replace(LIMITS, max_attempts=1))
    core.submit("t", deadline_ms=50_000)
    if text:
        core.chunk(1)
    effects = fire(core, kind, after_ms=after_ms)
    assert outcomes(core) == [outcome]
    assert core.wanted(fx.AbortAttempt, effects) == [fx.AbortAttempt(AttemptId(1))]
    assert f"{kind}_ms" in core.wanted(fx.Finish)[0].ended.message


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize(
    ("kind", "text", "due_after_ms"), [("wall", False, 10_000), ("first_token", False, 2_000), ("idle", True, 1_000)]
)
def test_a_limit_that_is_not_over_is_set_again(kind: str, text: bool, due_after_ms: int) -> None:
    """A timer one millisecond too early waits for the rest and ends nothing."""
    core = Driver(msgspec.structs.replace(LIMITS, max_attempts=1))
    core.submit("t")
    if text:
        core.chunk(1)
    due_ms = core.now_ms + due_after_ms
    assert fire(core, kind, after_ms=due_after_ms - 1) == [fx.SetTimer((kind, key("t")), due_ms)]
    assert outcomes(core) == []
    fire(core, kind, after_ms=1)
    assert len(outcomes(core)) == 1


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize("kind", ["wall", "first_token", "idle"])
def test_the_limits_of_decoding_do_not_strike_a_waiting_task(kind: str) -> None:
    """A timer left over from an attempt that failed finds the task waiting and lets it be."""
    core = Driver(LIMITS)
    core.submit("running")
    core.submit("t")
    assert fire(core, kind, after_ms=100_000) == []
    assert core.waiting() == ["t"]


@pytest.mark.req("ORCH-3016")
def test_the_first_token_s_limit_does_not_strike_a_streaming_task() -> None:
    """It has its first token; from then on the limit between tokens holds."""
    core = Driver(LIMITS)
    core.submit("t")
    core.chunk(1)
    assert fire(core, "first_token", after_ms=3_000) == []


@pytest.mark.req("ORCH-3014")
def test_no_timer_strikes_a_task_whose_prompt_is_being_counted() -> None:
    """It is not accepted yet, so nothing of it can end."""
    core = Driver()
    core.submit("t", prompt="x" * 300, deadline_ms=10)
    assert fire(core, "deadline", after_ms=20) == []
    assert fire(core, "deadline", "unknown") == []


@pytest.mark.req("ORCH-3026")
def test_who_comes_back_within_the_grace_keeps_the_task() -> None:
    """The grace counts from the last leaving; a reader that is there when it ends, or left later, keeps the task."""
    core = Driver()
    core.submit("t")
    core.handle(ev.ReaderAttached(key("t"), 1))
    core.handle(ev.ReaderAttached(key("t"), 2))
    core.handle(ev.ReaderDetached(key("t"), 1))
    assert not [t for t in core.wanted(fx.SetTimer, core.last) if t.key[0] == "disconnect"], "one still reads"
    core.handle(ev.ReaderDetached(key("t"), 0))
    core.handle(ev.ReaderAttached(key("t"), 1), after_ms=5_000)
    assert fire(core, "disconnect", after_ms=5_000) == [], "somebody reads"
    core.handle(ev.ReaderDetached(key("t"), 0))
    (again,) = fire(core, "disconnect", after_ms=9_999)
    assert again == fx.SetTimer(("disconnect", key("t")), core.now_ms + 1)
    fire(core, "disconnect", after_ms=1)
    assert outcomes(core) == [Outcome.CANCELED_ON_DISCONNECT]
    assert core.handle(ev.ReaderDetached(key("t"), 0)) == [], "who leaves after the end changes nothing"
    assert core.handle(ev.ReaderAttached(key("t"), 1)) == []


@pytest.mark.req("ORCH-3021")
def test_a_session_s_timer_ends_it_only_when_its_time_is_over() -> None:
    """A timer of an earlier session of that name leaves the one that lives now alone."""
    core = Driver(sessions=SessionLimits(ttl_ms=1_000, max_turns=8))
    core.submit("t", session_id="s")
    timer = ev.TimerFired(("session", f"{TENANT}/s"))
    core.handle(timer, after_ms=999)
    assert len(core.core.state.sessions) == 1
    core.handle(timer, after_ms=1)
    assert len(core.core.state.sessions) == 0
    core.handle(timer)
    assert len(core.core.state.sessions) == 0


@pytest.mark.req("ORCH-4083")
def test_an_ended_task_is_forgotten_once_when_its_time_is_over() -> None:
    """Forgetting is recorded, and a second timer finds nothing to forget."""
    core = Driver()
    core.submit("t")
    core.cancel("t")
    assert core.wanted(fx.Forget, fire(core, "retention")) == [fx.Forget(key("t"))]
    assert key("t") not in core.core.state.tasks
    assert fire(core, "retention") == []


@pytest.mark.req("ORCH-3039")
def test_timers_of_a_replica_act_in_the_states_they_were_set_for() -> None:
    """A restart starts what is down and nothing else; stability is noted of what is up and nothing else."""
    core = Driver()
    replica = core.core.state.replicas[R]
    assert core.handle(ev.TimerFired(("restart", R))) == [], "it runs"
    core.handle(ev.ReplicaLost(R, "exit", "scripted"))
    assert replica.failures_in_row == 1
    core.handle(ev.TimerFired(("stable", R)))
    assert replica.failures_in_row == 1, "it is down"
    assert core.wanted(fx.StartReplica, core.handle(ev.TimerFired(("restart", R)))) == [fx.StartReplica(R, "m")]
    assert replica.state is ReplicaState.STARTING
    core.ready(R)
    core.handle(ev.TimerFired(("stable", R)))
    assert replica.failures_in_row == 0


@pytest.mark.req("ORCH-2101", "ORCH-4125")
def test_the_deadline_of_a_drain_that_is_over_ends_nothing() -> None:
    """A timer that was due while the pool came back to serving finds no drain."""
    core = Driver()
    core.submit("t")
    assert core.handle(ev.TimerFired(("drain", "p"))) == []
    assert outcomes(core) == []


@pytest.mark.req("ORCH-3016")
def test_an_unknown_kind_of_timer_does_nothing() -> None:
    """A task goes on when a timer fires that means nothing to it."""
    core = Driver()
    core.submit("t")
    assert fire(core, "idle") == [], "no token came yet"
    assert fire(core, "nonsense") == []
