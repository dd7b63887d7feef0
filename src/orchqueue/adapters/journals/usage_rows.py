"""Usage of forgotten tasks, kept in memory as the file keeps it.

Req: ORCH-4308
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from orchqueue.core.ids import Tenant
from orchqueue.core.records import Booking, Forgotten

AMOUNTS = ("accepted", "succeeded", "failed", "canceled", "tokens_in", "tokens_out", "decode_ms")


class UsageRows:
    """One row for each day, tenant, key and model."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, Tenant, str, str], Booking] = {}
        self.since_ms: int | None = None

    def apply(self, record: Forgotten) -> None:
        """Drop the days that go, then add what is booked."""
        for key in [key for key in self._rows if key[0] in record.dropped_days]:
            del self._rows[key]
        for booking in record.booked:
            key = (booking.day, record.tenant, booking.key_id, booking.model_ref)
            old = self._rows.get(key)
            if old is not None:
                sums = {name: getattr(old, name) + getattr(booking, name) for name in AMOUNTS}
                booking = msgspec.structs.replace(booking, **sums)
            self._rows[key] = booking
        if record.usage_since_ms:
            self.since_ms = max(self.since_ms or 0, record.usage_since_ms)

    def rows(self) -> Iterator[tuple[Tenant, Booking]]:
        """Yield the rows, the oldest day first."""
        return ((key[1], self._rows[key]) for key in sorted(self._rows))
