"""How much work keeps coming: what arrived lately and what arrives usually, by tenant. Whole numbers only.

Req: ORCH-4365
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from orchqueue.core.ids import Tenant

SHORT_MS, LONG_MS = 60_000, 21_600_000
LASTS_MS = 2 * SHORT_MS
REMEMBERED_AT_MOST = 4_096
MILLION = 1_000_000
# ln 2 in millionths: an amount that comes every half-life settles at amount / ln 2.
LN2_MILLION = 693_147


class Flow(msgspec.Struct):
    """Two sums of work that fade by half, one every `SHORT_MS` and one every `LONG_MS`.

    Units: `short_us` and `long_us` microseconds of one slot, `tasks_milli` thousandths of a task, fading like the long sum.
    """

    at_ms: int
    short_us: int = 0
    long_us: int = 0
    tasks_milli: int = 0

    def add(self, work_ms: int, now_ms: int) -> None:
        """Take one task's work in."""
        after_ms = now_ms - self.at_ms
        self.short_us = faded(self.short_us, after_ms, SHORT_MS) + 1_000 * work_ms
        self.long_us = faded(self.long_us, after_ms, LONG_MS) + 1_000 * work_ms
        self.tasks_milli = faded(self.tasks_milli, after_ms, LONG_MS) + 1_000
        self.at_ms = now_ms

    @property
    def each_ms(self) -> int:
        """Tell how long one task of it takes on average."""
        return self.long_us // max(1, self.tasks_milli)


def faded(amount: int, after_ms: int, half_life_ms: int) -> int:
    """Fade an amount: half of it is left after each half-life.

    Between two halvings it follows the power series of 2^-x up to x⁴, within 0.2 %, so that fading in many small steps and
    in one large step comes to the same.

    >>> faded(8_000, 0, 10), faded(8_000, 5, 10), faded(8_000, 10, 10), faded(8_000, 30, 10)
    (8000, 5657, 4000, 1000)
    """
    halvings, over_ms = divmod(max(0, after_ms), half_life_ms)
    x = over_ms * LN2_MILLION // half_life_ms
    series = (
        MILLION - x * (MILLION - x * (MILLION - x * (MILLION - x // 4) // (3 * MILLION)) // (2 * MILLION)) // MILLION
    )
    return (amount >> halvings) * series // MILLION


class Inflow:
    """One class's flows: of each tenant and of all together. Who sent nothing for long is forgotten."""

    def __init__(self) -> None:
        self.whole = Flow(0)
        self._watched_ms = 0
        self._flows: OrderedDict[Tenant, Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, tenant: Tenant, work_ms: int, now_ms: int) -> None:
        """Take an arrival in."""
        if not self.whole.at_ms:
            self.whole.at_ms = now_ms
        self._watched_ms = self._watched(now_ms)
        self.whole.add(work_ms, now_ms)
        flow = self._flows.get(tenant)
        if flow is None:
            flow = self._flows[tenant] = Flow(now_ms)
        flow.add(work_ms, now_ms)
        self._flows.move_to_end(tenant)
        while len(self._flows) > REMEMBERED_AT_MOST or next(iter(self._flows.values())).at_ms < now_ms - LONG_MS:
            self._flows.popitem(last=False)

    def others(self, but: Iterable[Tenant]) -> int:
        """Count the tenants whose work came, all but some, each of which may be unknown here."""
        return len(self._flows) - sum(tenant in self._flows for tenant in but)

    def permille(self, now_ms: int, slots: int, ahead_ms: int) -> int:
        """Tell which part of so many slots the work that comes keeps busy on average, up to so far ahead.

        What came lately goes on for a while; the farther one looks, the more it will be as usual.
        """
        return self._permille(self.whole, now_ms, slots, ahead_ms)

    def others_permille(self, but: Iterable[Tenant], now_ms: int, slots: int, ahead_ms: int) -> int:
        """Tell the same of all tenants but some."""
        left = self.permille(now_ms, slots, ahead_ms)
        for tenant in but:
            flow = self._flows.get(tenant)
            if flow is not None:
                left -= self._permille(flow, now_ms, slots, ahead_ms)
        return max(0, left)

    def _permille(self, flow: Flow, now_ms: int, slots: int, ahead_ms: int) -> int:
        after_ms = now_ms - flow.at_ms
        watched_ms = max(SHORT_MS, self._watched(now_ms))
        usual = faded(flow.long_us, after_ms, LONG_MS) // (watched_ms * slots)
        lately = faded(flow.short_us, after_ms, SHORT_MS) * LN2_MILLION // (MILLION * SHORT_MS * slots)
        return usual + (lately - usual) * LASTS_MS // (LASTS_MS + ahead_ms)

    def _watched(self, now_ms: int) -> int:
        """Tell how much time the long sums cover, faded like them."""
        after_ms = now_ms - self.whole.at_ms
        return faded(self._watched_ms, after_ms, LONG_MS) + after_ms
