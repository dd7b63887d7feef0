"""`orchq`: parse, run one command, map its outcome to an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from orchqueue.cli.context import Context
from orchqueue.cli.exit_codes import ExitCode, UsageError, code_of
from orchqueue.cli.output import Output
from orchqueue.cli.parser import build_parser, command_of

if TYPE_CHECKING:
    import asyncio
    from argparse import Namespace
    from types import ModuleType

    from orchqueue.cli.parser import Execute

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BROKEN_PIPE_STATUS = 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Req: ORCH-4028
    """
    _prepare_streams()
    args = build_parser().parse_args(argv)
    output = Output(quiet=bool(getattr(args, "quiet", False)))
    try:
        context = Context.of(args, output)
        execute = command_of(args)
        return _run(execute, context, args)
    except BrokenPipeError:
        return _leave_quietly()
    except UsageError as error:
        output.problem(f"orchq: {error}")
        return ExitCode.USAGE
    except Exception as error:  # noqa: BLE001 - what is not ours is raised again
        return _explain(error, output)


def _run(execute: Execute, context: Context, args: Namespace) -> int:
    import asyncio

    # Unless told that it is absent, httpx imports its own command line, which takes as long as all the rest of it.
    sys.modules.setdefault("httpx._main", cast("ModuleType", None))
    received: list[int] = []

    async def body() -> int:
        task = asyncio.current_task()
        assert task is not None
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, _on_signal, number, received, task)
        return await execute(context, args)

    try:
        return asyncio.run(body())
    except asyncio.CancelledError:
        return 128 + received[0] if received else ExitCode.SERVER_FAULT


def _on_signal(number: int, received: list[int], task: asyncio.Task[int]) -> None:
    """Let the command clean up at the first signal; leave at once at the second."""
    if received:
        os._exit(128 + number)
    received.append(number)
    task.cancel()


def _prepare_streams() -> None:
    # A pipe carries the model's bytes whatever the locale; a terminal shows what it can.
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        else:
            stream.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]


def _leave_quietly() -> int:
    # Python would try to flush at exit and complain about the reader that left.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE_STATUS


def _explain(error: Exception, output: Output) -> int:
    from orchqueue.client.errors import ApiError, OrchQueueError, StreamBroken

    if not isinstance(error, OrchQueueError):
        raise error
    output.problem(f"orchq: {error}")
    if isinstance(error, ApiError):
        for fault in error.faults:
            if fault.message not in error.message:
                output.problem(f"  {fault.pointer or '(the whole body)'}: {fault.message}")
        if error.retry_after_ms is not None:
            output.problem(f"  try again in {error.retry_after_ms / 1000:.1f} s, or let --retry-for wait for it")
        if error.correlation_id:
            output.problem(f"  correlation id {error.correlation_id}")
    if isinstance(error, StreamBroken):
        position = f"--last-event-id {error.last_event_id} " if error.last_event_id else ""
        output.problem(f"  go on with: orchq stream {position}{error.task_id}")
    return code_of(error)


if __name__ == "__main__":
    sys.exit(main())
