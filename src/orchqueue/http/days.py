"""Days in UTC as people write them, and as the core counts them: from 1970-01-01."""

from __future__ import annotations

from datetime import date, timedelta

EPOCH = date(1970, 1, 1)


def day_name(day: int) -> str:
    """Write a day as people do.

    >>> day_name(20_000)
    '2024-10-04'
    """
    return (EPOCH + timedelta(days=day)).isoformat()


def day_number(name: str) -> int | None:
    """Read a day; None when there is no such day.

    >>> day_number("2024-10-04"), day_number("2023-02-29"), day_number("1969-12-31")
    (20000, None, None)
    """
    try:
        return day if (day := (date.fromisoformat(name) - EPOCH).days) >= 0 else None
    except ValueError:
        return None
