"""What tenants and keys may use and what they use now: one account for each tenant and each key that has limits.

Whole numbers only. What was taken from a bucket comes back at a steady rate; what a task holds comes back at its end.

Req: ORCH-4151, ORCH-4300, ORCH-4301, ORCH-4302
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from orchqueue.core.accounts import MB_BYTES, REQUEST_MICRO, TOKEN_UNITS, Account, Hold, Limits, limits_of
from orchqueue.core.ids import Tenant
from orchqueue.core.settings import TenantSettings

Scope = Literal["tenant", "key"]
QuotaName = Literal["requests_per_s", "tokens_per_minute", "concurrent_tasks", "queued_tasks", "kv_mb"]
QUOTAS: tuple[QuotaName, ...] = ("requests_per_s", "tokens_per_minute", "concurrent_tasks", "queued_tasks", "kv_mb")
AccountKey: TypeAlias = tuple[Tenant, str | None]


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a task would take. `cached_bytes`: what the tenant's warm sessions occupy already."""

    tokens: int
    kv_bytes: int = 0
    cached_bytes: int = 0


class Excess(msgspec.Struct, frozen=True):
    """The first quota that a task would break. `wait_ms` None: the time does not follow from the account alone.

    `never`: it would break it even if nothing else ran.
    """

    scope: Scope
    quota: QuotaName
    never: bool = False
    wait_ms: int | None = None


class QuotaUse(msgspec.Struct, frozen=True):
    """One limit and what is in use of it, as its owner sees it."""

    scope: Scope
    quota: QuotaName
    limit: int | float
    in_use: int
    burst: int | None = None


class Terms(NamedTuple):
    """The limits of a tenant and of each of its keys."""

    tenant: Limits | None
    key: Limits | None


class Side(NamedTuple):
    """One of the two accounts that a task counts for."""

    scope: Scope
    key: AccountKey
    limits: Limits


class Move(NamedTuple):
    """What was taken from buckets at an instant, or given back where it is negative."""

    at_ms: int
    tenant: Tenant
    key_id: str
    requests: int
    tokens: int


class Ledger:
    """All accounts. Whoever has no limits has no account.

    Buckets are moved when somebody looks, in the order of the moves' instants: what an earlier life did is told in another
    order than it happened.

    Bounded: an account of which nothing is held and nothing is missing goes as tasks come, and the moves of each with it.

    Req: ORCH-4151, ORCH-4302
    """

    def __init__(self, tenants: Iterable[TenantSettings] = ()) -> None:
        self._accounts: dict[AccountKey, Account] = {}
        self._moves: list[Move] = []
        self._terms, self._others = _read(tenants)

    @property
    def accounts(self) -> dict[AccountKey, Account]:
        """Give all accounts, their buckets as they stand."""
        moves, self._moves = self._moves, []
        for move in sorted(moves, key=lambda m: m.at_ms):
            for side in self._sides(move.tenant, move.key_id):
                taking = move.requests > 0 or move.tokens > 0
                account = self._account(side) if taking else self._accounts.get(side.key)
                if account is not None and move.requests:
                    _take_requests(account, side.limits, move.requests, move.at_ms)
                if account is not None and move.tokens:
                    _take_tokens(account, side.limits, move.tokens, move.at_ms)
        return self._accounts

    def configure(self, tenants: Iterable[TenantSettings], now_ms: int) -> None:
        """Take new limits. What was taken from buckets stays taken; what tasks hold is to be booked anew.

        Req: ORCH-4304
        """
        old = {key: (account, self._limits(key)) for key, account in self.accounts.items()}
        self._terms, self._others = _read(tenants)
        self._accounts = {}
        for key, (account, limits) in old.items():
            if self._limits(key) is not None and limits is not None:
                _take_requests(account, limits, 0, now_ms)
                _take_tokens(account, limits, 0, now_ms)
                self._accounts[key] = Account(requests_taken=account.requests_taken, tokens_taken=account.tokens_taken)

    def book(self, hold: Hold) -> None:
        """Add what an accepted task holds already."""
        for side in self._sides(hold.tenant, hold.key_id):
            self._account(side).enter(hold)

    def terms(self, tenant: Tenant) -> Terms | None:
        """Tell what a tenant may use; None when it has no limits.

        Cost: on every submission; one look-up.
        """
        return self._terms.get(tenant, self._others)

    def _limits(self, key: AccountKey) -> Limits | None:
        terms = self.terms(key[0])
        return None if terms is None else terms.tenant if key[1] is None else terms.key

    def _sides(self, tenant: Tenant, key_id: str) -> list[Side]:
        terms = self.terms(tenant)
        sides = []
        if terms is not None and terms.tenant is not None:
            sides.append(Side("tenant", (tenant, None), terms.tenant))
        if terms is not None and terms.key is not None:
            sides.append(Side("key", (tenant, key_id), terms.key))
        return sides

    def _account(self, side: Side) -> Account:
        found = self._accounts.get(side.key)
        if found is None:
            found = self._accounts[side.key] = Account()
        return found

    def sweep(self, now_ms: int) -> None:
        """Drop idle accounts among the two that were looked at longest ago.

        Called before each reservation, which opens two at most. Not while an earlier life is told of: what is told next
        may lie before the instant at which an account seemed idle.
        """
        accounts = self.accounts
        for key in list(islice(accounts, 2)):
            account, limits = accounts.pop(key), self._limits(key)
            assert limits is not None, f"{key} has an account without limits"
            if not account.is_idle(limits, now_ms):
                accounts[key] = account

    def excess(self, tenant: Tenant, key_id: str, demand: Demand, now_ms: int) -> Excess | None:
        """Find the first quota of either account that a new task would break. Nothing is changed.

        1. What could never run comes first.
        2. Rates, then what is held; of each the tenant's before the key's.
        """
        never = self.never(tenant, key_id, demand)
        if never is not None:
            return never
        accounts = self.accounts
        sides = [(side, accounts.get(side.key) or Account()) for side in self._sides(tenant, key_id)]
        for quota in QUOTAS:
            for side, account in sides:
                wait_ms = _shortage(quota, side, account, demand, now_ms)
                if wait_ms is not None:
                    return Excess(side.scope, quota, wait_ms=wait_ms or None)
        return None

    def never(self, tenant: Tenant, key_id: str, demand: Demand) -> Excess | None:
        """Find the first quota of either account that a task would break even if nothing else ran."""
        for side in self._sides(tenant, key_id):
            if demand.tokens > (side.limits.tokens_per_minute or demand.tokens):
                return Excess(side.scope, "tokens_per_minute", never=True)
            if demand.kv_bytes > (side.limits.kv_bytes or demand.kv_bytes):
                return Excess(side.scope, "kv_mb", never=True)
        return None

    def reserve(self, tenant: Tenant, key_id: str, demand: Demand, at_ms: int) -> Hold | None:
        """Take what a task needs from both accounts, however much that is; None when neither has limits."""
        sides = self._sides(tenant, key_id)
        if not sides:
            return None
        hold = Hold(tenant, key_id, demand.tokens, demand.kv_bytes)
        for side in sides:
            self._account(side).enter(hold)
        self._moves.append(Move(at_ms, tenant, key_id, 1, demand.tokens))
        return hold

    def start(self, hold: Hold | None) -> None:
        """Let a waiting task run."""
        self._wait(hold, waiting=False)

    def wait_again(self, hold: Hold | None) -> None:
        """Let a task whose attempt failed wait; that is never refused."""
        self._wait(hold, waiting=True)

    def _wait(self, hold: Hold | None, *, waiting: bool) -> None:
        if hold is None:
            return
        assert hold.waiting is not waiting, f"a task of {hold.tenant} moves from waiting {hold.waiting} to {waiting}"
        hold.waiting = waiting
        for side in self._sides(hold.tenant, hold.key_id):
            self._accounts[side.key].waiting += 1 if waiting else -1

    def resize(self, hold: Hold, kv_bytes: int) -> None:
        """Let a task hold another amount of context, however much that is."""
        for side in self._sides(hold.tenant, hold.key_id):
            self._accounts[side.key].kv_bytes += kv_bytes - hold.kv_bytes
        hold.kv_bytes = kv_bytes

    def settle(self, hold: Hold, used_tokens: int, now_ms: int) -> None:
        """Give back at a task's end what it held, and of its tokens what it did not use."""
        for side in self._sides(hold.tenant, hold.key_id):
            self._accounts[side.key].enter(hold, -1)
        self._moves.append(Move(now_ms, hold.tenant, hold.key_id, 0, used_tokens - hold.tokens))

    def restore(
        self, tenant: Tenant, key_id: str, tokens: int, used_tokens: int, accepted_at_ms: int, ended_at_ms: int
    ) -> None:
        """Count what a task of an earlier life took when it was accepted, and gave back when it ended.

        Req: ORCH-4302
        """
        self._moves.append(Move(accepted_at_ms, tenant, key_id, 1, tokens))
        self._moves.append(Move(ended_at_ms, tenant, key_id, 0, used_tokens - tokens))

    def withdraw(self, tenant: Tenant, key_id: str, used_tokens: int, now_ms: int) -> None:
        """Give back what an ended task took that never counted."""
        self._moves.append(Move(now_ms, tenant, key_id, -1, -used_tokens))

    def uses(
        self, entry: TenantSettings, tenant: Tenant, key_id: str, cached_bytes: int, now_ms: int
    ) -> tuple[QuotaUse, ...]:
        """Show every limit of a tenant and of one of its keys with what is in use, rounded up.

        Req: ORCH-4305
        """
        found: list[QuotaUse] = []
        for side in self._sides(tenant, key_id):
            quotas = entry.quotas if side.scope == "tenant" else entry.quotas_per_key
            cached = cached_bytes if side.scope == "tenant" else 0
            account = self.accounts.get(side.key) or Account()
            for quota in QUOTAS:
                limit = getattr(quotas, quota)
                if limit is not None:
                    burst = side.limits.burst_micro // REQUEST_MICRO if quota == "requests_per_s" else None
                    in_use = _in_use(quota, side.limits, account, cached, now_ms)
                    found.append(QuotaUse(side.scope, quota, limit, in_use, burst))
        return tuple(found)

    def disagreements(self, holds: Sequence[Hold]) -> list[str]:
        """List the accounts whose sums are not those of what the accepted tasks hold.

        Cost: walks all of them; not for the hot path.
        """
        sums: dict[AccountKey, Account] = {}
        for hold in holds:
            for side in self._sides(hold.tenant, hold.key_id):
                sums.setdefault(side.key, Account()).enter(hold)
        found = []
        for key in sums.keys() | self._accounts.keys():
            held, booked = (_held(accounts.get(key) or Account()) for accounts in (sums, self._accounts))
            if held != booked:
                found.append(f"the account of {key} has booked {booked}, its tasks hold {held}")
        return sorted(found)


def _read(tenants: Iterable[TenantSettings]) -> tuple[dict[str, Terms | None], Terms | None]:
    """Give the terms of those that are listed, and of all others."""
    listed = {entry.tenant: _terms(entry) for entry in tenants}
    return listed, listed.pop("*", None)


def _terms(entry: TenantSettings) -> Terms | None:
    tenant, key = limits_of(entry.quotas), limits_of(entry.quotas_per_key)
    return None if tenant is None and key is None else Terms(tenant, key)


def _held(account: Account) -> tuple[int, int, int, int]:
    return account.tasks, account.waiting, account.tokens, account.kv_bytes


def _take_requests(account: Account, limits: Limits, requests: int, at_ms: int) -> None:
    if limits.request_micro_per_ms is not None:
        account.requests_taken.take(requests * REQUEST_MICRO, limits.request_micro_per_ms, at_ms)


def _take_tokens(account: Account, limits: Limits, tokens: int, at_ms: int) -> None:
    if limits.tokens_per_minute is not None:
        account.tokens_taken.take(tokens * TOKEN_UNITS, limits.tokens_per_minute, at_ms)


def _shortage(quota: QuotaName, side: Side, account: Account, demand: Demand, now_ms: int) -> int | None:
    """Tell how long it takes until a quota allows the task; 0 when nobody can say here, None when it allows it now."""
    limits = side.limits
    match quota:
        case "requests_per_s":
            missing = account.requests_missing(limits, now_ms) + REQUEST_MICRO - limits.burst_micro
            return _wait_ms(missing, limits.request_micro_per_ms)
        case "tokens_per_minute":
            per_ms = limits.tokens_per_minute
            missing = account.tokens_missing(limits, now_ms) + demand.tokens * TOKEN_UNITS
            return None if per_ms is None else _wait_ms(missing - per_ms * TOKEN_UNITS, per_ms)
        case "concurrent_tasks":
            return None if limits.tasks is None or account.tasks < limits.tasks else 0
        case "queued_tasks":
            return None if limits.waiting is None or account.waiting < limits.waiting else 0
        case _:
            cached = demand.cached_bytes if side.scope == "tenant" else 0
            fits = limits.kv_bytes is None or account.kv_bytes + cached + demand.kv_bytes <= limits.kv_bytes
            return None if fits else 0


def _wait_ms(missing: int, per_ms: int | None) -> int | None:
    return None if per_ms is None or missing <= 0 else -(-missing // per_ms)


def _in_use(quota: QuotaName, limits: Limits, account: Account, cached_bytes: int, now_ms: int) -> int:
    match quota:
        case "requests_per_s":
            return -(-account.requests_missing(limits, now_ms) // REQUEST_MICRO)
        case "tokens_per_minute":
            return -(-account.tokens_missing(limits, now_ms) // TOKEN_UNITS)
        case "concurrent_tasks":
            return account.tasks
        case "queued_tasks":
            return account.waiting
        case _:
            return -(-(account.kv_bytes + cached_bytes) // MB_BYTES)
