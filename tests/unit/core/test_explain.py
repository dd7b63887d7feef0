"""Why a task is where it is: true in every state, and never a word about others."""

from typing import get_args

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.decisions import Choice, ReplicaStanding, Standing
from orchqueue.core.explain import FIRED
from orchqueue.core.explain_words import CHOICES, OUTCOMES, REPLICA_STANDINGS, STANDINGS, WAITS
from orchqueue.core.explanation import Ahead, Explanation, Timer, WaitsFor
from orchqueue.core.ids import PoolId, ReplicaId, TaskId, Tenant
from orchqueue.core.log_entries import FAULTS_AT_MOST, TEXT_AT_MOST
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Ended, Receipt
from orchqueue.core.request import PlacementWish, TaskSpec
from orchqueue.core.settings import Timeouts
from tests.unit.core.driving import TENANT, Driver, both_classes, key, pool_settings

pytestmark = pytest.mark.req("ORCH-4003")
OTHER = Tenant("beta")


def told(core: Driver, name: str, tenant: Tenant = TENANT) -> Explanation:
    """Explain a task that is known."""
    found = core.explained(name, tenant)
    assert found is not None
    return found


def submit_other(core: Driver, name: str, **fields: object) -> None:
    """Ask for a task of another tenant."""
    spec = msgspec.structs.replace(TaskSpec(prompt="hi", seed=1, max_tokens=8), **fields)
    core.handle(ev.TaskSubmitted(core.reply(), TaskId(name), OTHER, spec, "k9"))


def waits_for(core: Driver, name: str = "t") -> WaitsFor:
    """Name what a waiting task waits for."""
    waiting = told(core, name).waiting
    assert waiting is not None
    return waiting.waits_for


def test_everything_has_words() -> None:
    """Each outcome, wait, standing and choice is said in words of its own, and nothing else is."""
    assert OUTCOMES.keys() == set(Outcome)
    assert WAITS.keys() == set(get_args(WaitsFor))
    assert STANDINGS.keys() == set(get_args(Standing))
    assert CHOICES.keys() == set(get_args(Choice))
    assert REPLICA_STANDINGS.keys() == set(get_args(ReplicaStanding))
    for words in (OUTCOMES, WAITS, STANDINGS, REPLICA_STANDINGS, CHOICES):
        assert len(set(words.values())) == len(words)


@pytest.mark.req("ORCH-3036", "ORCH-4086")
def test_who_is_ahead_is_counted_and_never_named() -> None:
    """Own and other tenants' tasks ahead are counted by class; no id and no tenant of others stands in the answer."""
    core = Driver()
    submit_other(core, "secret-running")
    for name in ("secret-1", "secret-2"):
        submit_other(core, name)
    core.submit("mine")
    submit_other(core, "secret-batch", priority="batch")
    core.submit("late")
    found = told(core, "late")
    assert found.waiting is not None
    assert found.waiting.ahead == (Ahead("interactive", 1, 2), Ahead("batch", 0, 0))
    assert found.waiting.queue_position == 3
    assert (found.waiting.slots_total, found.waiting.slots_busy) == (1, 1)
    assert "before it: 3 tasks (1 interactive of your own, 2 interactive of others)." in found.story[0]
    text = msgspec.json.encode(found).decode()
    assert [word for word in ("secret", OTHER, "k9", "mine") if word in text] == []
    core.submit("batch", priority="batch")
    ahead = told(core, "batch").waiting
    assert ahead is not None
    assert sum(one.own + one.others for one in ahead.ahead) == ahead.queue_position == 5
    assert Ahead("batch", 0, 1) in ahead.ahead


def test_the_prediction_is_the_one_that_readers_get() -> None:
    """Position, start and its basis equal what a look at the task says, and age with it."""
    core = Driver()
    core.submit("running")
    core.submit("t")
    core.now_ms += 3
    waiting = told(core, "t").waiting
    assert waiting is not None
    core.handle(ev.ReaderAttached(key("t"), 1))
    core.handle(ev.Ticked())
    (metrics,) = core.wanted(fx.EmitMetrics, core.last)
    assert (waiting.queue_position, waiting.predicted_start_ms) == (metrics.queue_position, metrics.predicted_start_ms)
    assert (waiting.basis, waiting.waited_ms) == ("selftest", 3)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (None, "slot"),
        (ev.JournalStalled("disk full"), "journal"),
        (ev.ShutdownBegan(), "restart"),
        (ev.ReplicaLost(ReplicaId("pr0"), "exit", "killed"), "live_replica"),
    ],
)
def test_what_a_task_waits_for(event: ev.AnyEvent | None, reason: WaitsFor) -> None:
    """A waiting task names what stands in its way."""
    core = Driver()
    core.submit("running")
    core.submit("t")
    if event is not None:
        core.handle(event)
    assert waits_for(core) == reason
    assert WAITS[reason] in told(core, "t").story


def test_a_task_waits_while_its_pool_loads_drains_or_reloads() -> None:
    """The pool's own doings are named."""
    core = Driver()
    core.submit("running")
    core.submit("t")
    core.handle(ev.DrainRequested(core.reply(), PoolId("p"), 60_000))
    assert waits_for(core) == "pool_draining"
    core.handle(ev.ReloadRequested(core.reply(), PoolId("p"), "n"))
    assert waits_for(core) == "slot"
    core.handle(ev.ModelVerified(PoolId("p"), "n", ""))
    assert waits_for(core) == "pool_reloading"
    fresh = Driver(up=False)
    accepted = Accepted(TENANT, TaskId("t"), TaskSpec(prompt="hi", seed=1), PoolId("p"), True, "v1", 3, 500)
    fresh.handle(ev.TaskRecovered(accepted))
    assert waits_for(fresh) == "pool_loading"


def test_a_task_waits_for_the_replica_that_is_warm() -> None:
    """A free slot elsewhere is left to others for a moment, and the answer says why."""
    core = Driver(pool_settings(replicas=2, strict=False))
    core.submit("first", session_id="s", determinism="best_effort")
    core.complete(1)
    core.submit("second", determinism="best_effort")
    assert core.core.state.attempts[core.wanted(fx.StartAttempt)[1].attempt_id].replica_id == "pr0"
    core.handle(ev.ChunksArrived(core.wanted(fx.StartAttempt)[1].attempt_id, ("a",), 7))
    core.submit("t", session_id="s", determinism="best_effort")
    assert waits_for(core) == "warm_replica"
    core.handle(ev.TimerFired(("warm", key("t"))))
    assert told(core, "t").attempts[0].choice == "only_free"


def test_each_attempt_is_told_with_why_its_replica() -> None:
    """The first goes to the least busy, the next to the only one left; a failure and a warm session are named."""
    core = Driver(pool_settings(replicas=2, strict=False))
    core.submit("t", determinism="best_effort", session_id="s")
    core.fail(1, "overloaded", close=False)
    found = told(core, "t")
    assert [(one.replica_id, one.choice, one.free_replicas, one.failure) for one in found.attempts] == [
        ("pr0", "least_busy", 2, "overloaded"),
        ("pr1", "only_free", 1, None),
    ]
    assert (found.state, found.story[0], found.attempts_total) == ("running", "It runs on replica pr1.", 2)
    assert (
        "Attempt 1 went to replica pr0, the least busy of those with a free slot; its engine was overloaded."
        in found.story
    )
    core.close(1)
    core.complete(2)
    core.handle(ev.TimerFired(("cool", "pr0")))
    core.submit("next", determinism="best_effort", session_id="s")
    core.submit("busy", determinism="best_effort")
    warm = [(one.replica_id, one.choice) for one in told(core, "next").attempts]
    assert warm == [("pr1", "warm_session")]


@pytest.mark.parametrize(
    ("other", "wish", "standing"),
    [
        ({"model_ref": "n"}, {"model_ref": "m"}, "other_model"),
        ({"engine": "vllm"}, {"engine": "llamacpp"}, "other_engine"),
        ({}, {"placement": PlacementWish(avoid=("q",))}, "avoided"),
        ({}, {"placement": PlacementWish("pin", ("p",))}, "not_pinned"),
        ({}, {"placement": PlacementWish("prefer", ("p",))}, "not_preferred"),
        ({"workloads": ("embedding",)}, {}, "no_workload"),
        ({"ctx": 64}, {"ctx": 128}, "ctx_too_small"),
        ({"ctx": 64}, {"prompt": "x" * 90}, "prompt_may_not_fit"),
        ({"strict": False}, {}, "not_strict"),
        ({}, {}, "later_in_name"),
    ],
)
@pytest.mark.req("ORCH-4162", "ORCH-4165")
def test_why_another_pool_was_not_chosen(other: dict[str, object], wish: dict[str, object], standing: Standing) -> None:
    """The first filter that a pool did not pass, or what put it behind, is kept from the moment of the choice."""
    core = Driver(pool_settings(), pool_settings("q", 1, **other))
    core.submit("t", **wish)
    assert [(one.pool_id, one.standing) for one in told(core, "t").candidates] == [("p", "chosen"), ("q", standing)]
    assert any(STANDINGS[standing] in line for line in told(core, "t").story)


@pytest.mark.req("ORCH-4165")
def test_loads_are_those_of_the_moment_of_the_choice() -> None:
    """A busier or unready pool is told with the load that it had then, also when all has changed since."""
    core = Driver(pool_settings(), pool_settings("q", model_ref="m"))
    core.submit("first")
    core.submit("t")
    core.complete(1)
    core.complete(2)
    assert [(c.pool_id, c.load, c.slots, c.standing) for c in told(core, "t").candidates] == [
        ("q", 0, 1, "chosen"), ("p", 1, 1, "more_loaded"),
    ]  # fmt: skip
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "killed"))
    core.submit("u")
    assert [(c.pool_id, c.standing) for c in told(core, "u").candidates] == [("q", "chosen"), ("p", "not_ready")]


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize(
    ("timer", "limit_ms"), [("deadline", 50_000), ("wall", 9_000), ("first_token", 700), ("idle", 800)]
)
def test_the_limit_that_ended_a_task_is_named(timer: str, limit_ms: int) -> None:
    """All limits are listed with their values, one of them fired, and the words say so."""
    core = Driver(pool_settings(timeouts=Timeouts(9_000, 800, 700), max_attempts=1))
    core.submit("t", deadline_ms=50_000)
    begun_ms = core.now_ms
    due = {one.name: one.due_at_ms for one in told(core, "t").timers}
    assert due == {
        "deadline": begun_ms + 50_000, "wall": begun_ms + 9_000, "first_token": begun_ms + 700, "idle": None,
    }  # fmt: skip
    if timer == "idle":
        core.chunk(1)
        assert Timer("idle", 800, False, begun_ms + 800) in told(core, "t").timers
    core.handle(ev.TimerFired((timer, key("t"))), after_ms=limit_ms)
    found = told(core, "t")
    assert [(one.name, one.limit_ms) for one in found.timers if one.fired] == [(timer, limit_ms)]
    assert all(one.due_at_ms is None for one in found.timers)
    assert found.ended is not None
    assert FIRED[found.ended.outcome] == timer
    assert found.story[0] == OUTCOMES[found.ended.outcome]


@pytest.mark.req("ORCH-3007")
def test_a_victim_learns_why_it_was_dropped() -> None:
    """The outcome, its message and that no engine ever took it are told."""
    core = Driver(pool_settings(classes=both_classes(1, "drop-lru")))
    for name in ("running", "victim", "newcomer"):
        core.submit(name)
    found = told(core, "victim")
    assert (found.state, found.attempts, found.story[0]) == ("failed", (), OUTCOMES[Outcome.DROPPED_VICTIM])
    assert "No engine ever took it." in found.story
    assert found.timeline[-1].text == "It ended as dropped_victim before any engine took it."
    assert told(core, "newcomer").state == "queued"


@pytest.mark.req("ORCH-4087")
def test_a_refusal_is_explained_until_the_id_is_accepted() -> None:
    """A refused id answers with the refusal's pointers and hint; once it was accepted the refusal is forgotten."""
    core = Driver(pool_settings(classes=both_classes(1)))
    core.submit("bad", ctx=9_999)
    found = told(core, "bad")
    assert found.refusal is not None
    assert (found.state, [fault.pointer for fault in found.refusal.faults]) == ("refused", ["/ctx"])
    assert sum("above the pool's" in line for line in found.story) == 1
    for name in ("running", "waiting", "full"):
        core.submit(name)
    full = told(core, "full")
    assert full.refusal is not None
    assert full.refusal.retry_after_ms is not None
    assert f"Another try was worth while {full.refusal.retry_after_ms} ms after the refusal." in full.story
    assert full.story[-1].startswith("Pool p was the only pool;")
    core.complete(1)
    core.submit("full")
    assert told(core, "full").state == "queued"
    core.submit("full", prompt="another body")
    assert core.refusal().refusal.outcome is Outcome.CONFLICT


@pytest.mark.req("ORCH-3036", "ORCH-4086")
def test_nothing_is_explained_across_tenants() -> None:
    """Another tenant's task and another tenant's refusal are unknown, whatever the state."""
    core = Driver()
    submit_other(core, "running")
    submit_other(core, "waiting")
    submit_other(core, "bad", ctx=9_999)
    for name in ("running", "waiting", "bad"):
        assert core.explained(name, OTHER) is not None
        assert core.explained(name) is None


def test_what_is_only_counted_is_not_yet_known() -> None:
    """While a prompt is counted the task is as unknown as to a look."""
    core = Driver()
    core.submit("running")
    core.submit("t", prompt="x" * 300)
    assert core.explained("t") is None


@pytest.mark.req("ORCH-4087")
def test_a_logged_refusal_is_cut_to_size() -> None:
    """However much is wrong with a request, its entry holds no more than its share."""
    core = Driver()
    wide = tuple(f"pool-{number}-{'x' * 600}" for number in range(20))
    core.submit("bad", placement=PlacementWish("pin", wide))
    refusal = told(core, "bad").refusal
    assert refusal is not None
    assert len(refusal.faults) == FAULTS_AT_MOST
    assert max(len(text) for text in (refusal.message, *(fault.message for fault in refusal.faults))) == TEXT_AT_MOST


@pytest.mark.req("ORCH-4011")
def test_of_an_earlier_life_it_says_what_is_not_known() -> None:
    """A restored task has its outcome and number of attempts, and owns up to the rest."""
    core = Driver()
    accepted = Accepted(TENANT, TaskId("t"), TaskSpec(prompt="hi", seed=1), PoolId("gone"), True, "v1", 3, 500)
    receipt = Receipt(1, "0" * 64, "v1", "llamacpp", "v1", "d", 2)
    core.handle(
        ev.TaskRestored(
            accepted, Ended(TENANT, TaskId("t"), Outcome.COMPLETED, 600, 1 << 40, 3, 5, 40, 550, receipt=receipt)
        )
    )
    found = told(core, "t")
    assert (found.state, found.candidates, found.attempts, found.attempts_total) == ("succeeded", (), (), 2)
    assert found.queue_time_ms == 50
    assert any("not known any more" in line for line in found.story)
    assert any(line.startswith("2 attempts in all") for line in found.story)


@pytest.mark.req("ORCH-4013")
def test_a_withdrawn_acceptance_is_explained_as_the_refusal_that_its_client_got() -> None:
    """The client was told 503; so is whoever asks why."""
    core = Driver()
    core.submit("t")
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.AcceptsWithdrawn((key("t"),)))
    found = told(core, "t")
    assert found.refusal is not None
    assert (found.state, found.refusal.outcome) == ("refused", Outcome.JOURNAL_DOWN)
