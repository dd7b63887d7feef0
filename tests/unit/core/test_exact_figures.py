"""Arithmetic to the last unit: whole numbers, no drift, and the exact bound of every comparison."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import fairness
from orchqueue.core.admission import Counted, Fit, count_prompt, fitting_pools
from orchqueue.core.estimate import Pace, Rates, Readmission, SlotFrees, smooth, start_after_ms
from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.request import Message, Sampling, TaskSpec
from orchqueue.core.settings import ClassSettings
from tests.unit.core.driving import Driver, pool_settings

WEIGHTS = {"interactive": 8, "batch": 1}


@pytest.mark.req("ORCH-4166")
@pytest.mark.parametrize(
    ("tokens", "ms", "learned_us"), [(1, 1, 1_000), (3, 1, 333), (0, 5, 7), (5, 0, 7), (0, 0, 7), (2, 1, 500)]
)
def test_a_rate_is_learned_from_tokens_and_time_only_where_there_are_both(
    tokens: int, ms: int, learned_us: int
) -> None:
    """Whole microseconds a token; no tokens or no time teach nothing."""
    taught = bool(tokens and ms)
    rates = Rates(7, 7, "selftest")
    rates.learn(tokens, ms, 0, 0, 1)
    assert (rates.prefill_us, rates.decode_us, rates.basis) == (learned_us, 7, "selftest")
    assert rates.decode_at == {}
    rates = Rates(7, 7, "selftest")
    rates.learn(0, 0, tokens, ms, 3)
    assert (rates.prefill_us, rates.decode_us, rates.basis) == (7, learned_us, "measured" if taught else "selftest")
    assert {busy: pace.us_per_token for busy, pace in rates.decode_at.items()} == ({3: learned_us} if taught else {})


@pytest.mark.req("ORCH-4166")
def test_a_pace_is_time_over_tokens_and_forgets() -> None:
    """Long attempts count for as much as they took, and each new one takes a 32nd of what was before away."""
    pace = Pace()
    assert pace.us_per_token == 0
    pace.learn(10, 1)
    pace.learn(90, 99)
    assert (pace.us, pace.tokens) == (10_000 + 90_000 - 312, 1_000 + 99_000 - 31)
    assert pace.us_per_token == 997
    for _ in range(400):
        pace.learn(50, 10)
    assert abs(pace.us_per_token - 5_000) <= 5


@pytest.mark.req("ORCH-4166")
def test_smoothing_gives_whole_numbers() -> None:
    """What an eighth leaves over is rounded down, rising and falling."""
    assert [smooth(80, 163), smooth(80, 0), smooth(80, 79), smooth(0, 3)] == [90, 70, 79, 3]


@pytest.mark.req("ORCH-3029")
@pytest.mark.parametrize(
    ("levels", "ahead", "each_ms", "start_ms"),
    [([0, 0], 1, 3, 0), ([0, 0], 2, 3, 3), ([0, 0], 3, 3, 3), ([5], 2, 3, 11), ([9, 2], 2, 4, 9), ([0], 34, 3, 102)],
)
def test_each_task_ahead_takes_the_slot_that_frees_first(
    levels: list[int], ahead: int, each_ms: int, start_ms: int
) -> None:
    """The newcomer starts when everything ahead has begun, not when it has ended."""
    assert start_after_ms([SlotFrees(level, 0) for level in levels], ahead, each_ms) == start_ms


@pytest.mark.req("ORCH-4119")
def test_promises_of_places_are_exact() -> None:
    """The first is the first free place and one interval; each further one an interval later; none is less than 1 ms."""
    readmission = Readmission()
    assert [readmission.promise(1_000, 50, 20, 9), readmission.promise(1_000, 50, 20, 9)] == [70, 90]
    assert readmission.promise(1_000, 0, 0, 9) == 91
    assert readmission.promise(2_000, 0, 5, 9) == 5
    assert Readmission().promise(0, 0, 0, 9) == 1
    for places, latest_ms in ((1, 2_570), (200, 4_010)):
        hammered = Readmission()
        assert max(hammered.promise(0, 0, 10, places) for _ in range(1_000)) == latest_ms


@pytest.mark.req("ORCH-4153", "ORCH-4155")
def test_shares_stay_whole_numbers_and_a_class_that_could_not_run_gets_no_start_more() -> None:
    """The eighth interactive turn that went to batch is lost: eight more interactive starts, then batch again."""
    state = fairness.ShareState()
    for _ in range(7):
        assert fairness.order(state, WEIGHTS, list(WEIGHTS))[0] == "interactive"
        fairness.serve(state, WEIGHTS, "interactive")
    fairness.order(state, WEIGHTS, list(WEIGHTS))
    fairness.serve(state, WEIGHTS, "batch")
    starts = []
    for _ in range(9):
        starts.append(fairness.order(state, WEIGHTS, list(WEIGHTS))[0])
        fairness.serve(state, WEIGHTS, starts[-1])
    assert starts == ["interactive"] * 8 + ["batch"]
    assert "." not in msgspec.json.encode(state).decode(), "whole numbers only"


@pytest.mark.req("ORCH-4153")
def test_a_class_that_starts_unranked_is_booked_like_one_that_was_ranked() -> None:
    """A batch start moves the clock on by a whole round of eight."""
    unranked, ranked = fairness.ShareState(), fairness.ShareState()
    fairness.order(ranked, WEIGHTS, ["batch"])
    for state in (unranked, ranked):
        fairness.serve(state, WEIGHTS, "batch")
        assert msgspec.json.encode(state) == b'{"pending":{},"clock":8}'


@pytest.mark.req("ORCH-4150")
@pytest.mark.parametrize(("limit", "wait_ms"), [(0.5, 2_000), (0.001, 1_000_000), (0.3, 3_334), (1.0, 1_000)])
def test_a_slow_rate_lets_one_in_after_exactly_its_interval(limit: float, wait_ms: int) -> None:
    """The time that a refusal tells is the first millisecond at which the next one is taken."""
    classes = (ClassSettings("interactive", 8, rate_limit_rps=limit), ClassSettings("batch", 1))
    for after_ms, accepted in ((wait_ms - 1, False), (wait_ms, True)):
        core = Driver(pool_settings(classes=classes))
        core.submit("first")
        core.submit("second")
        refusal = core.refusal().refusal
        assert (refusal.outcome, refusal.retry_after_ms) == (Outcome.REJECTED_RATE, wait_ms)
        assert (refusal.engine, refusal.pool_id) == ("llamacpp", "p")
        effects = core.submit("second", after_ms=after_ms)
        assert bool(core.wanted(fx.Accept, effects)) is accepted


@pytest.mark.req("ORCH-4150")
def test_a_burst_is_one_second_s_worth_however_long_nobody_asked() -> None:
    """Three at once where three a second are allowed, a fourth not; an hour later three again and no more."""
    classes = (ClassSettings("interactive", 8, rate_limit_rps=3.0), ClassSettings("batch", 1))
    core = Driver(pool_settings(classes=classes))
    for hour in range(2):
        core.handle(ev.Ticked(), after_ms=3_600_000)
        asked = [bool(core.wanted(fx.Accept, core.submit(f"{hour}-{number}"))) for number in range(4)]
        assert asked == [True, True, True, False]


@pytest.mark.req("ORCH-4150")
def test_asking_again_and_again_does_not_put_the_next_task_off() -> None:
    """A client that tries every millisecond gets in when one that waited would, and is told what is left each time."""
    classes = (ClassSettings("interactive", 8, rate_limit_rps=0.5), ClassSettings("batch", 1))
    core = Driver(pool_settings(classes=classes))
    core.submit("first")
    for waited_ms in range(2_000):
        core.submit("second", after_ms=min(1, waited_ms))
        assert core.refusal().refusal.retry_after_ms == 2_000 - waited_ms
    assert core.wanted(fx.Accept, core.submit("second", after_ms=1))


@pytest.mark.req("ORCH-4149")
@pytest.mark.parametrize(("decode_us", "refused"), [(1_000, False), (2_000, True)])
def test_a_deadline_that_can_just_be_met_is_taken(decode_us: int, refused: bool) -> None:
    """Three prompt tokens of 100 µs and one token of a millisecond fit into one millisecond, whole ones counted."""
    core = Driver(up=False)
    core.ready("pr0", decode_us_per_token=decode_us)
    effects = core.submit("t", deadline_ms=1)
    assert bool(core.wanted(fx.Refuse, effects)) is refused
    if refused:
        refusal = core.refusal().refusal
        assert (refusal.retry_after_ms, refusal.engine, refusal.pool_id) == (2, "llamacpp", "p")


@pytest.mark.req("ORCH-4149")
def test_without_an_end_of_its_own_a_task_decodes_all_its_tokens() -> None:
    """One that ignores the end of text needs every token of its limit, and the deadline is held against that."""
    core = Driver()
    core.submit("t", deadline_ms=7, sampling=Sampling(ignore_eos=True))
    assert core.refusal().refusal.retry_after_ms == 8
    assert core.wanted(fx.Accept, core.submit("t", deadline_ms=8, sampling=Sampling(ignore_eos=True)))


@pytest.mark.req("ORCH-4148")
def test_the_template_of_a_chat_counts_for_its_messages() -> None:
    """Fixed bytes once and a message's bytes for each, on top of what was said."""
    core = Driver(pool_settings(ctx=64), up=False)
    core.ready("pr0", template_fixed_bytes=10, template_message_bytes=5)
    spec = TaskSpec(messages=(Message("user", "ab"), Message("user", "c")), max_tokens=8)
    size = 2 + 1 + 2 * len("user")
    assert count_prompt(core.pool(), spec) == Counted(size + 1 + 10 + 2 * 5, "bytes_bound")
    assert count_prompt(core.pool(), msgspec.structs.replace(spec, max_tokens=64 - 32)) is not None
    assert count_prompt(core.pool(), msgspec.structs.replace(spec, max_tokens=64 - 31)) is None


@pytest.mark.req("ORCH-4165")
def test_a_small_pool_that_certainly_holds_a_prompt_is_as_good_as_a_wide_one() -> None:
    """Only where none certainly holds it the widest are asked."""
    core = Driver(pool_settings("a", ctx=64), pool_settings("b", ctx=256))
    core.submit("short")
    assert core.task("short").pool_id == "a"
    core.submit("long", prompt="x" * 100)
    assert core.task("long").pool_id == "b"


@pytest.mark.req("ORCH-3014")
def test_a_wish_for_ctx_is_met_up_to_the_pool_s() -> None:
    """Exactly the pool's ctx is enough, one token more is not, and no wish fits the smallest pool."""
    core = Driver()
    assert core.wanted(fx.Accept, core.submit("t", ctx=256)) != []
    core.submit("u", ctx=257)
    assert core.refusal().refusal.faults[0].pointer == "/ctx"
    tiny = Driver(pool_settings(ctx=1))
    assert isinstance(fitting_pools(tiny.core.state, TaskSpec(prompt="")), Fit)


@pytest.mark.req("ORCH-4168", "ORCH-3045")
@pytest.mark.parametrize(
    ("wish", "determinism", "profile"),
    [
        ({}, "strict", "v1"),
        ({"determinism": "strict"}, "strict", "v1"),
        ({"determinism": "best_effort"}, "best_effort", "v1"),
        ({"sampler_profile_version": "greedy-v1"}, "strict", "greedy-v1"),
    ],
)
def test_promise_and_profile_are_those_asked_for_or_the_pool_s(
    wish: dict[str, object], determinism: str, profile: str
) -> None:
    """A task is strict where nothing else was said, and has the pool's own profile where none was named."""
    core = Driver()
    effects = core.submit("t", **wish)
    assert core.wanted(fx.Accept, effects)[0].determinism == determinism
    assert core.wanted(fx.StartAttempt, effects)[0].profile == profile


def unready(case: str) -> Refusal:
    """Bring a pool of two replicas into a state where it takes nothing, and ask it."""
    core = Driver(pool_settings(replicas=2), up=False)
    if case != "first starting":
        core.ready("pr0")
    for name in {"lost": ("pr0", "pr1"), "drained": ("pr0", "pr1")}.get(case, ("pr1",)):
        core.handle(ev.ReplicaLost(ReplicaId(name), "exit", "scripted"))
    if case == "drained":
        core.handle(ev.DrainRequested(core.reply(), PoolId("p"), 0))
    if case in ("suspect and starting", "back and suspect"):
        core.handle(ev.TimerFired(("restart", "pr1")))
    if case in ("suspect", "suspect and starting", "back and suspect"):
        core.submit("t")
        core.fail(1, "lost")
    if case == "back and suspect":
        core.ready("pr1")
        core.fail(2, "lost")
    core.submit("asks")
    return core.refusal().refusal


@pytest.mark.req("ORCH-4118", "ORCH-4121")
@pytest.mark.parametrize(
    ("case", "outcome", "doing"),
    [
        ("lost", Outcome.POOL_UNAVAILABLE, "has no live replica"),
        ("suspect", Outcome.POOL_UNAVAILABLE, "has no live replica"),
        ("first starting", Outcome.POOL_UNREADY, "is loading"),
        ("suspect and starting", Outcome.POOL_UNREADY, "is loading"),
        ("back and suspect", Outcome.POOL_UNREADY, "is loading"),
        ("drained", Outcome.POOL_UNREADY, "is drained"),
    ],
)
def test_a_pool_that_takes_nothing_says_whether_it_comes_up(case: str, outcome: Outcome, doing: str) -> None:
    """Unavailable only when replicas failed and none is on its way up; a drained pool is drained, whatever its replicas do."""
    refusal = unready(case)
    assert (refusal.outcome, refusal.message) == (outcome, f"pool p {doing}; try again later")
    assert (refusal.engine, refusal.pool_id) == ("llamacpp", "p")


@pytest.mark.req("ORCH-4120")
def test_a_pool_that_is_almost_up_is_worth_another_try_at_once() -> None:
    """A start that took 40 s before and has taken 39.999 s now leaves one millisecond."""
    core = Driver(up=False)
    core.now_ms += 40_000
    core.ready("pr0")
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "exit", "scripted"))
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.submit("t", after_ms=39_999)
    assert core.refusal().refusal.retry_after_ms == 1


@pytest.mark.req("ORCH-4420")
@pytest.mark.parametrize("cause", ["checksum", "model_file"])
def test_a_refused_model_is_named_as_the_reason_without_its_path(cause: ev.CrashCause) -> None:
    """A client learns that the model is refused; where its file lies is the operator's."""
    core = Driver(up=False)
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), cause, "model file /secret/m.gguf is empty"))
    core.submit("t")
    refusal = core.refusal().refusal
    assert refusal.message == "pool p has no live replica: its model file is refused; try again later"
    assert refusal.outcome is Outcome.POOL_UNAVAILABLE
