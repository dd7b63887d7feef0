"""Quotas through the whole core: what is refused and how, and that the accounts are right whatever becomes of a task."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import quotas
from orchqueue.core.accounts import TOKEN_UNITS, Account, Bucket
from orchqueue.core.ids import AttemptId, ReplicaId, TaskId, Tenant
from orchqueue.core.invariants import violations
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Quotas, Settings, TenantSettings, Timeouts
from tests.unit.core.driving import TENANT, Driver, both_classes, key, pool_settings

pytestmark = pytest.mark.req("ORCH-4151")
OTHER = Tenant("beta")
FREE = Quotas()
R = ReplicaId("pr0")
# "hi" counts as at most 3 tokens, and 8 more are asked for.
ASKED = 11


def limited(quotas: Quotas = FREE, per_key: Quotas = FREE, **pool: object) -> Driver:
    """Drive a core with one replica in which the tenant has quotas."""
    entry = TenantSettings(TENANT, 1, quotas, per_key)
    return Driver(msgspec.structs.replace(pool_settings(replicas=1), **pool), tenants=(entry,))


def submit(core: Driver, name: str, key_id: str = "k", tenant: Tenant = TENANT, **fields: object) -> Refusal | None:
    """Ask for a task with a key; give the refusal if there is one."""
    spec = msgspec.structs.replace(TaskSpec(prompt="hi", seed=1, max_tokens=8), **fields)
    effects = core.handle(ev.TaskSubmitted(core.reply(), TaskId(name), tenant, spec, key_id))
    return next((e.refusal for e in effects if isinstance(e, fx.Refuse)), None)


def submit_counted(core: Driver, name: str, tokens: int, prompt: str = "hi", max_tokens: int = 8) -> Refusal | None:
    """Ask for a task whose prompt the tokenizer has to count; give the refusal if there is one."""
    assert submit(core, name, prompt=prompt, max_tokens=max_tokens) is None
    assert core.wanted(fx.CountPrompt, core.last)
    effects = core.handle(ev.PromptCounted(key(name), tokens))
    return next((e.refusal for e in effects if isinstance(e, fx.Refuse)), None)


def account(core: Driver, key_id: str | None = None) -> Account:
    """Give the tenant's account, or its key's."""
    return core.core.state.ledger.accounts.get((TENANT, key_id)) or Account()


def missing(core: Driver) -> int:
    """Tell how many of the tenant's tokens are missing now."""
    entry = core.core.state.settings.tenant(TENANT)
    return account(core).tokens_taken.taken_at(entry.quotas.tokens_per_minute or 0, core.now_ms) // TOKEN_UNITS


@pytest.mark.req("ORCH-4307")
@pytest.mark.parametrize(
    ("allowed", "outcome", "words"),
    [
        (Quotas(requests_per_s=0.5), Outcome.REJECTED_RATE, "quota requests_per_s of {} is 0.5; slow down"),
        (
            Quotas(tokens_per_minute=20),
            Outcome.REJECTED_RATE,
            "quota tokens_per_minute of {} is 20; wait, or ask for fewer max_tokens",
        ),
        (
            Quotas(concurrent_tasks=1),
            Outcome.REJECTED_QUOTA,
            "quota concurrent_tasks of {} is 1; wait for one to end, or cancel one",
        ),
    ],
)
def test_a_refusal_says_which_quota_whose_how_much_and_what_to_do(
    allowed: Quotas, outcome: Outcome, words: str
) -> None:
    """The tenant's, the key's, and that of calls without a key; never a word of anybody else."""
    for core, key_id, whose in (
        (limited(allowed), "k", "tenant acme"),
        (limited(per_key=allowed), "k", "key k"),
        (limited(per_key=allowed), "", "calls without a key"),
    ):
        assert submit(core, "one", key_id) is None
        refusal = submit(core, "two", key_id)
        assert refusal is not None
        assert (refusal.outcome, refusal.message) == (outcome, words.format(whose))
        assert (refusal.engine, refusal.pool_id, refusal.task_id) == ("llamacpp", "p", "two")
        assert submit(core, "three", tenant=OTHER) is None


def test_waiting_tasks_are_limited_and_starting_makes_room() -> None:
    """One runs, one waits, the next is refused; when the waiting one starts the next may wait."""
    core = limited(Quotas(queued_tasks=1))
    assert (submit(core, "one"), submit(core, "two")) == (None, None)
    refusal = submit(core, "three")
    assert refusal is not None
    assert refusal.message == "quota queued_tasks of tenant acme is 1; wait for one to start, or cancel one"
    assert (account(core).tasks, account(core).waiting) == (2, 1)
    core.complete(1)
    assert submit(core, "three") is None


def test_a_task_that_waits_again_is_never_refused_for_it() -> None:
    """Above its tenant's limit it stays, and only newcomers feel it."""
    core = limited(Quotas(queued_tasks=1))
    submit(core, "one")
    submit(core, "two")
    core.fail(1, "overloaded")
    assert (account(core).tasks, account(core).waiting) == (2, 2)
    assert core.wanted(fx.Finish) == []
    assert submit(core, "three") is not None


@pytest.mark.req("ORCH-4307")
@pytest.mark.parametrize(("allowed", "key_id"), [(Quotas(concurrent_tasks=2), "k"), (Quotas(queued_tasks=1), "k")])
def test_it_tells_to_come_back_when_the_first_running_task_should_end(allowed: Quotas, key_id: str) -> None:
    """8 tokens at 1 ms as long as none has come, then those that are left; a tenant waits for tasks of any of its keys."""
    core = limited(allowed)
    submit(core, "one", key_id)
    submit(core, "two", key_id)
    core.now_ms += 3
    refusal = submit(core, "three", "another")
    assert refusal is not None
    assert (refusal.outcome, refusal.retry_after_ms) == (Outcome.REJECTED_QUOTA, 8)
    core.handle(ev.ChunksArrived(AttemptId(1), ("a",), 6))
    refusal = submit(core, "three", key_id)
    assert refusal is not None
    assert refusal.retry_after_ms == 2


@pytest.mark.req("ORCH-4307")
def test_where_none_of_its_tasks_runs_it_comes_back_when_one_could_have_run() -> None:
    """Another key's task frees the slot in 8 ms, and its own takes another 8."""
    core = limited(per_key=Quotas(concurrent_tasks=1))
    submit(core, "one", "l")
    submit(core, "two")
    refusal = submit(core, "three")
    assert refusal is not None
    assert refusal.retry_after_ms == 16


@pytest.mark.req("ORCH-4306")
def test_a_task_that_needs_more_than_a_minute_has_is_told_what_would_fit() -> None:
    """400 at the pointer of max_tokens, by the tokenizer's count; a prompt that is too long alone leaves nothing."""
    core = limited(Quotas(tokens_per_minute=10))
    text = "quota tokens_per_minute of tenant acme is 10; prompt 3 and max_tokens 8 never fit, at most 7 would"
    assert submit_counted(core, "t", 3) == Refusal(
        Outcome.INVALID, f"/max_tokens: {text}", (Fault("/max_tokens", text),), task_id="t"
    )
    assert submit(core, "t", max_tokens=7) is None
    core.cancel("t")
    core.close(1)
    core.now_ms += 60_000
    assert submit_counted(core, "fits by its tokens", 2, prompt="xx xx") is None
    refusal = submit_counted(core, "u", 41, prompt="x" * 40)
    assert refusal is not None
    assert refusal.message.endswith("prompt 41 and max_tokens 8 never fit, at most 0 would")


@pytest.mark.req("ORCH-4306")
def test_context_is_limited_where_the_engine_tells_its_size() -> None:
    """Tasks hold prompt and output, warm sessions what is cached; more than all of it is 400, more than is left 429."""
    core = limited(Quotas(kv_mb=3), Quotas(kv_mb=2), strict=False, slots=2)
    assert submit(core, "untold", max_tokens=200) is None
    core.complete(1)
    core.handle(ev.ReplicaLost(R, "exit", ""))
    core.handle(ev.TimerFired(("restart", "pr0")), after_ms=100_000)
    core.ready("pr0", kv_bytes_per_token=100_000)
    text = (
        "quota kv_mb of key k is 2 MB, room for 20 tokens of context; "
        "prompt 3 and max_tokens 18 never fit, at most 17 would"
    )
    assert submit_counted(core, "t", 3, max_tokens=18) == Refusal(
        Outcome.INVALID, f"/max_tokens: {text}", (Fault("/max_tokens", text),), task_id="t"
    )
    assert submit(core, "t", session_id="s", max_tokens=17) is None
    assert account(core).kv_bytes == account(core, "k").kv_bytes == 2_000_000
    attempt = core.wanted(fx.StartAttempt)[-1].attempt_id
    core.handle(ev.AttemptCompleted(attempt, "stop", 3, 9, 1, 9))
    core.close(attempt)
    assert (account(core), account(core, "k")) == (Account(), Account())
    assert quotas.uses(core.core.state, TENANT, "k", core.now_ms)[0].in_use == 2
    assert submit(core, "u", max_tokens=15) is None
    refusal = submit(core, "v", "l", max_tokens=1)
    assert refusal is not None
    assert refusal.message == "quota kv_mb of tenant acme is 3 MB; wait for a task to end, or delete a session"
    assert refusal.outcome is Outcome.REJECTED_QUOTA
    core.cancel("u")
    core.now_ms += 1_000
    refusal = submit(core, "w", "l", max_tokens=17)
    assert refusal is not None
    assert refusal.retry_after_ms == 600_000 - 1_000
    core.handle(ev.SessionDeleteRequested(core.reply(), (TENANT, "s")))
    assert submit(core, "w", "l", max_tokens=17) is None


def test_the_context_of_all_sessions_counts() -> None:
    """Two slots keep two."""
    core = limited(Quotas(kv_mb=30), strict=False, slots=2)
    core.handle(ev.ReplicaLost(R, "exit", ""))
    core.handle(ev.TimerFired(("restart", "pr0")), after_ms=100_000)
    core.ready("pr0", kv_bytes_per_token=1_000_000)
    for number, name in enumerate(("one", "two"), start=1):
        submit(core, name, session_id=name)
        core.handle(ev.AttemptCompleted(AttemptId(number), "stop", 3, number, 1, 1))
        core.close(number)
    assert quotas.uses(core.core.state, TENANT, "k", core.now_ms)[0].in_use == 4 + 5


def test_context_that_another_task_has_taken_the_place_of_is_not_held() -> None:
    """One slot keeps one session's context; and a session whose time is over keeps none."""
    core = limited(Quotas(kv_mb=30), strict=False)
    facts = core.core.state.replicas[R].facts
    assert facts is not None
    core.core.state.replicas[R].facts = msgspec.structs.replace(facts, kv_bytes_per_token=1_000_000)
    for number, name in enumerate(("one", "two"), start=1):
        submit(core, name, session_id=name)
        core.handle(ev.AttemptCompleted(AttemptId(number), "stop", 3, number, 1, 1))
        core.close(number)
        assert quotas.uses(core.core.state, TENANT, "k", core.now_ms)[0].in_use == 3 + number
    assert quotas.uses(core.core.state, TENANT, "k", core.now_ms + 599_999)[0].in_use == 5
    assert quotas.uses(core.core.state, TENANT, "k", core.now_ms + 600_000)[0].in_use == 0


@pytest.mark.req("ORCH-4303")
def test_a_refusal_takes_nothing_and_a_repeat_neither() -> None:
    """Neither for a full queue, nor for a quota, nor for the same task again; not even from the class's rate."""
    classes = tuple(msgspec.structs.replace(c, rate_limit_rps=100.0) for c in both_classes(capacity=1))
    core = limited(Quotas(requests_per_s=100, tokens_per_minute=100_000), classes=classes)
    submit(core, "running")
    submit(core, "waiting")
    before = (account(core).requests_taken.taken, missing(core), dict(core.pool().rate_tokens_micro))
    refusal = submit(core, "full")
    assert refusal is not None
    assert refusal.outcome is Outcome.REJECTED_FULL
    assert submit(core, "waiting") is None
    assert before == (account(core).requests_taken.taken, missing(core), dict(core.pool().rate_tokens_micro))
    assert before == (2_000_000, 2 * ASKED, {"interactive": 98_000_000})
    core = limited(Quotas(concurrent_tasks=1, requests_per_s=9), classes=classes)
    submit(core, "running")
    submit(core, "beyond")
    assert core.pool().rate_tokens_micro == {"interactive": 99_000_000}
    assert account(core).requests_taken.taken == 1_000_000


@pytest.mark.req("ORCH-4303")
def test_the_order_of_refusals() -> None:
    """The deadline and the class's rate come before quotas, quotas before a full queue."""
    classes = tuple(msgspec.structs.replace(c, rate_limit_rps=1.0) for c in both_classes(capacity=1))
    core = limited(Quotas(concurrent_tasks=2), classes=classes)
    submit(core, "one")
    found = [submit(core, "x", deadline_ms=1, max_tokens=1, prompt="x" * 240), submit(core, "y")]
    core.now_ms += 1_000
    submit(core, "two")
    core.now_ms += 1_000
    found.append(submit(core, "z"))
    outcomes = [refusal.outcome if refusal else None for refusal in found]
    assert outcomes == [Outcome.REJECTED_DEADLINE, Outcome.REJECTED_RATE, Outcome.REJECTED_QUOTA]


@pytest.mark.req("ORCH-4301")
def test_every_way_to_end_settles_the_account_exactly() -> None:
    """Waiting, running, with text, completed, failed, retried, dropped: what was delivered is used, the rest is back."""
    core = limited(Quotas(tokens_per_minute=60_000, concurrent_tasks=50, queued_tasks=50), timeouts=Timeouts(60_000))
    submit(core, "completed")
    core.handle(ev.AttemptCompleted(AttemptId(1), "stop", 5, 7, 1, 7))
    assert missing(core) == 12
    core.close(1)
    submit(core, "canceled while it ran")
    submit(core, "canceled while it waited")
    assert missing(core) == 12 + 2 * ASKED
    core.cancel("canceled while it waited")
    assert core.task("canceled while it waited").hold is None
    core.chunk(2)
    core.cancel("canceled while it ran")
    assert missing(core) == 12 + 3 + 1
    core.close(2)
    submit(core, "retried")
    core.fail(3, "overloaded")
    core.handle(ev.TimerFired(("cool", "pr0")), after_ms=500)
    assert missing(core) == 0
    core.handle(ev.AttemptCompleted(AttemptId(4), "length", 2, 2, 1, 7))
    assert account(core) == Account(tokens_taken=Bucket(0, core.now_ms))
    core.close(4)
    submit(core, "wall", max_tokens=100)
    core.handle(ev.TimerFired(("wall", key("wall"))), after_ms=60_000)
    core.close(5)
    assert (account(core).tasks, account(core).waiting, account(core).tokens) == (0, 0, 0)
    core.now_ms += 60_000
    assert missing(core) == 0


def test_a_victim_makes_room_in_its_own_account() -> None:
    """A waiting task that gives its place up holds nothing any more, and the newcomer holds what it needs."""
    core = limited(Quotas(concurrent_tasks=3), classes=both_classes(1, "drop-lru"))
    for name in ("one", "two", "three"):
        assert submit(core, name) is None
    assert account(core).tasks == 2
    assert submit(core, "four") is None
    assert account(core).tasks == 2


@pytest.mark.req("ORCH-4189")
@pytest.mark.parametrize("ended", [False, True])
def test_a_withdrawn_task_took_nothing(*, ended: bool) -> None:
    """Its client was told 503: request, tokens and place are back, whether it ended before or by that."""
    allowed = Quotas(requests_per_s=5, tokens_per_minute=600, concurrent_tasks=2)
    core = limited(allowed, allowed)
    submit(core, "t")
    core.chunk(1)
    if ended:
        core.cancel("t")
    core.handle(ev.JournalStalled("disk full"))
    core.handle(ev.AcceptsWithdrawn((key("t"),)))
    nothing = Account(requests_taken=Bucket(0, core.now_ms), tokens_taken=Bucket(0, core.now_ms))
    assert account(core) == account(core, "k") == nothing


def test_idle_accounts_go_as_tasks_come() -> None:
    """Two are looked at with each accepted task of a tenant that has limits."""
    core = limited(per_key=Quotas(concurrent_tasks=9))
    for number in range(6):
        submit(core, f"t{number}", f"k{number}")
        core.cancel(f"t{number}")
        core.close(number + 1)
        assert [key_id for _, key_id in core.core.state.ledger.accounts] == [f"k{number}"]
    submit(core, "other", tenant=OTHER)
    assert len(core.core.state.ledger.accounts) == 1


@pytest.mark.req("ORCH-4236")
def test_the_invariants_see_accounts_that_are_wrong() -> None:
    """A hold that is missing, one too many, one in the wrong phase, and sums that drifted."""
    core = limited(Quotas(concurrent_tasks=5))
    submit(core, "t")
    task, state = core.task("t"), core.core.state
    hold = task.hold
    assert hold is not None
    task.hold = None
    assert f"{task.key} holds None of an account that exists" in violations(state)
    task.hold = hold
    hold.waiting = True
    state.ledger.accounts[TENANT, None].waiting = 1
    assert violations(state) == [f"{task.key} is bound and booked as waiting: True"]
    hold.waiting = False
    assert violations(state) == ["the account of ('acme', None) has booked (1, 1, 11, 0), its tasks hold (1, 0, 11, 0)"]
    free = Driver()
    free.submit("t")
    free.task("t").hold = hold
    assert violations(free.core.state) == [
        f"{key('t')} holds {hold} of an account that does not exist",
    ]


def test_settings_find_a_tenant() -> None:
    """Its own entry, else that of all others, else defaults of its name; a changed copy looks into its own list."""
    own, others = TenantSettings("a", 3), TenantSettings("*", 2)
    settings = Settings((), tenants=(own, others))
    assert (settings.tenant("a"), settings.tenant("b")) == (own, others)
    changed = msgspec.structs.replace(settings, tenants=(own,))
    assert changed.tenant("b") == TenantSettings("b", 1, Quotas(), Quotas())
