"""Cancel in every phase: one end, no token after it, the slot kept until the engine has stopped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.task_states import TaskState
from tests.unit.core.driving import Driver, key, pool_settings

PHASES = ("waiting", "bound", "streaming", "requeued", "ended")
A = AttemptId(1)
R = ReplicaId("pr0")


def reach(phase: str) -> Driver:
    """Bring task `t` into a phase; attempt 1 is its own where it has one."""
    core = Driver()
    if phase == "waiting":
        core.submit("other")
        core.submit("t")
        return core
    core.submit("t")
    if phase == "streaming":
        core.chunk(A, "before")
    if phase == "requeued":
        core.fail(A, "overloaded", close=False)
    if phase == "ended":
        core.complete(A)
    return core


@pytest.mark.req("ORCH-2003")
@pytest.mark.parametrize("phase", PHASES)
def test_a_cancel_is_done_in_every_phase(phase: str) -> None:
    """It is answered at once, behind the record of the end, and ends what had not ended."""
    core = reach(phase)
    effects = core.cancel("t")
    kinds = [type(e) for e in effects]
    assert kinds[-1] is fx.Done or fx.Done in kinds
    finishes = core.wanted(fx.Finish, effects)
    assert len(finishes) == (phase != "ended")
    for finish in finishes:
        assert finish.ended.outcome is Outcome.CANCELED_BY_CLIENT
        assert kinds.index(fx.Record) < kinds.index(fx.Finish) < kinds.index(fx.Done)
    aborts = [a.attempt_id for a in core.wanted(fx.AbortAttempt, effects)]
    assert aborts == ([A] if phase in ("bound", "streaming") else [])
    assert core.task("t").state is TaskState.ENDED


AFTERWARDS = st.lists(
    st.sampled_from(["chunk", "completed", "failed", "closed", "cancel", "deadline", "wall", "idle", "lost"]),
    max_size=8,
)


@pytest.mark.req("ORCH-4109", "ORCH-4110")
@settings(max_examples=150, deadline=None)
@given(phase=st.sampled_from(PHASES), afterwards=AFTERWARDS)
def test_nothing_that_comes_after_a_cancel_undoes_it(phase: str, afterwards: list[str]) -> None:
    """Whatever the engine, timers and clients still say, no text and no second end follows."""
    core = reach(phase)
    core.cancel("t")
    before = len(core.log)
    closed = phase in ("waiting", "ended")
    for what in afterwards:
        held_before = A in core.core.state.attempts
        match what:
            case "chunk":
                core.chunk(A)
            case "completed":
                core.handle(ev.AttemptCompleted(A, "stop", 1, 1, 1, 1))
            case "failed":
                core.handle(ev.AttemptFailed(A, "lost", ""))
            case "closed" if phase != "waiting":
                core.close(A)
                closed = True
            case "cancel":
                core.cancel("t")
            case "lost":
                core.handle(ev.ReplicaLost(R, "exit", ""))
            case "deadline" | "wall" | "idle":
                core.handle(ev.TimerFired((what, key("t"))), after_ms=100_000)
        if phase != "waiting":
            assert (A in core.core.state.attempts) == (held_before and not closed), "only a close frees the slot"
    ours = [e for e in core.log[before:] if isinstance(e, fx.EmitTokens | fx.Finish) and e.key == key("t")]
    assert ours == []
    assert core.task("t").state is TaskState.ENDED


@pytest.mark.req("ORCH-3017")
def test_the_slot_of_a_canceled_task_is_reused_only_when_the_engine_has_stopped() -> None:
    """The next task starts on the close, not on the cancel."""
    core = Driver()
    core.submit("t")
    core.submit("next")
    core.cancel("t")
    assert core.starts == ["t"]
    core.close(A)
    assert core.starts == ["t", "next"]


@pytest.mark.req("ORCH-2003")
def test_a_cancel_of_what_is_not_accepted_is_unknown() -> None:
    """Nobody knows a task before its acceptance, nor one that never was."""
    core = Driver(pool_settings())
    core.submit("counting", prompt="x" * 300)
    for name in ("counting", "never"):
        core.cancel(name)
        assert core.refusal().refusal.outcome is Outcome.UNKNOWN_ID
