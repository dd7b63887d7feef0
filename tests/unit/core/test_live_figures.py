"""What readers of a stream hear about once a second."""

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from tests.unit.core.driving import Driver, key


def tick(core: Driver, after_ms: int = 1_000) -> fx.EmitMetrics:
    """Let a second pass; give the one `metrics` event."""
    (metrics,) = core.wanted(fx.EmitMetrics, core.handle(ev.Ticked(), after_ms))
    return metrics


@pytest.mark.req("ORCH-4094")
def test_readers_of_a_waiting_task_hear_its_live_position() -> None:
    """Position and start are those of the moment, and who is not read is told nothing."""
    core = Driver()
    for name in ("runs", "first", "second"):
        core.submit(name)
    core.handle(ev.ReaderAttached(key("second"), 1))
    before = tick(core)
    assert (before.key, before.queue_position) == (key("second"), 1)
    assert before.predicted_start_ms is not None
    core.cancel("first")
    after = tick(core)
    assert after.queue_position == 0
    assert after.predicted_start_ms is not None
    assert after.predicted_start_ms < before.predicted_start_ms


@pytest.mark.req("ORCH-4095")
def test_readers_of_a_running_task_hear_its_rate() -> None:
    """Tokens a second, warmth, what waits, and with a deadline how likely it is met."""
    core = Driver()
    core.submit("runs", deadline_ms=600_000)
    core.submit("waits")
    core.handle(ev.ReaderAttached(key("runs"), 1))
    core.chunk(1)
    metrics = tick(core, 2_000)
    assert metrics.queue_position is None
    assert metrics.tokens_per_s == 0.5
    assert metrics.kv_warmth is False
    assert metrics.queue_depth == 1
    assert metrics.on_time_probability == 1.0
