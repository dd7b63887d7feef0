"""What happens to a task from the outside."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId
from orchqueue.core.outcome import Outcome
from orchqueue.core.settings import SessionLimits
from tests.unit.core.driving import Driver, key, pool_settings


@pytest.mark.req("ORCH-3005")
def test_the_order_is_that_of_acceptance_and_not_of_asking() -> None:
    """A task whose prompt had to be counted first stands behind those accepted meanwhile, as the journal has it."""
    core = Driver()
    core.submit("running")
    core.submit("counted", prompt="x" * 300)
    core.submit("quick")
    core.handle(ev.PromptCounted(key("counted"), 100))
    assert core.waiting() == ["quick", "counted"]


@pytest.mark.req("ORCH-2101")
def test_a_pool_drained_while_a_prompt_was_counted_takes_the_task_no_more() -> None:
    """The answer is POOL_UNREADY; accepted, the task would wait for ever."""
    core = Driver()
    core.submit("counted", prompt="x" * 300)
    core.handle(ev.DrainRequested(core.reply(), PoolId("p"), 1_000))
    assert core.pool().mode == "drained"
    core.handle(ev.PromptCounted(key("counted"), 100))
    assert core.refusal().refusal.outcome is Outcome.POOL_UNREADY


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize("kind", ["wall", "first_token"])
def test_a_timer_of_an_earlier_attempt_does_not_end_the_next(kind: str) -> None:
    """A timer that was already due when its attempt failed must not strike the attempt that followed."""
    timeouts = {"wall_ms": 1_000, "first_token_ms": 1_000}
    settings = pool_settings(replicas=2)
    settings = pool_settings(replicas=2, timeouts=type(settings.timeouts)(**timeouts))
    core = Driver(settings)
    core.submit("t")
    core.handle(ev.AttemptFailed(core.wanted(fx.StartAttempt)[0].attempt_id, "engine_error", ""), after_ms=1_000)
    assert core.starts == ["t", "t"]
    core.handle(ev.TimerFired((kind, key("t"))))
    assert core.wanted(fx.Finish) == []
    core.handle(ev.TimerFired((kind, key("t"))), after_ms=1_000)
    assert len(core.wanted(fx.Finish)) == 1


@pytest.mark.req("ORCH-4244")
def test_a_turn_too_many_ends_the_session_also_when_its_prompt_was_counted() -> None:
    """The refusal of a turn beyond the last evicts the session, whichever way the refusal was reached."""
    core = Driver(sessions=SessionLimits(max_turns=1))
    core.submit("counted", session_id="s", prompt="x" * 300)
    core.submit("first", session_id="s")
    core.handle(ev.PromptCounted(key("counted"), 100))
    assert core.refusal().refusal.faults[0].pointer == "/session_id"
    core.submit("anew", session_id="s")
    assert core.task("anew").admission is not None


@pytest.mark.req("ORCH-4189")
@pytest.mark.parametrize("ended", [False, True])
def test_a_withdrawn_acceptance_leaves_nothing_behind(*, ended: bool) -> None:
    """A client that was told 503 may use its task_id again for a fresh task, also when the old one ended meanwhile."""
    core = Driver()
    core.submit("running")
    core.submit("t")
    if ended:
        core.cancel("t")
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.AcceptsWithdrawn((key("t"),)))
    assert key("t") not in core.core.state.tasks
    core.handle(ev.JournalHealed())
    core.submit("t", prompt="another body")
    assert [a.repeated for a in core.wanted(fx.Accept, core.last)] == [False]


@pytest.mark.req("ORCH-4112")
@pytest.mark.parametrize(
    ("wish", "canceled"),
    [
        ({"priority": "interactive"}, True),
        ({"priority": "batch"}, False),
        ({"priority": "interactive", "on_disconnect": "continue"}, False),
        ({"priority": "batch", "on_disconnect": "cancel"}, True),
    ],
)
def test_batch_tasks_outlive_their_readers_and_interactive_ones_do_not(
    wish: dict[str, object], *, canceled: bool
) -> None:
    """Unless the task says otherwise its class decides whether the last reader's leaving ends it."""
    core = Driver()
    core.submit("t", **wish)
    core.handle(ev.ReaderAttached(key("t"), 1))
    core.handle(ev.ReaderDetached(key("t"), 0))
    grace = [t for t in core.wanted(fx.SetTimer) if t.key[0] == "disconnect"]
    assert [t.at_ms - core.now_ms for t in grace] == ([10_000] if canceled else [])
    for timer in grace:
        core.handle(ev.TimerFired(timer.key), after_ms=10_000)
    assert [f.ended.outcome for f in core.wanted(fx.Finish)] == [Outcome.CANCELED_ON_DISCONNECT] * canceled
