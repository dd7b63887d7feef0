"""What docs/metrics.md says of rare moments, from a core driven by hand: a journal that fails, a second life, a task cut short."""

from collections import Counter

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from tests.unit.core.driving import Driver, key


def counted(core: Driver) -> Counter[tuple[str, str]]:
    """Add up what was counted of tasks and tokens, by name and last label."""
    found: Counter[tuple[str, str]] = Counter()
    for effect in core.wanted(fx.Count):
        if effect.name.startswith(("tasks_", "tokens_")):
            found[effect.name, effect.labels[-1]] += effect.amount
    return found


@pytest.mark.req("ORCH-4046")
def test_what_could_not_be_made_durable_counts_as_enqueued_and_as_failed() -> None:
    """A task whose acceptance the journal lost stays counted, and its failure is counted beside it."""
    core = Driver(up=False)
    core.ready("pr0")
    core.submit("runs")
    core.submit("waits")
    core.handle(ev.AcceptsWithdrawn((key("waits"),)))
    assert counted(core) == {
        ("tasks_enqueued_total", "interactive"): 2,
        ("tasks_started_total", "interactive"): 1,
        ("tasks_failed_total", "POOL_UNREADY"): 1,
    }


@pytest.mark.req("ORCH-4046")
def test_a_task_of_an_earlier_life_is_not_enqueued_again() -> None:
    """A second life counts the start of what it took over, and nothing as accepted."""
    first = Driver()
    first.submit("a")
    accepted = next(e.record for e in first.wanted(fx.Record))
    second = Driver(up=False)
    second.handle(ev.TaskRecovered(accepted))  # type: ignore[arg-type]
    second.ready("pr0")
    assert counted(second) == {("tasks_started_total", "interactive"): 1}


@pytest.mark.req("ORCH-4046")
def test_prompt_tokens_count_only_where_the_engine_counted_them() -> None:
    """A task that is canceled in the middle has tokens out and none in: admission's bound is no count."""
    core = Driver()
    core.submit("cut")
    core.chunk(1)
    core.cancel("cut")
    core.close(1)
    core.submit("whole")
    core.complete(2, tokens_out=5)
    tokens = {name: amount for (name, _), amount in counted(core).items() if name.startswith("tokens_")}
    assert tokens == {"tokens_out_total": 6, "tokens_in_total": 2}
