"""What is counted and observed, against what happened."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from tests.unit.core.driving import Driver, pool_settings


def counted(core: Driver, name: str) -> list[tuple[str, ...]]:
    """List the label values of each count of a name."""
    return [c.labels for c in core.wanted(fx.Count) if c.name == name for _ in range(c.amount)]


def observed(core: Driver, name: str) -> list[int]:
    """List what was observed under a name."""
    return [o.value for o in core.wanted(fx.Observe) if o.name == name]


@pytest.mark.req("ORCH-3049", "ORCH-4270")
def test_starts_and_restarts_of_a_replica_are_counted() -> None:
    """A start that succeeds, one that fails and one that runs out of memory are told apart; a restart is counted once planned."""
    core = Driver()
    lost = ReplicaId("pr0")
    core.handle(ev.ReplicaLost(lost, "exit", "died while it served"))
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.handle(ev.ReplicaLost(lost, "exit", "died while it started"))
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.handle(ev.ReplicaLost(lost, "cannot_fit", "too large"))
    assert [labels[2] for labels in counted(core, "preload_outcomes_total")] == ["ready", "failed", "out_of_memory"]
    assert counted(core, "replica_restarts_total") == [("llamacpp", "p", "pr0")] * 3


@pytest.mark.req("ORCH-4271")
def test_failovers_are_counted_by_what_became_of_them() -> None:
    """A task that is tried again and one that cannot be are counted under different outcomes, and each loss once."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t", determinism="best_effort")
    core.fail(1)
    core.chunk(2)
    core.fail(2)
    assert counted(core, "failovers_total") == [("retried",), ("engine_lost",)]


@pytest.mark.req("ORCH-4274")
def test_latencies_are_observed_once_for_each_task() -> None:
    """The first token counts from admission, decoding from dispatch, and only of what completed."""
    core = Driver()
    core.submit("well")
    core.submit("ill", priority="batch")
    core.now_ms += 300
    core.chunk(1)
    core.now_ms += 200
    core.chunk(1)
    core.complete(1)
    core.now_ms += 100
    core.chunk(2)
    core.cancel("ill")
    assert observed(core, "latency_first_token_ms") == [300, 600]
    assert observed(core, "latency_decode_ms") == [500]


@pytest.mark.req("ORCH-4276")
def test_the_error_of_a_prediction_is_observed_at_the_first_start() -> None:
    """It is the distance between the promised and the real wait, told once however often the task starts."""
    core = Driver(pool_settings(replicas=2))
    for name in ("a", "b", "c"):
        core.submit(name)
    admission = core.task("c").admission
    assert admission is not None
    assert admission.predicted_start_ms > 0
    core.now_ms += 1_000
    core.complete(1)
    core.fail(3, "engine_error")
    assert core.starts == ["a", "b", "c"]
    core.complete(2)
    assert core.starts == ["a", "b", "c", "c"]
    assert observed(core, "predicted_start_error_ms") == [0, 0, abs(1_000 - admission.predicted_start_ms)]
