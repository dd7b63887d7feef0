"""`orchq session`: look at a session, or forget it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from orchqueue.cli.context import Context

DETAILS = """examples:
  orchq session 6d1f0c52-9a8e-4a53-8f9d-3a5d0e6b7c21
  orchq session --delete 6d1f0c52-9a8e-4a53-8f9d-3a5d0e6b7c21

A session begins with the first task that names it (orchq run --session UUID) and lives at most ten minutes and eight
turns."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the session and what to do with it."""
    parser.add_argument("session_id", metavar="SESSION", help="id of the session")
    parser.add_argument("--delete", action="store_true", help="forget it; work in flight finishes")


async def execute(context: Context, args: Namespace) -> int:
    """Print or delete the session.

    Req: ORCH-2004, ORCH-2005
    """
    async with context.client() as client:
        if args.delete:
            await client.delete_session(args.session_id)
            if context.as_json:
                context.output.record({"session_id": args.session_id, "deleted": True})
            else:
                context.output.note(f"forgot session {args.session_id}")
            return 0
        session = await client.session(args.session_id)
    if context.as_json:
        context.output.record(session)
    else:
        context.output.table(
            ("FIELD", "VALUE"),
            [
                ("time left", f"{session.ttl_ms_remaining / 1000:.0f} s"),
                ("turns", session.turns),
                ("kv bytes", session.kv_bytes),
                ("kv warm", "yes" if session.kv_warmth else "no"),
            ],
        )
    return 0


COMMANDS = (("session", "show or forget a session", DETAILS, add_arguments, execute),)
