"""Predictions of a whole pool: rates at the load there is, starts, ends, and how likely a deadline is met."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.events import SettingsReplaced
from orchqueue.core.forecast import busy, full, on_time_probability, pool_rates, remaining_ms
from orchqueue.core.ids import AttemptId, ReplicaId, TaskId, Tenant, task_key
from orchqueue.core.settings import ReplicaSettings, Settings, TenantSettings
from tests.unit.core.driving import Driver, both_classes, key, pool_settings

A = AttemptId(1)


def replicas(*masks: tuple[tuple[str, ...], str]) -> tuple[ReplicaSettings, ...]:
    """Describe replicas by device mask and URL."""
    return tuple(ReplicaSettings(ReplicaId(f"pr{i}"), devices, url) for i, (devices, url) in enumerate(masks))


@pytest.mark.req("ORCH-4166", "ORCH-3029")
def test_replicas_that_share_devices_slow_each_other_down() -> None:
    """Two on the same GPU and all on the host's CPU count together; one elsewhere counts alone."""
    masks = (
        (("cuda:0",), ""),
        (("cuda:0", "cuda:1"), ""),
        (("cuda:2",), ""),
        ((), ""),
        (("cpu",), ""),
        ((), "http://e"),
    )
    core = Driver(msgspec.structs.replace(pool_settings(strict=False), replicas=replicas(*masks)))
    state = core.core.state
    found = {r.replica_id: full(state, r) for r in state.replicas.values()}
    assert found == {"pr0": 2, "pr1": 2, "pr2": 1, "pr3": 2, "pr4": 2, "pr5": 1}
    for name in ("a", "b", "c"):
        core.submit(name, determinism="best_effort")
    assert [busy(state, r) for r in state.replicas.values()] == [2, 2, 1, 0, 0, 0]


@pytest.mark.req("ORCH-4166", "ORCH-3029")
def test_a_queue_is_predicted_at_the_rate_of_full_slots() -> None:
    """A lone task is fast; who waits, waits until the slots are full, so its prediction rests on the rate that they have then."""
    core = Driver(pool_settings(slots=2, strict=False))
    state, pool = core.core.state, core.pool()
    core.submit("alone", max_tokens=100)
    core.handle(ev.AttemptCompleted(A, "stop", 2, 100, 0, 1_000))
    core.close(1)
    assert pool_rates(state, pool).decode_us == 10_000
    for attempt in (2, 4):
        core.submit(f"a{attempt}", max_tokens=100)
        core.submit(f"b{attempt}", max_tokens=100)
        core.handle(ev.AttemptCompleted(AttemptId(attempt), "stop", 2, 100, 0, 3_000))
        core.close(attempt)
        core.handle(ev.AttemptCompleted(AttemptId(attempt + 1), "stop", 2, 100, 0, 3_000))
        core.close(attempt + 1)
    rates = state.replicas[ReplicaId("pr0")].rates
    assert set(rates.decode_at) == {1, 2}
    assert pool_rates(state, pool).decode_us == rates.at(2).decode_us
    assert rates.at(1).decode_us < rates.decode_us < rates.at(2).decode_us


@pytest.mark.req("ORCH-3029")
def test_what_runs_is_expected_to_take_what_is_left_of_it() -> None:
    """Before its first token a task still has its prompt to read, as far as time has not passed; then only tokens count."""
    core = Driver()
    state = core.core.state
    core.submit("runs", prompt="x" * 99, max_tokens=50)
    replica, attempt = state.replicas[ReplicaId("pr0")], state.attempts[A]
    assert remaining_ms(state, attempt, replica, core.now_ms) == 10 + 50
    assert remaining_ms(state, attempt, replica, core.now_ms + 4) == 6 + 50
    assert remaining_ms(state, attempt, replica, core.now_ms + 99) == 50
    core.handle(ev.ChunksArrived(A, ("a",), 20))
    assert remaining_ms(state, attempt, replica, core.now_ms) == 30
    core.cancel("runs")
    assert remaining_ms(state, attempt, replica, core.now_ms) == 0


@pytest.mark.req("ORCH-4362", "ORCH-3029")
def test_an_end_is_a_start_and_its_own_work() -> None:
    """The 202 tells both; while the task runs its end follows what is left; after the end there is none."""
    core = Driver()
    core.submit("first", max_tokens=40)
    core.submit("second", max_tokens=8)
    told = core.wanted(fx.Accept)
    assert [(one.predicted_start_ms, one.predicted_end_ms) for one in told] == [(0, 40), (40, 48)]
    core.handle(ev.ReaderAttached(key("first"), 1))
    core.handle(ev.ReaderAttached(key("second"), 1))
    core.chunk(1)
    runs, waits = core.wanted(fx.EmitMetrics, core.handle(ev.Ticked(), 5))
    assert (runs.predicted_start_ms, runs.predicted_end_ms) == (None, 39)
    assert (waits.predicted_start_ms, waits.predicted_end_ms) == (39, 47)


@pytest.mark.req("ORCH-4362")
def test_being_on_time_is_even_at_the_deadline_and_surer_away_from_it() -> None:
    """It falls as the predicted end rises, is blurred by the spread of such outputs, and is none once it has passed."""
    core = Driver()
    state = core.core.state
    core.submit("t", deadline_ms=1_000)
    task = core.task("t")
    at = core.now_ms

    def chance(end_in_ms: int, after_ms: int = 0) -> float | None:
        return on_time_probability(state, task, 0, end_in_ms, at + after_ms)

    assert chance(1_000) == 0.5
    assert [chance(end) for end in (900, 950, 1_050, 1_100)] == [0.978, 0.859, 0.163, 0.043]
    assert (chance(1), chance(5_000), chance(100_000)) == (1.0, 0.0, 0.0)
    assert (chance(1, 999), chance(1, 1_000), chance(1, 1_001)) == (0.5, 0.0, 0.0)
    sure = chance(900)
    task.spread_tokens = 200
    blurred = chance(900)
    assert sure is not None
    assert blurred is not None
    assert 0.5 < blurred < sure
    waiting = on_time_probability(state, task, 800, 900, at)
    assert waiting is not None
    assert 0.5 < waiting < blurred


@pytest.mark.req("ORCH-3029")
def test_without_a_deadline_there_is_nothing_to_be_on_time_for() -> None:
    """No figure is better than a made-up one."""
    core = Driver()
    core.submit("t")
    assert on_time_probability(core.core.state, core.task("t"), 0, 5, core.now_ms) is None


@pytest.mark.req("ORCH-4156")
def test_tenants_share_a_pool_through_the_whole_core() -> None:
    """Weights come from the configuration; what a task really took is what its tenant is charged for in the end."""
    core = Driver(tenants=(TenantSettings("heavy", 2), TenantSettings("*", 1)))
    core.submit("running")
    for turn in range(4):
        core.submit_of("heavy", f"h{turn}")
        core.submit_of("light", f"l{turn}")
    for attempt in range(1, 9):
        core.complete(attempt, tokens_out=8)
    assert core.starts[1:] == ["h0", "l0", "h1", "l1", "h2", "h3", "l2", "l3"]


@pytest.mark.req("ORCH-4156")
def test_a_liar_gains_nothing() -> None:
    """Who says one token and takes eight gets as many starts as who says eight."""
    core = Driver()
    core.submit("running")
    for turn in range(8):
        core.submit_of("liar", f"l{turn}", expected_tokens=1)
        core.submit_of("honest", f"h{turn}", expected_tokens=8)
    for attempt in range(1, 9):
        core.complete(attempt, tokens_out=8)
    assert abs(sum(name[0] == "l" for name in core.starts[1:]) - 4) <= 1


@pytest.mark.req("ORCH-4156", "ORCH-4271")
def test_a_start_that_is_lost_costs_its_tenant_nothing() -> None:
    """A task that goes back to the queue takes its old place, and its tenant's next turn is not put off."""
    core = Driver(pool_settings(replicas=2))
    for name in ("a", "b", "c"):
        core.submit_of(name, name)
    assert core.starts == ["a", "b"]
    core.fail(1, "engine_error")
    lost = core.core.state.active[task_key(Tenant("a"), TaskId("a"))]
    assert (core.starts[2:], lost.charged) == (["c"], 0), "it was tried on the free replica, so it waits for the other"
    core.submit_of("a", "a2")
    core.complete(2)
    assert core.starts[3:] == ["a"]
    assert lost.charged > 0


@pytest.mark.req("ORCH-4205", "ORCH-4360")
def test_another_policy_writes_off_what_was_charged_under_the_old_one() -> None:
    """What runs is neither owed nor demanded: its charge was of another kind."""
    core = Driver()
    core.submit("runs")
    core.submit("waits")
    assert core.task("runs").charged > 0
    changed = Settings((pool_settings(scheduling="round-robin"),))
    core.handle(SettingsReplaced(core.reply(), changed))
    assert core.task("runs").charged == 0
    core.fail(1, "overloaded")
    core.handle(ev.TimerFired(("cool", "pr0")))
    assert core.starts == ["runs", "runs"]
    assert core.task("runs").charged == 1
    assert core.waiting() == ["waits"]


@pytest.mark.req("ORCH-4166", "ORCH-3029")
def test_the_core_learns_how_long_a_slot_is_held_beside_the_work() -> None:
    """From dispatch to the moment at which the engine holds nothing any more; aborted attempts teach nothing."""
    core = Driver()
    core.submit("first", max_tokens=10)
    core.now_ms += 30
    core.handle(ev.AttemptCompleted(A, "stop", 2, 10, 1, 10))
    core.now_ms += 5
    core.close(1)
    rates = core.core.state.replicas[ReplicaId("pr0")].rates
    assert rates.overhead_us == (35 - 11) * 1_000
    assert pool_rates(core.core.state, core.pool()).overhead_us == 24_000
    core.submit("second")
    core.cancel("second")
    core.now_ms += 500
    core.close(2)
    assert rates.overhead_us == 24_000


@pytest.mark.req("ORCH-4365", "ORCH-3029")
def test_a_wait_without_end_is_told_as_the_longest_deadline() -> None:
    """Behind more interactive work than the slots can do, strict priority never starts a batch task; a week says that."""
    core = Driver(pool_settings(capacity=500, classes=both_classes(500), scheduling="strict-priority"))
    for index in range(400):
        core.submit(f"n{index}", max_tokens=200)
    core.submit("last", priority="batch")
    assert core.wanted(fx.Accept)[-1].predicted_start_ms == 399 * 200 + 200 + 604_800_000
