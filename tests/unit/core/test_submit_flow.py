"""What may happen between a request and its answer."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from tests.unit.core.driving import Driver, key, pool_settings


@pytest.mark.req("ORCH-4118", "ORCH-4148")
def test_a_prompt_that_only_a_loading_pool_could_hold_is_told_to_come_again() -> None:
    """The ready pool is too small for certain, the wide one has no tokenizer yet: nothing waits for an answer."""
    core = Driver(pool_settings("small", ctx=64), pool_settings("wide", ctx=512), up=False)
    core.ready("smallr0")
    effects = core.submit("t", prompt="x" * 600)
    refusal = core.refusal().refusal
    assert (refusal.outcome, refusal.pool_id) == (Outcome.POOL_UNREADY, "wide")
    assert core.wanted(fx.CountPrompt, effects) == []
    assert key("t") not in core.core.state.tasks


@pytest.mark.req("ORCH-4148")
def test_a_count_that_nobody_waits_for_is_dropped() -> None:
    """The second answer of a tokenizer, and one for a task that is gone, change nothing."""
    core = Driver()
    core.submit("t", prompt="x" * 300)
    assert core.wanted(fx.Accept, core.handle(ev.PromptCounted(key("t"), 10))) != []
    assert core.handle(ev.PromptCounted(key("t"), 20)) == []
    assert core.task("t").prompt_tokens == 10
    assert core.handle(ev.PromptCounted(key("never"), 10)) == []


@pytest.mark.req("ORCH-4148", "ORCH-4147")
@pytest.mark.parametrize(
    ("size", "tokens", "accepted", "basis"),
    [
        (301, None, True, "estimate"),
        (300, 248, True, "tokenizer"),
        (300, 249, False, "tokenizer"),
        (900, None, False, ""),
    ],
)
def test_a_prompt_is_counted_or_estimated_and_then_believed(
    size: int, tokens: int | None, accepted: bool, basis: str
) -> None:
    """Three bytes a token where the tokenizer did not answer; prompt and output together fill ctx at most."""
    core = Driver()
    core.submit("t", prompt="x" * size)
    effects = core.handle(ev.PromptCounted(key("t"), tokens))
    assert bool(core.wanted(fx.Accept, effects)) is accepted
    if accepted:
        (accept,) = core.wanted(fx.Accept, effects)
        assert (accept.prompt_tokens_basis, accept.prompt_tokens) == (basis, tokens or size // 3 + 1)


@pytest.mark.req("ORCH-4118")
def test_a_pool_whose_last_replica_is_suspect_is_unavailable() -> None:
    """One replica waits for its restart and the other is probed: nobody loads, so it is not called loading."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t")
    core.handle(ev.ReplicaLost(ReplicaId("pr1"), "exit", "scripted"))
    core.fail(1, "lost")
    core.submit("next")
    refusal = core.refusal().refusal
    assert (refusal.outcome, refusal.message) == (
        Outcome.POOL_UNAVAILABLE,
        "pool p has no live replica; try again later",
    )


@pytest.mark.req("ORCH-4012", "ORCH-4188")
@pytest.mark.parametrize(
    ("event", "outcome"),
    [(ev.ShutdownBegan(), Outcome.SHUTTING_DOWN), (ev.JournalStalled("disk full"), Outcome.JOURNAL_DOWN)],
)
def test_nothing_is_accepted_or_started_while_the_daemon_stops_or_stalls(event: ev.AnyEvent, outcome: Outcome) -> None:
    """A newcomer and one whose prompt was being counted are told to come again, and what waits does not start."""
    core = Driver()
    core.submit("running")
    core.submit("waits")
    core.submit("counting", prompt="x" * 300)
    core.handle(event)
    core.submit("new")
    assert core.refusal().refusal.outcome is outcome
    core.handle(ev.PromptCounted(key("counting"), 10))
    assert core.refusal().refusal.outcome is outcome
    core.complete(1)
    assert core.starts == ["running"]
