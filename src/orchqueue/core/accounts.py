"""What one account is: limits as whole numbers, buckets that fill at a steady rate, and what tasks hold.

Req: ORCH-4151, ORCH-4300
"""

from __future__ import annotations

import msgspec

from orchqueue.core.ids import Tenant
from orchqueue.core.settings import Quotas

REQUEST_MICRO = 1_000_000
TOKEN_UNITS = 60_000
MB_BYTES = 1_000_000


class Limits(msgspec.Struct, frozen=True):
    """One account's limits. None means no limit.

    Units: `request_micro_per_ms` and `burst_micro` are millionths of a request; `tokens_per_minute` is also what comes
    back each millisecond in units of a sixty-thousandth of a token.
    """

    request_micro_per_ms: int | None
    burst_micro: int
    tokens_per_minute: int | None
    tasks: int | None
    waiting: int | None
    kv_bytes: int | None


def limits_of(quotas: Quotas) -> Limits | None:
    """Translate quotas into whole numbers, None where nothing is limited. A burst that is not told lasts a second.

    >>> limits_of(Quotas(requests_per_s=0.5)).burst_micro
    1000000
    """
    if quotas == Quotas():
        return None
    per_ms, burst_micro = None, REQUEST_MICRO
    if quotas.requests_per_s is not None:
        per_ms = max(1, round(quotas.requests_per_s * 1000))
        burst_micro = max(REQUEST_MICRO, 1000 * per_ms)
    return Limits(
        request_micro_per_ms=per_ms,
        burst_micro=burst_micro if quotas.burst is None else quotas.burst * REQUEST_MICRO,
        tokens_per_minute=quotas.tokens_per_minute,
        tasks=quotas.concurrent_tasks,
        waiting=quotas.queued_tasks,
        kv_bytes=None if quotas.kv_mb is None else quotas.kv_mb * MB_BYTES,
    )


class Bucket(msgspec.Struct, gc=False):
    """What was taken and is not back yet, as of an instant."""

    taken: int = 0
    as_of_ms: int = 0

    def taken_at(self, per_ms: int, now_ms: int) -> int:
        """Tell how much is not back yet at an instant."""
        return max(0, self.taken - max(0, now_ms - self.as_of_ms) * per_ms)

    def take(self, amount: int, per_ms: int, at_ms: int) -> None:
        """Take an amount, or give one back where it is negative.

        What is told late counts as if it happened at the bucket's own instant: never less is taken for that.
        """
        at_ms = max(at_ms, self.as_of_ms)
        self.taken = max(0, self.taken_at(per_ms, at_ms) + amount)
        self.as_of_ms = at_ms


class Hold(msgspec.Struct, gc=False):
    """What one accepted task holds of its tenant's and its key's account until it ends."""

    tenant: Tenant
    key_id: str
    tokens: int
    kv_bytes: int
    waiting: bool = True


class Account(msgspec.Struct):
    """What one tenant or key uses: what its tasks hold, and what it took from its buckets."""

    tasks: int = 0
    waiting: int = 0
    tokens: int = 0
    kv_bytes: int = 0
    requests_taken: Bucket = msgspec.field(default_factory=Bucket)
    tokens_taken: Bucket = msgspec.field(default_factory=Bucket)

    def enter(self, hold: Hold, times: int = 1) -> None:
        """Add what a task holds, or with `times` -1 remove it."""
        self.tasks += times
        self.waiting += times * hold.waiting
        self.tokens += times * hold.tokens
        self.kv_bytes += times * hold.kv_bytes

    def requests_missing(self, limits: Limits, now_ms: int) -> int:
        """Tell how much is missing of the requests, nothing where they are not limited.

        Units: millionths of a request.
        """
        per_ms = limits.request_micro_per_ms
        return 0 if per_ms is None else self.requests_taken.taken_at(per_ms, now_ms)

    def tokens_missing(self, limits: Limits, now_ms: int) -> int:
        """Tell how much is missing of the tokens, nothing where they are not limited.

        Units: sixty-thousandths of a token.
        """
        per_ms = limits.tokens_per_minute
        return 0 if per_ms is None else self.tokens_taken.taken_at(per_ms, now_ms)

    def is_idle(self, limits: Limits, now_ms: int) -> bool:
        """Tell whether nothing is held and both buckets are full."""
        missing = self.requests_missing(limits, now_ms) or self.tokens_missing(limits, now_ms)
        return self.tasks == 0 and not missing
