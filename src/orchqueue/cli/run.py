"""`orchq run`: post a task and stream its answer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context
from orchqueue.cli.follow import Absence, follow, show_admission
from orchqueue.cli.task_options import add_patience, add_task_options, reconnect_of, request_of, retry_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchqueue.cli.output import Output
    from orchqueue.client import AsyncClient, RetryPolicy, TaskRequest, TaskStream
    from orchqueue.client.errors import Refused, Unavailable

    OnRefusal = Callable[[Refused | Unavailable, int], None]

# Whoever stops a command waits for it: not as long as for a text.
_CANCEL_WITHIN_S = 10

SUMMARY = "post a task and stream its answer"
DETAILS = """examples:
  orchq run "Why is the sky blue?"
  orchq run --system "You answer in one sentence." "Why is the sky blue?"
  orchq run --seed 1001 --max-tokens 64 - < prompt.txt
  orchq run --messages chat.json --json | jq -r 'select(.event == "token").data.t'
  orchq run --json-schema city.json "Describe Utrecht as JSON." > city.out
  orchq run --retry-for 60 "A busy server is asked again for a minute."

The text goes to standard output, exactly as the model wrote it unless that is a terminal, where control characters are
made visible. Waiting position, receipt and errors go to standard error. A broken connection is resumed without gap or
duplicate, also over a restart of the server, and the text is compared with the receipt. Ctrl-C cancels the task; a
second Ctrl-C leaves at once."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of a task."""
    add_task_options(parser)
    add_patience(parser)


async def execute(context: Context, args: Namespace) -> int:
    """Post, follow, and cancel when told to stop.

    Req: ORCH-2001, ORCH-2002, ORCH-2003, ORCH-4223
    """
    import asyncio

    request = request_of(args)
    output = context.output

    def on_refusal(refusal: Refused | Unavailable, wait_ms: int) -> None:
        output.status(f"refused ({refusal.message}); asking again in {wait_ms / 1000:.1f} s")

    reconnect = reconnect_of(args)
    absence = Absence(output, reconnect.patience_ms)
    async with context.client(reconnect, absence.on_break) as client:
        try:
            stream = await _post(client, request, retry_of(args), on_refusal, absence)
            assert stream.admission is not None
            if context.as_json:
                output.record({"event": "admission", "data": stream.admission})
            else:
                show_admission(stream.admission, output)
            async with stream:
                return await follow(stream, output, absence, as_json=context.as_json)
        except asyncio.CancelledError:
            output.note("canceling the task; Ctrl-C again leaves at once")
            if await _cancel(client, str(request.task_id), output):
                output.note(f"canceled task {request.task_id}")
            raise
        except BrokenPipeError:
            await _cancel(client, str(request.task_id), output)
            raise


async def _post(
    client: AsyncClient, request: TaskRequest, retry: RetryPolicy, on_refusal: OnRefusal, absence: Absence
) -> TaskStream:
    from orchqueue.client.errors import ConnectFailed, Unavailable

    try:
        return await client.run(request, retry=retry, on_refusal=on_refusal)
    except (ConnectFailed, Unavailable) as failure:
        absence.tell_unknown(str(request.task_id), failure)
        raise


async def _cancel(client: AsyncClient, task_id: str, output: Output) -> bool:
    """Cancel the task and tell whether that succeeded; one that the server never accepted needs no cancelling.

    Req: ORCH-4224
    """
    import asyncio

    from orchqueue.client.errors import NotFound, OrchQueueError

    try:
        async with asyncio.timeout(_CANCEL_WITHIN_S):
            await client.cancel(task_id)
    except NotFound:
        pass
    except TimeoutError:
        output.problem(f"orchq: task {task_id} may go on: no server confirmed the cancel in {_CANCEL_WITHIN_S} s")
        return False
    except OrchQueueError as error:
        output.problem(f"orchq: task {task_id} may go on: {error}")
        return False
    return True
