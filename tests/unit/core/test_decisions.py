"""What is decided is logged with the facts of that moment, for explanations and for replay."""

import msgspec
import pytest

from orchqueue.core import decisions as dc
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.explain import explain
from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import PoolId, ReplicaId, TaskId
from orchqueue.core.moments import MOMENTS_AT_MOST, timeline
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Bound
from orchqueue.core.request import Message, PlacementWish, Sampling, TaskSpec
from orchqueue.core.settings import ReplicaSettings, Settings
from tests.unit.core.driving import TENANT, Driver, both_classes, key, pool_settings

pytestmark = pytest.mark.req("ORCH-4320")


def told(core: Driver, name: str = "t") -> Explanation:
    """Explain a task that is known."""
    found = core.explained(name)
    assert found is not None
    return found


def kinds(core: Driver, name: str = "t") -> list[str]:
    """Name what was logged of a task, in order."""
    return [str(one.__struct_config__.tag) for one in core.decided(key(name))]


@pytest.mark.req("ORCH-4321")
def test_a_request_is_logged_with_all_that_decides_and_without_its_text() -> None:
    """Everything that another configuration would have to know is there, and nothing of the prompt."""
    core = Driver(pool_settings(strict=False))
    core.submit(
        "t",
        prompt=None,
        messages=(Message("system", "geheim"), Message("user", "secret")),
        deadline_ms=90_000,
        expected_tokens=5,
        session_id="s",
        kv_hint="cold",
        determinism="best_effort",
        sampler_profile_version="v1",
        sampling=Sampling(ignore_eos=True, stop=("secret",)),
        placement=PlacementWish("prefer", ("p",)),
    )
    submitted, admitted = core.decided(key("t"))[:2]
    assert submitted == dc.Submitted(
        core.now_ms, key("t"), "", "interactive", "completion", 8, 22, 2, None, None, None, 5, 90_000, "s", "cold",
        PlacementWish("prefer", ("p",)), "best_effort", "v1", True,
    )  # fmt: skip
    accept = core.wanted(fx.Accept)[0]
    assert admitted == dc.Admitted(
        core.now_ms, key("t"), PoolId("p"), "m", False, "v1", accept.prompt_tokens, "bytes_bound", 5, 0, 0, "selftest",
        (dc.Candidate(PoolId("p"), 0, 1, "chosen"),),
    )  # fmt: skip
    core.chunk(1, "whisper")
    core.complete(1)
    log = msgspec.json.encode([e.decision for e in core.wanted(fx.LogDecision)]).decode()
    assert [word for word in ("geheim", "secret", "whisper", "scripted") if word in log] == []


@pytest.mark.req("ORCH-4327")
def test_text_that_arrives_is_no_decision() -> None:
    """From the first piece of text to the last nothing is logged; the end tells when the first came."""
    core = Driver()
    core.submit("t")
    for _ in range(3):
        assert core.wanted(fx.LogDecision, core.chunk(1)) == []
    core.complete(1, tokens_out=3)
    ended = core.decided(key("t"))[-1]
    assert ended == dc.Ended(
        core.now_ms, key("t"), Outcome.COMPLETED, PoolId("p"), ReplicaId("pr0"), 1, 2, 3, 0, core.now_ms, 1
    )


@pytest.mark.req("ORCH-3007")
def test_a_drop_is_logged_for_both_without_names() -> None:
    """The victim learns by which policy and for which class, the newcomer which class gave way; neither learns who."""
    core = Driver(pool_settings(classes=both_classes(8, "shed-low-priority"), capacity=1))
    core.submit("running")
    core.submit("victim", priority="batch")
    core.submit("newcomer")
    victim, newcomer = told(core, "victim"), told(core, "newcomer")
    assert victim.dropped == dc.Dropped(core.now_ms, key("victim"), PoolId("p"), "shed-low-priority", "interactive")
    assert "The policy shed-low-priority of pool p gave its place to a new interactive task." in victim.story
    assert newcomer.displaced == "batch"
    assert "A waiting batch task had to give way to it." in newcomer.story
    assert "newcomer" not in repr(victim)
    assert "victim" not in repr(newcomer)
    assert kinds(core, "victim") == ["submitted", "admitted", "dropped", "ended"]


@pytest.mark.req("ORCH-3013")
def test_being_passed_over_for_warmth_is_logged_once_a_cause() -> None:
    """Others pass as often as they like: one entry says so, one that a slot is left free, and the timer has its own."""
    core = Driver(pool_settings(replicas=2, strict=False))
    core.submit("first", session_id="s", determinism="best_effort")
    core.complete(1)
    core.submit("second", determinism="best_effort")
    core.handle(ev.ChunksArrived(core.wanted(fx.StartAttempt)[1].attempt_id, ("a",), 7))
    core.submit("t", session_id="s", determinism="best_effort")
    begun_ms = core.now_ms
    assert core.decided(key("t"))[-1] == dc.PassedOver(
        begun_ms, key("t"), ReplicaId("pr0"), "left_free", begun_ms + 1_000
    )
    warm = next(one for one in told(core).timers if one.name == "warm")
    assert (warm.due_at_ms, warm.fired) == (begun_ms + 1_000, False)
    for number in (3, 4):
        core.submit(f"passes-{number}", determinism="best_effort")
        core.complete(number)
    core.handle(ev.TimerFired(("warm", key("t"))), after_ms=1_000)
    assert kinds(core)[2:] == ["passed_over", "passed_over", "timer_fired", "bound"]
    causes = [one.cause for one in core.decided(key("t")) if isinstance(one, dc.PassedOver)]
    assert causes == ["left_free", "let_pass"]
    warm = next(one for one in told(core).timers if one.name == "warm")
    assert (warm.due_at_ms, warm.fired, warm.fired_at_ms) == (None, True, core.now_ms)
    assert "For its session's replica it waits at most 1000 ms; that time is over." in told(core).story


@pytest.mark.req("ORCH-3013")
def test_a_warm_timer_that_comes_late_is_no_decision() -> None:
    """Once the task runs, the end of its wait for warmth has no consequences."""
    core = Driver()
    core.submit("t")
    assert core.wanted(fx.LogDecision, core.handle(ev.TimerFired(("warm", key("t"))))) == []


@pytest.mark.req("ORCH-3026")
def test_the_grace_for_readers_is_a_limit_too() -> None:
    """After its only reader left, the time until the cancel is told, and then that it was reached."""
    core = Driver()
    core.submit("t", on_disconnect="cancel")
    core.handle(ev.ReaderAttached(key("t"), 1))
    disconnect = next(one for one in told(core).timers if one.name == "disconnect")
    assert (disconnect.limit_ms, disconnect.due_at_ms) == (10_000, None)
    core.handle(ev.ReaderDetached(key("t"), 0))
    disconnect = next(one for one in told(core).timers if one.name == "disconnect")
    assert disconnect.due_at_ms == core.now_ms + 10_000
    core.handle(ev.TimerFired(("disconnect", key("t"))), after_ms=10_000)
    found = told(core)
    disconnect = next(one for one in found.timers if one.name == "disconnect")
    assert (disconnect.fired, disconnect.fired_at_ms, found.state) == (True, core.now_ms, "canceled")


@pytest.mark.req("ORCH-4148")
def test_a_counted_prompt_keeps_the_candidates_of_the_choice() -> None:
    """The pools are weighed before the tokenizer is asked; that is what is told, also when the count refuses."""
    core = Driver(pool_settings(), pool_settings("q", model_ref="m"))
    core.submit("running")
    core.submit("t", prompt="x" * 250, placement=PlacementWish("pin", ("p",)))
    assert kinds(core) == ["submitted", "count_asked"]
    core.handle(ev.PromptCounted(key("t"), 30))
    assert [(one.pool_id, one.load, one.standing) for one in told(core).candidates] == [
        ("p", 1, "chosen"), ("q", 0, "not_pinned"),
    ]  # fmt: skip
    core.submit("long", prompt="x" * 300)
    core.handle(ev.PromptCounted(key("long"), 300))
    refused = told(core, "long")
    assert (refused.state, refused.candidates[0].standing) == ("refused", "chosen")
    assert [one.kind for one in refused.timeline] == ["submitted", "count_asked", "refused"]


@pytest.mark.req("ORCH-4123")
def test_a_move_to_a_sibling_is_logged_with_its_cause() -> None:
    """A drain and a reload move waiting tasks; each tells from where, whereto and why."""
    core = Driver(pool_settings("a"), pool_settings("b"))
    core.submit("a0", placement=PlacementWish("pin", ("a",)))
    for name in ("b0", "b1"):
        core.submit(name, placement=PlacementWish("pin", ("b",)))
    core.submit("t", placement=PlacementWish("prefer", ("a",)))
    core.handle(ev.DrainRequested(core.reply(), PoolId("a"), 60_000))
    assert core.decided(key("t"))[-1] == dc.Moved(core.now_ms, key("t"), PoolId("a"), PoolId("b"), "drain")
    assert "It moved from pool a to b, because its pool was drained." in [one.text for one in told(core).timeline]
    modes = [one.mode for one in core.decided("a") if isinstance(one, dc.PoolChanged)]
    core.complete(1)
    assert modes == ["draining"]
    modes = [one.mode for one in core.decided("a") if isinstance(one, dc.PoolChanged)]
    assert modes == ["draining", "drained"]


def test_what_shapes_tasks_is_logged_by_pool() -> None:
    """Settings, modes, replicas, stalls and the shutdown are entries, so that a replay has them; addresses are not."""
    settings = pool_settings(replicas=1)
    settings = msgspec.structs.replace(settings, replicas=(ReplicaSettings(ReplicaId("pr0"), url="http://u:pw@h"),))
    core = Driver(settings)
    configured, ready = core.decided("p")
    assert isinstance(configured, dc.PoolConfigured)
    assert (configured.settings.ctx, configured.settings.replicas[0].url) == (256, "")
    assert ready == dc.ReplicaChanged(
        core.now_ms, PoolId("p"), ReplicaId("pr0"), "ready", False, None, 1, True, 100, 1_000
    )
    core.handle(ev.SettingsReplaced(core.reply(), Settings((msgspec.structs.replace(settings, capacity=9),))))
    core.submit("t")
    core.fail(1, "lost")
    core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "cuda", "detail"))
    told_of = [
        (one.state, one.cause) if isinstance(one, dc.ReplicaChanged) else str(one.__struct_config__.tag)
        for one in core.decided("p")[2:]
    ]
    assert told_of == ["pool_configured", ("suspect", None), ("ready", None), ("backoff", "cuda")]
    for event in (ev.JournalStalled("full"), ev.JournalHealed(), ev.ShutdownBegan()):
        core.handle(event)
    halts = [(one.cause, one.over) for one in core.decided(dc.EVERYTHING) if isinstance(one, dc.Halted)]
    assert halts == [("journal", False), ("journal", True), ("shutdown", False)]


@pytest.mark.req("ORCH-4128")
def test_a_reload_is_logged_step_by_step() -> None:
    """Verified, swapped and served again: the modes, the replica's way down and up, and a refused model's problem."""
    core = Driver()
    core.handle(ev.ReloadRequested(core.reply(), PoolId("p"), "bad"))
    core.handle(ev.ModelVerified(PoolId("p"), "bad", "wrong checksum"))
    core.handle(ev.ReloadRequested(core.reply(), PoolId("p"), "n"))
    core.handle(ev.ModelVerified(PoolId("p"), "n", ""))
    core.handle(ev.ReplicaStopped(ReplicaId("pr0")))
    core.ready("pr0")
    log = [one for one in core.decided("p") if isinstance(one, dc.PoolChanged)]
    assert [(one.mode, one.model_ref) for one in log] == [
        ("verifying", "m"), ("serving", "m"), ("verifying", "m"), ("reloading", "m"), ("serving", "n"),
    ]  # fmt: skip
    assert log[1].problem == "reload of bad refused: wrong checksum"


@pytest.mark.req("ORCH-4011", "ORCH-4323")
def test_a_recovered_task_says_that_its_first_decisions_are_gone() -> None:
    """What the new life decided is told with what was promised then, and that the rest was another's."""
    core = Driver(up=False)
    accepted = Accepted(TENANT, TaskId("t"), TaskSpec(prompt="hi", seed=1), PoolId("p"), True, "v1", 3, 500, "k1")
    accepted = msgspec.structs.replace(accepted, queue_position=7, predicted_start_ms=40)
    core.handle(ev.TaskRecovered(accepted, Bound(accepted.tenant, accepted.task_id, ReplicaId("p-0"), 1)))
    assert core.decided(key("t"))[1] == dc.Recovered(
        core.now_ms, key("t"), PoolId("p"), 500, True, True, "v1", 3, 256, 7, 40
    )
    core.ready("pr0")
    found = told(core)
    assert (found.complete, found.recovered, [one.kind for one in found.timeline]) == (
        False, True, ["submitted", "recovered", "bound"],
    )  # fmt: skip
    assert "Why pool p was chosen is not known any more: the daemon was restarted since." in found.story


@pytest.mark.req("ORCH-4323")
def test_decisions_that_fell_out_of_the_log_are_owned_up_to() -> None:
    """A known task is still explained from the live state, and says what is not known any more."""
    core = Driver()
    core.submit("t")
    for log in ((), core.decided(key("t"))[2:]):
        found = explain(core.core.state, key("t"), log, core.now_ms)
        assert found is not None
        assert (found.state, found.complete, found.candidates) == ("running", False, ())
        assert "are no longer in the log, or the daemon was restarted since." in "\n".join(found.story)
    assert told(core).complete


@pytest.mark.req("ORCH-4087", "ORCH-4323")
def test_only_the_present_life_of_an_id_is_told() -> None:
    """An id that was refused, accepted, forgotten and accepted again tells of the last; forgotten, it is unknown."""
    core = Driver()
    core.submit("t", ctx=9_999)
    core.submit("t")
    core.submit("t", prompt="another body")
    found = told(core)
    assert [one.kind for one in found.timeline] == ["submitted", "admitted", "bound", "refused"]
    core.complete(1)
    core.handle(ev.TimerFired(("retention", key("t"))))
    assert core.explained("t") is None
    core.submit("t", ctx=9_999)
    assert [one.kind for one in told(core).timeline] == ["submitted", "refused"]
    core.submit("t")
    assert [one.kind for one in told(core).timeline] == ["submitted", "admitted", "bound"]


def test_a_second_request_while_the_first_is_counted_changes_nothing() -> None:
    """A conflict during the count is logged, and the id stays as unknown as it was."""
    core = Driver()
    core.submit("t", prompt="x" * 300)
    core.submit("t", prompt="another body")
    assert kinds(core) == ["submitted", "count_asked", "refused"]
    assert core.explained("t") is None


def test_a_very_long_life_is_told_by_its_ends() -> None:
    """The first and the latest decisions are told, and what is about pools is not."""
    log: list[dc.AnyDecision] = [dc.PassedOver(at, key("t"), ReplicaId("r"), "let_pass") for at in range(300)]
    found = timeline([*log, dc.PoolChanged(300, "p", "serving", "m")])
    assert len(found) == MOMENTS_AT_MOST
    assert [found[0].at_ms, found[63].at_ms, found[64].at_ms, found[-1].at_ms] == [0, 63, 236, 299]


def test_each_kind_is_told_in_words() -> None:
    """Whatever can be logged of a task has a moment with its code."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t", deadline_ms=50_000)
    core.fail(1, "overloaded")
    core.handle(ev.TimerFired(("deadline", key("t"))), after_ms=50_000)
    assert [(one.kind, one.detail) for one in told(core).timeline] == [
        ("submitted", None), ("admitted", None), ("bound", "least_busy"), ("attempt_failed", "overloaded"),
        ("bound", "only_free"), ("timer_fired", "deadline"), ("ended", "deadline_passed"),
    ]  # fmt: skip
    texts = [one.text for one in told(core).timeline]
    assert "Attempt 1 failed: its engine was overloaded; it is tried again." in texts
    assert "The deadline passed: 50000 ms." in texts
    core.close(2)
    core.submit("u")
    core.fail(3, "rejected", close=False)
    assert "it is not tried again." in told(core, "u").timeline[3].text
