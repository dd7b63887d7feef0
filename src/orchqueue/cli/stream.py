"""`orchq stream`: follow a task that was posted before."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from orchqueue.cli.context import Context
from orchqueue.cli.exit_codes import UsageError
from orchqueue.cli.follow import Absence, follow
from orchqueue.cli.task_options import add_patience, reconnect_of, some_id

SUMMARY = "follow a task, from its start or from where you were"
DETAILS = """examples:
  orchq stream 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11
  orchq stream --last-event-id 42:1c291ca3 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11

Ctrl-C leaves the stream and prints the position from which to go on; the task itself goes on or not as its
on_disconnect says. Any number of readers may follow one task."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the task and the position."""
    parser.add_argument("task_id", metavar="TASK", type=some_id, help="id of the task")
    parser.add_argument("--last-event-id", metavar="POSITION", help="go on after this position, BYTES:CRC32")
    add_patience(parser)


async def execute(context: Context, args: Namespace) -> int:
    """Follow until the end.

    Req: ORCH-2002
    """
    import asyncio

    reconnect = reconnect_of(args)
    absence = Absence(context.output, reconnect.patience_ms)
    async with context.client(reconnect, absence.on_break) as client:
        try:
            stream = client.stream(args.task_id, args.last_event_id)
        except ValueError as error:
            raise UsageError(f"--last-event-id: {error}") from error
        try:
            async with stream:
                return await follow(stream, context.output, absence, as_json=context.as_json)
        except asyncio.CancelledError:
            if stream.last_event_id:
                context.output.note(f"go on with: orchq stream --last-event-id {stream.last_event_id} {args.task_id}")
            raise
