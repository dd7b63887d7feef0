"""Keeps quotas by hand, for one life of the daemon: it sees events in and effects out, never the core's accounts.

It keeps every movement of every bucket and adds them all up whenever it is asked, so it knows no shortcut that could be wrong
in the way in which the core's are. Context in megabytes is not kept: the simulated engines do not tell its size.

Req: ORCH-4151, ORCH-4300, ORCH-4301, ORCH-4302, ORCH-4303, ORCH-4308
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from orchqueue.adapters.journals.usage_rows import UsageRows
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId, TaskKey, Tenant, task_key
from orchqueue.core.ledger import QuotaUse
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Accepted, Ended, Forgotten
from orchqueue.core.settings import Quotas, Settings
from orchqueue.core.usage import Usage
from orchqueue_sim.losses import loss_of

KEYS = ("k0", "k1")
TENANTS = (Tenant("t0"), Tenant("t1"))
RATES = ("requests_per_s", "tokens_per_minute")
NAMES = (*RATES, "concurrent_tasks", "queued_tasks")


def key_of(task_id: str) -> str:
    """Choose the key that a simulated client shows for a task."""
    return KEYS[int(task_id[0], 16) % 2]


class Entry(msgspec.Struct):
    """One task that was accepted in this life, or told of by the journal."""

    accepted: Accepted
    waiting: bool = True
    ended: bool = False
    ever_ran: bool = False
    attempt_id: AttemptId | None = None
    replica_id: ReplicaId | None = None
    tokens_out: int = 0
    base_tokens: int = 0
    used: int = 0

    @property
    def reserved(self) -> int:
        """Say what was taken for it at its acceptance."""
        return self.accepted.prompt_tokens + self.accepted.spec.max_tokens


class Pending(msgspec.Struct):
    """A submission whose prompt is being counted."""

    tenant: Tenant
    key_id: str
    bytes_sent: int
    max_tokens: int


class Bookkeeper:
    """All accounts, by hand. `decided` gives what is wrong, empty when nothing is."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: dict[TaskKey, Entry] = {}
        self._counting: dict[TaskKey, Pending] = {}
        self._moves: dict[tuple[Tenant, str | None, str], list[tuple[int, int]]] = {}
        self.refused = 0

    def decided(self, now_ms: int, event: ev.AnyEvent, effects: Sequence[fx.AnyEffect]) -> str:
        """See one event and its effects."""
        problem = self._judged(now_ms, event, effects)
        self._happened(now_ms, event, effects)
        for effect in effects:
            match effect:
                case fx.Record(record=Accepted() as record):
                    self._accepted(now_ms, record)
                case fx.Record(record=Forgotten() as forgotten):
                    problem = problem or self._forgotten(forgotten, event)
                case fx.CountPrompt() if isinstance(event, ev.TaskSubmitted):
                    self._counting[effect.key] = _pending(event)
                case fx.StartAttempt():
                    entry = self._entries[effect.key]
                    entry.waiting, entry.ever_ran = False, True
                    entry.base_tokens = entry.tokens_out if effect.said else 0
                    entry.attempt_id, entry.replica_id = effect.attempt_id, effect.replica_id
                case fx.EmitTokens() if isinstance(event, ev.ChunksArrived):
                    entry = self._entries[effect.key]
                    entry.tokens_out = entry.base_tokens + event.tokens_out
                case fx.Finish() if not isinstance(event, ev.AcceptsWithdrawn):
                    self._ended(now_ms, effect.key, event, effect.ended.outcome)
        return problem

    # what was allowed

    def _judged(self, now_ms: int, event: ev.AnyEvent, effects: Sequence[fx.AnyEffect]) -> str:
        if isinstance(event, ev.TaskSubmitted):
            asked = _pending(event)
            guesses = {asked.bytes_sent + 1, asked.bytes_sent // 3 + 1}
        elif isinstance(event, ev.PromptCounted) and event.key in self._counting:
            asked = self._counting[event.key]
            guesses = {asked.bytes_sent // 3 + 1 if event.tokens is None else event.tokens}
        else:
            return ""
        for effect in effects:
            if isinstance(effect, fx.Record) and isinstance(effect.record, Accepted):
                tokens = effect.record.prompt_tokens + asked.max_tokens
                broken = self._broken(asked.tenant, asked.key_id, tokens, now_ms)
                return f"{effect.record.task_id} was accepted beyond {broken}" if broken else ""
            if isinstance(effect, fx.Refuse) and "quota " in effect.refusal.message:
                self.refused += 1
                found = [self._broken(asked.tenant, asked.key_id, g + asked.max_tokens, now_ms) for g in guesses]
                if not any(_says(effect.refusal, broken) for broken in found):
                    return f"refused with '{effect.refusal.message}' where {found} is to be told"
                return ""
        return ""

    def _broken(self, tenant: Tenant, key_id: str, tokens: int, now_ms: int) -> str:
        """Name the quota that a newcomer would break, and whose it is; empty when it breaks none."""
        sides = list(self._sides(tenant, key_id))
        for _, whose, quotas in sides:
            if quotas.tokens_per_minute is not None and tokens > quotas.tokens_per_minute:
                return f"tokens_per_minute of {whose}"
        for name in NAMES:
            for account, whose, quotas in sides:
                limit = getattr(quotas, name)
                more = tokens if name == "tokens_per_minute" else 1
                full = _burst(quotas) if name == "requests_per_s" else limit
                if limit is not None and self._in_use(tenant, account, name, limit, now_ms) + more * _unit(name) > (
                    full * _unit(name)
                ):
                    return f"{name} of {whose}"
        return ""

    def _sides(self, tenant: Tenant, key_id: str) -> Iterator[tuple[str | None, str, Quotas]]:
        entry = self._settings.tenant(tenant)
        yield None, f"tenant {tenant}", entry.quotas
        yield key_id, f"key {key_id}", entry.quotas_per_key

    def _in_use(self, tenant: Tenant, account: str | None, name: str, limit: float, now_ms: int) -> int:
        if name in RATES:
            moves = self._moves.get((tenant, account, name), [])
            return _missing(moves, round(limit * 1_000) if name == "requests_per_s" else int(limit), now_ms)
        return sum(
            not e.ended
            and e.accepted.tenant == tenant
            and account in (None, e.accepted.client_id)
            and (e.waiting or name == "concurrent_tasks")
            for e in self._entries.values()
        )

    # what happened

    def _happened(self, now_ms: int, event: ev.AnyEvent, effects: Sequence[fx.AnyEffect]) -> None:
        loss = loss_of(event, effects)
        if loss is not None:
            for entry in self._entries.values():
                if not entry.ended and not entry.waiting and loss.hits(entry.attempt_id, entry.replica_id):
                    entry.waiting, entry.attempt_id, entry.replica_id = True, None, None
        match event:
            case ev.TaskRecovered():
                self._accepted(min(now_ms, event.accepted.accepted_at_ms), event.accepted)
                entry = self._entries[task_key(event.accepted.tenant, event.accepted.task_id)]
                entry.ever_ran, entry.tokens_out = event.bound is not None, event.tokens_out
            case ev.TaskRestored():
                self._restored(now_ms, event.accepted, event.ended)
            case ev.PromptCounted():
                self._counting.pop(event.key, None)
            case ev.SettingsReplaced() if any(isinstance(e, fx.Done) for e in effects):
                self._settings = event.settings
            case ev.AcceptsWithdrawn():
                # Those that ended before come first.
                for key in sorted(event.keys, key=lambda key: key in self._entries and not self._entries[key].ended):
                    self._withdrawn(now_ms, key, event)

    def _accepted(self, at_ms: int, record: Accepted) -> None:
        entry = self._entries[task_key(record.tenant, record.task_id)] = Entry(record)
        self._move(record, "requests_per_s", at_ms, 1)
        self._move(record, "tokens_per_minute", at_ms, entry.reserved)

    def _restored(self, now_ms: int, accepted: Accepted, ended: Ended) -> None:
        """Count what an earlier life used, at the latest now: the machine's clock may have been set back since."""
        used = 0 if ended.started_at_ms is None else ended.tokens_in + ended.tokens_out
        self._accepted(min(now_ms, accepted.accepted_at_ms), accepted)
        entry = self._entries[task_key(accepted.tenant, accepted.task_id)]
        entry.ended, entry.used = True, used
        self._move(accepted, "tokens_per_minute", min(now_ms, ended.ended_at_ms), used - entry.reserved)

    def _ended(self, now_ms: int, key: TaskKey, event: ev.AnyEvent, outcome: Outcome) -> None:
        """Settle. An engine that went on from a text has counted that as a part of its prompt."""
        entry = self._entries[key]
        if isinstance(event, ev.AttemptCompleted) and outcome is Outcome.COMPLETED:
            read = max(0, event.tokens_in - entry.base_tokens)
            entry.used = read + event.tokens_out + entry.base_tokens
        elif entry.ever_ran:
            entry.used = entry.accepted.prompt_tokens + entry.tokens_out
        entry.ended, entry.waiting = True, False
        self._move(entry.accepted, "tokens_per_minute", now_ms, entry.used - entry.reserved)

    def _withdrawn(self, now_ms: int, key: TaskKey, event: ev.AnyEvent) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        if not entry.ended:
            self._ended(now_ms, key, event, Outcome.JOURNAL_DOWN)
        self._move(entry.accepted, "requests_per_s", now_ms, -1)
        self._move(entry.accepted, "tokens_per_minute", now_ms, -entry.used)

    def _forgotten(self, record: Forgotten, event: ev.AnyEvent) -> str:
        """Check that what a task used is booked as it goes, once, and nothing for one that never counted."""
        key = task_key(record.tenant, record.task_id)
        entry = self._entries.pop(key)
        withdrawn = isinstance(event, ev.AcceptsWithdrawn) and key in event.keys
        booked = [(b.accepted, b.tokens_in + b.tokens_out) for b in record.booked]
        found = tuple(map(sum, zip(*booked, strict=True))) if booked else (0, 0)
        right = (0, 0) if withdrawn else (1, entry.used)
        return "" if found == right else f"{record.task_id} is booked as {found}, it used {right}"

    def _move(self, record: Accepted, name: str, at_ms: int, amount: int) -> None:
        for account, _, _ in self._sides(record.tenant, record.client_id):
            moves = self._moves.setdefault((record.tenant, account, name), [])
            moves.append((at_ms, amount * _unit(name)))

    # what is told

    def compare(self, tenant: Tenant, key_id: str, told: Sequence[QuotaUse], now_ms: int) -> str:
        """Compare what a caller is told of its limits with the books."""
        for use in told:
            account = None if use.scope == "tenant" else key_id
            mine = -(-self._in_use(tenant, account, use.quota, use.limit, now_ms) // _unit(use.quota))
            if mine != use.in_use:
                return f"{use.quota} of {tenant} ({use.scope}, {key_id}) is told as {use.in_use}, the books say {mine}"
        limits = [getattr(quotas, name) for _, _, quotas in self._sides(tenant, key_id) for name in NAMES]
        if len(told) != sum(limit is not None for limit in limits):
            return f"{len(told)} limits of {tenant} are told, there are {limits}"
        return ""

    def left(self) -> list[TaskKey]:
        """List what still holds something."""
        return [key for key, entry in self._entries.items() if not entry.ended]


def compare_usage(shown: Usage, kept: UsageRows) -> str:
    """Compare what tenants are shown in the end, over all lives, with what the journal has booked of forgotten tasks."""
    booked = [
        (tenant, b.day, b.key_id, b.model_ref, b.accepted, b.succeeded, b.failed, b.canceled, b.tokens_in, b.tokens_out)
        for tenant, b in kept.rows()
    ]
    seen = [
        (tenant, row.day, *row.account, *msgspec.structs.astuple(row.amounts)[:-1])
        for tenant in TENANTS
        for row in shown.picture(tenant, 0, 1 << 40).rows
    ]
    return "" if sorted(booked) == sorted(seen) else f"the journal has booked {booked}, usage shows {seen}"


def _pending(event: ev.TaskSubmitted) -> Pending:
    return Pending(event.tenant, event.client_id, event.spec.prompt_bytes, event.spec.max_tokens)


def _unit(name: str) -> int:
    return {"requests_per_s": 1_000_000, "tokens_per_minute": 60_000}.get(name, 1)


def _burst(quotas: Quotas) -> int:
    return quotas.burst or max(1, int(quotas.requests_per_s or 0))


def _says(refusal: Refusal, broken: str) -> bool:
    return f"quota {broken} is " in refusal.message and refusal.outcome in (
        Outcome.REJECTED_RATE,
        Outcome.REJECTED_QUOTA,
        Outcome.INVALID,
    )


def _missing(moves: Sequence[tuple[int, int]], back_per_ms: int, now_ms: int) -> int:
    """Add up every movement in the order of time, whenever it was told."""
    level, as_of_ms = 0, 0
    for at_ms, amount in [*sorted(moves, key=lambda move: move[0]), (now_ms, 0)]:
        passed_ms, as_of_ms = max(0, at_ms - as_of_ms), max(at_ms, as_of_ms)
        level = max(0, max(0, level - passed_ms * back_per_ms) + amount)
    return level
