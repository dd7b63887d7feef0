"""Accounts of tenants and keys through the whole core, against a model that adds everything up anew each time."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import quotas
from orchqueue.core.ids import AttemptId, ReplicaId, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Accepted, Bound, Ended
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Quotas, TenantSettings
from tests.unit.core.driving import Driver, both_classes, pool_settings

# "hi" counts as at most three tokens; the engine says two.
PROMPT, COUNTED = 3, 2
TENANTS = ("a", "b")
KEYS = ("k", "l")
LIMITS = (
    Quotas(requests_per_s=0.5, burst=3, concurrent_tasks=4),
    Quotas(tokens_per_minute=40, queued_tasks=2),
    Quotas(requests_per_s=1, burst=4, tokens_per_minute=60, concurrent_tasks=3, queued_tasks=2),
    Quotas(concurrent_tasks=2),
    Quotas(),
)
PICKS = st.integers(0, 99)


@dataclass
class Row:
    """One accepted task, and when it took what."""

    tenant: str
    key_id: str
    max_tokens: int
    accepted: Accepted
    phase: str = "waiting"
    ended: Ended | None = None
    attempt: int = 0
    ever_started: bool = False
    streamed: int = 0
    said: int = 0
    heard: int = 0

    @property
    def used(self) -> int:
        """Say what its client was given, if an engine took it at all."""
        return PROMPT + self.streamed if self.ever_started else 0


@dataclass
class Took:
    """What was taken from a bucket, and when."""

    requests: list[tuple[int, int]] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)


def missing(took: list[tuple[int, int]], back_per_ms: int, unit: int, now_ms: int) -> int:
    """Add up from the first to the last what is not back by now."""
    level, as_of = 0, 0
    for at_ms, amount in [*sorted(took, key=lambda move: move[0]), (now_ms, 0)]:
        if at_ms > as_of:
            level, as_of = max(0, level - (at_ms - as_of) * back_per_ms), at_ms
        level = max(0, level + amount * unit)
    return level


class LedgerMachine(RuleBasedStateMachine):
    """Two tenants with two keys each on two slots; tasks come, fail, are canceled and withdrawn; the daemon crashes."""

    @initialize(limits=st.sampled_from(LIMITS), per_key=st.sampled_from(LIMITS))
    def begin(self, limits: Quotas, per_key: Quotas) -> None:
        self.terms = TenantSettings("a", 1, limits, per_key)
        self.count = 0
        self.rows: dict[str, Row] = {}
        self.took: dict[tuple[str, str | None], Took] = {}
        self.boot(1_000_000)
        self.come_up()

    def boot(self, now_ms: int) -> None:
        pool = pool_settings(replicas=2, capacity=1_000, classes=both_classes(1_000))
        self.core = Driver(pool, up=False, tenants=(self.terms,))
        self.core.now_ms = now_ms

    # what is expected

    def accounts(self, tenant: str, key_id: str) -> list[tuple[str, str | None, Quotas]]:
        if tenant != "a":
            return []
        return [("tenant", None, self.terms.quotas), ("key", key_id, self.terms.quotas_per_key)]

    def open_rows(self, key_id: str | None) -> list[Row]:
        return [r for r in self.rows.values() if r.tenant == "a" and key_id in (None, r.key_id) and r.phase != "ended"]

    def take(self, row: Row, requests: int, tokens: int, at_ms: int | None = None) -> None:
        for _, key_id, _ in self.accounts(row.tenant, row.key_id):
            took = self.took.setdefault((row.tenant, key_id), Took())
            at = self.core.now_ms if at_ms is None else at_ms
            if requests:
                took.requests.append((at, requests))
            if tokens:
                took.tokens.append((at, tokens))

    def rate_wait_ms(self, quotas: Quotas, key_id: str | None, name: str, tokens: int) -> int:
        took, now_ms = self.took.get(("a", key_id), Took()), self.core.now_ms
        if name == "requests_per_s":
            per_ms, unit, need = round((quotas.requests_per_s or 0) * 1_000), 1_000_000, 1
            room, level = (quotas.burst or 0) * unit, missing(took.requests, per_ms, unit, now_ms)
        else:
            per_ms, unit, need = quotas.tokens_per_minute or 0, 60_000, tokens
            room, level = per_ms * unit, missing(took.tokens, per_ms, unit, now_ms)
        return max(0, -(-(level + need * unit - room) // per_ms))

    def expected(self, tenant: str, key_id: str, tokens: int) -> tuple[str, str, int | None] | None:
        """Say which quota of whom refuses a task, and for how long where that is a rate."""
        sides = self.accounts(tenant, key_id)
        for scope, _, limits in sides:
            if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
                return "never", scope, None
        for name in ("requests_per_s", "tokens_per_minute", "concurrent_tasks", "queued_tasks"):
            for scope, account, limits in sides:
                limit = getattr(limits, name)
                if limit is None:
                    continue
                if name.endswith("tasks"):
                    held = [r for r in self.open_rows(account) if name == "concurrent_tasks" or r.phase == "waiting"]
                    if len(held) >= limit:
                        return name, scope, None
                elif wait_ms := self.rate_wait_ms(limits, account, name, tokens):
                    return name, scope, wait_ms
        return None

    # what happens

    def follow(self, effects: list[fx.AnyEffect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.StartAttempt):
                row = self.rows[effect.key.rpartition("/")[2]]
                row.phase, row.attempt, row.ever_started = "running", effect.attempt_id, True
            if isinstance(effect, fx.Finish):
                row = self.rows[effect.key.rpartition("/")[2]]
                row.phase, row.ended = "ended", effect.ended
                self.take(row, 0, row.used - PROMPT - row.max_tokens)

    def of_phase(self, pick: int, *phases: str) -> tuple[str, Row] | None:
        names = sorted(name for name, row in self.rows.items() if row.phase in phases)
        return (names[pick % len(names)], self.rows[names[pick % len(names)]]) if names else None

    def key(self, name: str) -> TaskKey:
        return task_key(Tenant(self.rows[name].tenant), TaskId(name))

    def come_up(self) -> None:
        for name in ("pr0", "pr1"):
            self.follow(self.core.ready(name))

    @rule(
        tenant=st.sampled_from(TENANTS),
        key_id=st.sampled_from(KEYS),
        max_tokens=st.sampled_from([1, 7, 17, 50]),
        count=st.integers(1, 4),
    )
    def submit(self, tenant: str, key_id: str, max_tokens: int, count: int) -> None:
        for _ in range(count):
            self.ask(tenant, key_id, max_tokens)

    def ask(self, tenant: str, key_id: str, max_tokens: int) -> None:
        self.count += 1
        name = f"t{self.count:03}"
        spec = TaskSpec(prompt="hi", seed=1, max_tokens=max_tokens)
        asked = ev.TaskSubmitted(self.core.reply(), TaskId(name), Tenant(tenant), spec, key_id)
        expected = self.expected(tenant, key_id, PROMPT + max_tokens)
        effects = self.core.handle(asked)
        refusal = next((e.refusal for e in effects if isinstance(e, fx.Refuse)), None)
        if refusal is not None and refusal.outcome is Outcome.POOL_UNREADY:
            assert not self.core.pool().ready
            return
        if refusal is None:
            assert expected is None, f"{expected} was not kept"
            (accepted,) = (e.record for e in effects if isinstance(e, fx.Record) and isinstance(e.record, Accepted))
            self.rows[name] = Row(tenant, key_id, max_tokens, accepted)
            self.take(self.rows[name], 1, PROMPT + max_tokens)
            self.follow(effects)
            return
        self.judge(refusal, expected, key_id)

    def judge(self, refusal: Refusal, expected: tuple[str, str, int | None] | None, key_id: str) -> None:
        assert expected is not None, f"refused for nothing: {refusal.message}"
        name, scope, wait_ms = expected
        assert (" of tenant a " if scope == "tenant" else f" of key {key_id} ") in refusal.message
        if name == "never":
            assert refusal.outcome is Outcome.INVALID
            return
        assert f"quota {name} " in refusal.message
        assert refusal.outcome is (Outcome.REJECTED_RATE if wait_ms else Outcome.REJECTED_QUOTA)
        assert refusal.retry_after_ms is not None
        assert refusal.retry_after_ms == wait_ms if wait_ms else refusal.retry_after_ms > 0

    @precondition(lambda self: self.of_phase(0, "running"))
    @rule(pick=PICKS)
    def stream(self, pick: int) -> None:
        name, row = self.of_phase(pick, "running") or ("", None)
        assert row is not None, name
        self.core.chunk(row.attempt)
        row.streamed, row.heard = 1, row.heard + 1
        row.said = max(row.said, row.heard)

    @precondition(lambda self: self.of_phase(0, "running"))
    @rule(pick=PICKS, tokens=st.sampled_from([0, 3, 60]))
    def complete(self, pick: int, tokens: int) -> None:
        name, row = self.of_phase(pick, "running") or ("", None)
        assert row is not None, name
        row.streamed = tokens + COUNTED - PROMPT
        if row.heard < row.said:
            # A strict task says again what an earlier attempt said.
            self.core.chunk(row.attempt, "a" * (row.said - row.heard))
        self.follow(self.core.complete(row.attempt, tokens))

    @precondition(lambda self: self.of_phase(0, "running"))
    @rule(pick=PICKS, failure=st.sampled_from(["overloaded", "engine_error", "rejected"]))
    def fail(self, pick: int, failure: ev.AttemptFailure) -> None:
        name, row = self.of_phase(pick, "running") or ("", None)
        assert row is not None, name
        attempt, row.phase, row.heard = row.attempt, "waiting", 0
        self.follow(self.core.handle(ev.AttemptFailed(AttemptId(attempt), failure, "scripted")))
        self.follow(self.core.close(attempt))
        if failure == "overloaded":
            self.follow(self.core.handle(ev.TimerFired(("cool", "pr0")), after_ms=500))
            self.follow(self.core.handle(ev.TimerFired(("cool", "pr1"))))

    @precondition(lambda self: self.of_phase(0, "running", "waiting"))
    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        name, row = self.of_phase(pick, "running", "waiting") or ("", None)
        assert row is not None, name
        ran = row.phase == "running"
        self.follow(self.core.handle(ev.CancelRequested(self.core.reply(), self.key(name))))
        if ran:
            self.follow(self.core.close(row.attempt))

    @precondition(lambda self: self.rows)
    @rule(pick=PICKS)
    def withdraw(self, pick: int) -> None:
        name, row = self.of_phase(pick, "running", "waiting", "ended") or ("", None)
        assert row is not None, name
        ran = row.phase == "running"
        self.follow(self.core.handle(ev.AcceptsWithdrawn((self.key(name),))))
        self.take(row, -1, -row.used)
        if ran:
            self.follow(self.core.close(row.attempt))
        del self.rows[name]

    @rule(ms=st.sampled_from([1, 700, 2_000, 30_000]))
    def wait(self, ms: int) -> None:
        self.core.now_ms += ms

    @rule()
    def crash(self) -> None:
        """Begin another life with what the journal has: ends in their order, then the rest. Withdrawn tasks never were."""
        self.boot(self.core.now_ms)
        self.took.clear()
        ended = sorted((r for r in self.rows.values() if r.ended), key=lambda r: r.ended.ended_at_ms if r.ended else 0)
        for row in ended:
            assert row.ended is not None
            self.core.handle(ev.TaskRestored(row.accepted, row.ended))
            self.take(row, 1, PROMPT + row.max_tokens, row.accepted.accepted_at_ms)
            self.take(row, 0, row.used - PROMPT - row.max_tokens, row.ended.ended_at_ms)
        for row in [r for r in self.rows.values() if r.phase != "ended"]:
            started = Bound(row.accepted.tenant, row.accepted.task_id, ReplicaId("p-0"), 1)
            self.core.handle(ev.TaskRecovered(row.accepted, started if row.ever_started else None))
            row.phase, row.ever_started, row.streamed, row.said, row.heard = "waiting", False, 0, 0, 0
            self.take(row, 1, PROMPT + row.max_tokens, row.accepted.accepted_at_ms)
        self.come_up()

    @rule(quotas=st.sampled_from(LIMITS[2:4]))
    def reload(self, quotas: Quotas) -> None:
        """Take the same limits again, beside new ones for somebody else: nothing is lost by that."""
        both = (self.terms, TenantSettings("c", 1, quotas))
        new = msgspec.structs.replace(self.core.core.state.settings, tenants=both)
        self.follow(self.core.handle(ev.SettingsReplaced(self.core.reply(), new)))

    @invariant()
    def the_accounts_are_what_the_rows_add_up_to(self) -> None:
        book = self.core.core.state.ledger.accounts
        for key_id in (None, *KEYS):
            open_rows = self.open_rows(key_id)
            account = book.get((Tenant("a"), key_id))
            limits = self.terms.quotas if key_id is None else self.terms.quotas_per_key
            if limits == Quotas():
                assert account is None
                continue
            held = (account.tasks, account.waiting, account.tokens) if account else (0, 0, 0)
            waiting = sum(r.phase == "waiting" for r in open_rows)
            assert held == (len(open_rows), waiting, sum(PROMPT + r.max_tokens for r in open_rows))
        assert not [key for key in book if key[0] != "a"]

    @invariant()
    def what_is_told_is_what_was_taken(self) -> None:
        now_ms = self.core.now_ms
        for key_id in KEYS:
            for use in quotas.uses(self.core.core.state, Tenant("a"), key_id, now_ms):
                took = self.took.get(("a", None if use.scope == "tenant" else key_id), Took())
                if use.quota == "requests_per_s":
                    level = missing(took.requests, round(use.limit * 1_000), 1_000_000, now_ms)
                    assert use.in_use == -(-level // 1_000_000)
                if use.quota == "tokens_per_minute":
                    level = missing(took.tokens, round(use.limit), 60_000, now_ms)
                    assert use.in_use == -(-level // 60_000)


TestLedger = pytest.mark.req("ORCH-4151", "ORCH-4300", "ORCH-4301", "ORCH-4302", "ORCH-4303", "ORCH-4236")(
    LedgerMachine.TestCase
)
TestLedger.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
