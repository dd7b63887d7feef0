"""What an attempt says: heard while it owns its task, let go when it does not, and never twice."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.task_states import TaskState
from tests.unit.core.driving import Driver, pool_settings

GONE = AttemptId(99)


@pytest.mark.req("ORCH-4109", "ORCH-4164")
@pytest.mark.parametrize(
    "event",
    [
        ev.ChunksArrived(GONE, ("late",), 1),
        ev.AttemptCompleted(GONE, "stop", 1, 1, 1, 1),
        ev.AttemptFailed(GONE, "lost", "late"),
        ev.AttemptClosed(GONE),
    ],
)
def test_an_attempt_that_is_gone_says_nothing_any_more(event: ev.AnyEvent) -> None:
    """Whatever still comes from a closed attempt changes nothing and wants nothing."""
    core = Driver()
    core.submit("t")
    before = core.core.state.slots.free(ReplicaId("pr0"))
    assert core.handle(event) == []
    assert core.core.state.slots.free(ReplicaId("pr0")) == before
    assert core.task("t").state is TaskState.BOUND
    assert core.core.state.replicas[ReplicaId("pr0")].state is ReplicaState.READY


@pytest.mark.req("ORCH-4109", "ORCH-4177")
def test_text_of_an_attempt_that_lost_its_task_is_fenced_off() -> None:
    """The second attempt owns the task, so nothing of the first one's text is passed on."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t")
    core.fail(1, "overloaded", close=False)
    assert core.starts == ["t", "t"]
    assert core.chunk(1, "of the first") == []
    (tokens,) = core.wanted(fx.EmitTokens, core.chunk(2, "of the second"))
    assert tokens.texts == ("of the second",)


@pytest.mark.req("ORCH-4109")
def test_the_end_of_an_attempt_that_lost_its_task_teaches_rates_and_ends_nothing() -> None:
    """How fast the replica was is still true; the task goes on where it is."""
    core = Driver()
    core.submit("t")
    core.cancel("t")
    effects = core.handle(ev.AttemptCompleted(AttemptId(1), "stop", 10, 20, 10, 40))
    assert core.wanted(fx.Finish, effects) == []
    rates = core.core.state.replicas[ReplicaId("pr0")].rates
    assert (rates.basis, rates.decode_us) == ("measured", 2_000)
    assert core.task("t").ended is not None


@pytest.mark.req("ORCH-4143")
def test_a_suspect_replica_is_probed_once_and_serves_again_when_it_answers() -> None:
    """Two lost connections ask for one probe; the answer of a replica that is no suspect changes nothing."""
    core = Driver(pool_settings(slots=2, strict=False))
    core.submit("a")
    core.submit("b")
    core.submit("c")
    core.fail(1)
    core.fail(2)
    replica = core.core.state.replicas[ReplicaId("pr0")]
    assert (replica.state, len(core.wanted(fx.ProbeReplica))) == (ReplicaState.SUSPECT, 1)
    assert core.starts == ["a", "b"]
    assert core.wanted(fx.StartAttempt, core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))) != []
    assert replica.state is ReplicaState.READY
    assert core.handle(ev.ReplicaHealthy(ReplicaId("pr0"))) == []


@pytest.mark.req("ORCH-4143")
def test_a_failure_of_an_attempt_that_lost_its_task_still_makes_its_replica_suspect() -> None:
    """A broken connection says something of the replica, also when the task is gone; the task's end stays."""
    core = Driver()
    core.submit("t")
    core.cancel("t")
    core.fail(1)
    assert core.core.state.replicas[ReplicaId("pr0")].state is ReplicaState.SUSPECT
    assert [f.ended.outcome for f in core.wanted(fx.Finish)] == [Outcome.CANCELED_BY_CLIENT]


@pytest.mark.req("ORCH-4175", "ORCH-4176", "ORCH-4174", "ORCH-4177")
@pytest.mark.parametrize(
    ("failures", "text", "outcome", "words"),
    [
        (["rejected"], False, Outcome.ENGINE_REFUSED, "the engine refused the task (scripted)"),
        (["lost"], True, Outcome.ENGINE_LOST, "the engine was lost in the middle of the stream"),
        (["lost"] * 3, False, Outcome.POISON, "this task has brought down several replicas"),
        (["engine_error"] * 3, False, Outcome.REPLICAS_EXHAUSTED, "every replica was tried"),
    ],
)
def test_the_end_says_why_the_task_was_not_tried_again(
    failures: list[ev.AttemptFailure], text: bool, outcome: Outcome, words: str
) -> None:
    """Each reason has its own outcome and its own words, with what the engine said behind them."""
    core = Driver(pool_settings(replicas=3))
    core.submit("t", determinism="best_effort" if text else None)
    for attempt, failure in enumerate(failures, start=1):
        if text:
            core.chunk(attempt)
        core.fail(attempt, failure)
    (finish,) = core.wanted(fx.Finish)
    assert finish.ended.outcome is outcome
    assert finish.ended.message.startswith(words)
    assert finish.ended.message.endswith("(scripted)")
    assert len(core.starts) == len(failures)


@pytest.mark.req("ORCH-4274", "ORCH-3041")
@pytest.mark.parametrize(("priority", "seen"), [("interactive", 1), ("batch", 0)])
def test_the_first_token_of_interactive_tasks_counts_for_their_objective(priority: str, seen: int) -> None:
    """Batch tasks have no bound on their first token, so they do not count; both are observed."""
    core = Driver()
    core.submit("t", priority=priority)
    core.chunk(1, "é")
    core.chunk(1)
    assert len(core.pool().interactive_first_tokens_ms) == seen
    observed = [o.name for o in core.wanted(fx.Observe) if o.name == "latency_first_token_ms"]
    assert observed == ["latency_first_token_ms"], "once a task"
    assert core.task("t").emitted_bytes == 3


@pytest.mark.req("ORCH-4363")
@pytest.mark.parametrize(("decode_us", "tokens_out", "decode_ms"), [(0, 0, 0), (0, 8, 0), (1_000, 1_001, 1)])
def test_output_that_comes_in_no_time_is_an_end_like_any_other(decode_us: int, tokens_out: int, decode_ms: int) -> None:
    """A proxy that collects the whole output leaves no time per token; the task ends and prompts cost what they cost before."""
    core = Driver(up=False)
    core.ready("pr0", decode_us_per_token=decode_us)
    core.submit("t")
    core.handle(ev.AttemptCompleted(AttemptId(1), "stop", 2, tokens_out, 1, decode_ms))
    assert core.task("t").state is TaskState.ENDED
    assert {line.prompt_ppm for line in core.pool().queue.lines.values()} == {0}
