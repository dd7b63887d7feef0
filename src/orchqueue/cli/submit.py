"""`orchq submit`: post a task and leave."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context
from orchqueue.cli.follow import Absence, waiting_line
from orchqueue.cli.task_options import add_patience, add_task_options, reconnect_of, request_of, retry_of

if TYPE_CHECKING:
    from orchqueue.client import errors

SUMMARY = "post a task and print its id"
DETAILS = """examples:
  id=$(orchq submit "List three rivers:")
  orchq submit --priority batch --on-disconnect continue - < prompt.txt
  orchq submit --json "hi" | jq .predicted_start_ms
  orchq submit --retry-for 60 "wait for room in the queue"

Only the task id goes to standard output. Refused tasks end with status 3 and the time after which to try again."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of a task."""
    add_task_options(parser)
    add_patience(parser)


async def execute(context: Context, args: Namespace) -> int:
    """Post, and print what was promised.

    Req: ORCH-2001, ORCH-2007
    """
    from orchqueue.client.errors import ConnectFailed, Unavailable

    request = request_of(args)
    output = context.output

    def on_refusal(refusal: errors.Refused | errors.Unavailable, wait_ms: int) -> None:
        output.status(f"refused ({refusal.message}); asking again in {wait_ms / 1000:.1f} s")

    reconnect = reconnect_of(args)
    absence = Absence(output, reconnect.patience_ms)
    async with context.client(reconnect, absence.on_break) as client:
        try:
            admission = await client.submit(request, retry=retry_of(args), on_refusal=on_refusal)
        except (ConnectFailed, Unavailable) as failure:
            absence.tell_unknown(str(request.task_id), failure)
            raise
    if context.as_json:
        output.record(admission)
        return 0
    output.line(admission.task_id)
    output.note(
        f"{waiting_line(admission.queue_position, admission.predicted_start_ms)}; pool {admission.pool_id}, "
        f"seed {admission.seed}, {admission.determinism}"
    )
    return 0
