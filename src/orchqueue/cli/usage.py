"""`orchq usage`: what your tenant used."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context

if TYPE_CHECKING:
    from orchqueue.client.types import QuotaUse

DETAILS = """examples:
  orchq usage
  orchq usage --from-day 2026-11-01 --to-day 2026-11-30
  orchq usage --json | jq '[.rows[].tokens_out] | add'

Days are UTC. Where a part of the days is not wholly counted, a note says since when all is."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the days."""
    parser.add_argument("--from-day", metavar="DAY", help="first day as YYYY-MM-DD (30 days before the last)")
    parser.add_argument("--to-day", metavar="DAY", help="last day as YYYY-MM-DD (today)")


async def execute(context: Context, args: Namespace) -> int:
    """Print the usage by day, key and model, then each limit with what is in use of it.

    Req: ORCH-4004, ORCH-4305
    """
    async with context.client() as client:
        usage = await client.usage(args.from_day, args.to_day)
    if context.as_json:
        context.output.record(usage)
        return 0
    context.output.table(
        ("DAY", "KEY", "MODEL", "ACCEPTED", "SUCCEEDED", "FAILED", "CANCELED", "TOKENS IN", "TOKENS OUT", "DECODE MS"),
        [
            (
                row.day,
                row.key_id or "-",
                row.model,
                row.accepted,
                row.succeeded,
                row.failed,
                row.canceled,
                row.tokens_in,
                row.tokens_out,
                row.decode_ms,
            )
            for row in usage.rows
        ],
    )
    if usage.limits:
        context.output.table(
            ("LIMIT OF", "QUOTA", "LIMIT", "IN USE"),
            [(one.scope, one.quota, _limit(one), one.in_use) for one in usage.limits],
        )
    if not usage.complete:
        context.output.note(f"complete only since {_instant(usage.since_ms)}")
    return 0


def _limit(one: QuotaUse) -> str:
    burst = f" (burst {one.burst})" if one.burst else ""
    return f"{_plain(one.limit)}{burst}"


def _plain(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else repr(limit)


def _instant(unix_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")


COMMANDS = (
    ("usage", "show what your tenant used, by day, key and model, and its limits", DETAILS, add_arguments, execute),
)
