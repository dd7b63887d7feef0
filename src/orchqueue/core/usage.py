"""Who used what: counts by tenant, key, model and UTC day.

It lives in memory. After a restart it is counted anew from what the journal keeps: what forgotten tasks used, booked day by
day as each was forgotten, and the tasks that it still has. What happened since `since_ms` is certain to be whole.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from orchqueue.core.ids import Tenant
from orchqueue.core.outcome import CANCELED, Outcome
from orchqueue.core.records import Booking, Ended
from orchqueue.core.task import Task

DAY_MS = 86_400_000
DAYS_AT_MOST = 400
ROWS_AT_MOST = 100_000


class Account(NamedTuple):
    """Whose work it was, and for which model."""

    key_id: str
    model_ref: str


class Amounts(msgspec.Struct, gc=False):
    """What was used. Tokens and time are those of tasks that an engine took, counted when they ended."""

    accepted: int = 0
    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    decode_ms: int = 0

    def add(self, other: Amounts, times: int = 1) -> None:
        """Add amounts, or with `times` -1 take them back."""
        self.accepted += times * other.accepted
        self.succeeded += times * other.succeeded
        self.failed += times * other.failed
        self.canceled += times * other.canceled
        self.tokens_in += times * other.tokens_in
        self.tokens_out += times * other.tokens_out
        self.decode_ms += times * other.decode_ms


def of_end(ended: Ended) -> Amounts:
    """Tell what a task's end adds.

    >>> from orchqueue.core.ids import TaskId
    >>> of_end(Ended(Tenant("t"), TaskId("9f"), Outcome.COMPLETED, 0, 0, 3, 5, 40, started_at_ms=1)).tokens_out
    5
    """
    ran = ended.started_at_ms is not None
    return Amounts(
        succeeded=int(ended.outcome is Outcome.COMPLETED),
        canceled=int(ended.outcome in CANCELED),
        failed=int(ended.outcome is not Outcome.COMPLETED and ended.outcome not in CANCELED),
        tokens_in=ended.tokens_in if ran else 0,
        tokens_out=ended.tokens_out if ran else 0,
        decode_ms=ended.decode_ms if ran else 0,
    )


class UsageRow(msgspec.Struct, frozen=True):
    """One account's amounts on one day."""

    day: int
    account: Account
    amounts: Amounts


class UsagePicture(msgspec.Struct, frozen=True):
    """A tenant's usage in some days. `complete`: everything that happened in them is counted.

    Units: days from 1970-01-01 UTC, `since_ms` unix milliseconds.
    """

    from_day: int
    to_day: int
    since_ms: int
    complete: bool
    rows: tuple[UsageRow, ...]


class Usage:
    """All amounts, bounded: the oldest days go after `DAYS_AT_MOST`, and whole days when there are too many rows.

    Units: days are counted from 1970-01-01 UTC.
    Req: ORCH-4004, ORCH-4088, ORCH-4089
    """

    def __init__(self, days_at_most: int = DAYS_AT_MOST, rows_at_most: int = ROWS_AT_MOST) -> None:
        self.since_ms = 0
        self.rows = 0
        self._days: dict[int, dict[Tenant, dict[Account, Amounts]]] = {}
        self._days_at_most = days_at_most
        self._rows_at_most = rows_at_most
        self._resumed = False
        self._dropped_days: list[int] = []

    def resume(self, since_ms: int) -> None:
        """Take over what an earlier life kept whole since then."""
        self.since_ms = max(self.since_ms, since_ms)
        self._resumed = True

    def begin(self, now_ms: int) -> None:
        """Count on from here: whatever happens from now on is counted."""
        if not self._resumed:
            self.since_ms = max(self.since_ms, now_ms)

    def book(self, tenant: Tenant, booking: Booking) -> None:
        """Count what was booked for tasks that are forgotten."""
        amounts = Amounts(
            booking.accepted,
            booking.succeeded,
            booking.failed,
            booking.canceled,
            booking.tokens_in,
            booking.tokens_out,
            booking.decode_ms,
        )
        account = Account(booking.key_id, booking.model_ref)
        self._add(tenant, account, booking.day, amounts, (booking.day + 1) * DAY_MS)

    def bookings(self, task: Task) -> tuple[Booking, ...]:
        """Tell what an ended task added, day by day."""
        assert task.ended is not None, f"{task.key} has not ended"
        accepted, ended = Amounts(accepted=1), of_end(task.ended)
        first, last = task.accepted_at_ms // DAY_MS, task.ended.ended_at_ms // DAY_MS
        if first == last:
            accepted.add(ended)
            return (_booking(task, first, accepted),)
        return _booking(task, first, accepted), _booking(task, last, ended)

    def take_dropped_days(self) -> tuple[int, ...]:
        """Give the days that were dropped since it was asked last, for the journal to drop them too."""
        days, self._dropped_days = tuple(self._dropped_days), []
        return days

    def accept(self, task: Task) -> None:
        """Count a task on the day of its admission."""
        self._count(task, task.accepted_at_ms, Amounts(accepted=1))

    def end(self, task: Task) -> None:
        """Count a task's end, and what it used, on the day of its end."""
        assert task.ended is not None, f"{task.key} has not ended"
        self._count(task, task.ended.ended_at_ms, of_end(task.ended))

    def withdraw(self, task: Task) -> None:
        """Take an ended task back that never counted: its acceptance could not be made durable."""
        assert task.ended is not None, f"{task.key} has not ended"
        self._take(task, task.accepted_at_ms, Amounts(accepted=1))
        self._take(task, task.ended.ended_at_ms, of_end(task.ended))

    def picture(self, tenant: Tenant, from_day: int, to_day: int) -> UsagePicture:
        """Picture a tenant's rows of some days, oldest first.

        Cost: the rows given, and one look-up for each day that is kept.
        Req: ORCH-4089
        """
        rows = tuple(
            UsageRow(day, account, msgspec.structs.replace(amounts))
            for day in sorted(day for day in self._days if from_day <= day <= to_day)
            for account, amounts in sorted(self._days[day].get(tenant, {}).items(), key=lambda item: item[0])
        )
        complete = from_day * DAY_MS >= self.since_ms
        return UsagePicture(from_day, to_day, self.since_ms, complete, rows)

    def _count(self, task: Task, at_ms: int, amounts: Amounts) -> None:
        self._add(task.tenant, Account(task.client_id, task.model_ref), at_ms // DAY_MS, amounts, at_ms)

    def _add(self, tenant: Tenant, account: Account, day: int, amounts: Amounts, at_ms: int) -> None:
        if day not in self._days:
            self._days[day] = {}
            self._drop_old(at_ms)
        # A day so old that it went at once is not counted.
        tenants = self._days.get(day)
        if tenants is None:
            return
        accounts = tenants.setdefault(tenant, {})
        row = accounts.get(account)
        if row is None:
            row = accounts[account] = Amounts()
            self.rows += 1
        row.add(amounts)
        while self.rows > self._rows_at_most:
            self._drop(min(self._days), at_ms)

    def _take(self, task: Task, at_ms: int, amounts: Amounts) -> None:
        accounts = self._days.get(at_ms // DAY_MS, {}).get(task.tenant, {})
        account = Account(task.client_id, task.model_ref)
        row = accounts.get(account)
        if row is None:
            return
        row.add(amounts, -1)
        if row == Amounts():
            del accounts[account]
            self.rows -= 1

    def _drop_old(self, at_ms: int) -> None:
        newest = max(self._days)
        for day in [day for day in self._days if day <= newest - self._days_at_most]:
            self._drop(day, at_ms)

    def _drop(self, day: int, at_ms: int) -> None:
        """Forget a whole day; what is left is whole only after it, or after now where it is today."""
        self.rows -= sum(len(accounts) for accounts in self._days.pop(day).values())
        self._dropped_days.append(day)
        self.since_ms = max(self.since_ms, min((day + 1) * DAY_MS, at_ms))


def _booking(task: Task, day: int, amounts: Amounts) -> Booking:
    return Booking(
        day,
        task.client_id,
        task.model_ref,
        amounts.accepted,
        amounts.succeeded,
        amounts.failed,
        amounts.canceled,
        amounts.tokens_in,
        amounts.tokens_out,
        amounts.decode_ms,
    )
