"""`orchq task`, `orchq tasks`, `orchq explain` and `orchq cancel`: look at tasks, and end them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from orchqueue.cli.context import Context
from orchqueue.cli.exit_codes import ExitCode, UsageError, code_of
from orchqueue.cli.task_options import some_id

if TYPE_CHECKING:
    from orchqueue.client.types import Moment, TaskInfo, TaskSummary

TASK_DETAILS = """examples:
  orchq task 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11
  orchq task --text 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11 > answer.txt
  orchq task --json 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11 | jq .receipt"""

TASKS_DETAILS = """examples:
  orchq tasks
  orchq tasks --state queued --priority batch --limit 200
  orchq tasks --json | jq -r 'select(.state == "failed").task_id'"""

EXPLAIN_DETAILS = """examples:
  orchq explain 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11
  orchq explain --json 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11 | jq .waiting
  orchq explain --json 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11 | jq '.attempts[].candidates'

Why a task waits and for what, why it went where it went, every attempt, why it ended or was refused, and then every
decision about it with the time since the first."""

CANCEL_DETAILS = """examples:
  orchq cancel 0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11
  orchq cancel $(orchq tasks --state queued --json | jq -r .task_id)

When it returns, no token is added to the task any more. Cancelling twice, or after the end, is no error."""


def add_task_arguments(parser: ArgumentParser) -> None:
    """Add the task."""
    parser.add_argument("task_id", metavar="TASK", type=some_id, help="id of the task")
    parser.add_argument("--text", action="store_true", help="print nothing but the text so far")


async def execute_task(context: Context, args: Namespace) -> int:
    """Print one task.

    Req: ORCH-4002
    """
    async with context.client() as client:
        task = await client.task(args.task_id)
    if context.as_json:
        context.output.record(task)
    elif args.text:
        context.output.text(task.text)
        context.output.end_text()
    else:
        context.output.table(("FIELD", "VALUE"), _fields(task))
        if task.text:
            context.output.line("")
            context.output.text(task.text)
            context.output.end_text()
    return 0


def add_tasks_arguments(parser: ArgumentParser) -> None:
    """Add the filters."""
    states = ("queued", "running", "succeeded", "failed", "canceled")
    parser.add_argument("--state", choices=states, help="only tasks in this state")
    parser.add_argument("--priority", choices=("interactive", "batch"), help="only tasks of this class")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most N tasks; 0 for all (50)")


async def execute_tasks(context: Context, args: Namespace) -> int:
    """Print one's own tasks, newest first.

    Req: ORCH-4001
    """
    limit: int = args.limit
    if limit < 0:
        raise UsageError("--limit takes 0 or more")
    rows: list[tuple[object, ...]] = []
    count = 0
    async with context.client() as client:
        page_size = min(limit, 200) or 200
        async for task in client.tasks(state=args.state, priority=args.priority, page_size=page_size):
            count += 1
            if context.as_json:
                context.output.record(task)
            else:
                rows.append(_row(task))
            if count == limit:
                break
    if not context.as_json:
        context.output.table(("TASK", "STATE", "CLASS", "POOL", "TOKENS", "CREATED", "NOTE"), rows)
    return 0


def add_explain_arguments(parser: ArgumentParser) -> None:
    """Add the task."""
    parser.add_argument(
        "task_id", metavar="TASK", type=some_id, help="id of the task, also of one that was refused lately"
    )


async def execute_explain(context: Context, args: Namespace) -> int:
    """Print why a task is where it is.

    Req: ORCH-4003
    """
    async with context.client() as client:
        found = await client.explain(args.task_id)
    if context.as_json:
        context.output.record(found)
    else:
        context.output.line(f"task {found.task_id}: {found.state}")
        for line in found.story:
            context.output.line(f"  {line}")
        if found.timeline:
            context.output.line("decisions about it:")
            context.output.table(("  AFTER", "KIND", "DECISION"), _decisions(found.timeline))
    return 0


def _decisions(timeline: list[Moment]) -> list[tuple[str, str, str]]:
    begin_ms = timeline[0].at_ms
    return [(f"  {one.at_ms - begin_ms} ms", one.kind, one.text) for one in timeline]


def add_cancel_arguments(parser: ArgumentParser) -> None:
    """Add the tasks."""
    parser.add_argument("task_ids", nargs="+", metavar="TASK", type=some_id, help="id of a task")


async def execute_cancel(context: Context, args: Namespace) -> int:
    """Cancel each task; the first failure decides the exit status, the others are still canceled.

    Req: ORCH-2003
    """
    from orchqueue.client.errors import ApiError

    status: int = ExitCode.OK
    async with context.client() as client:
        for task_id in args.task_ids:
            try:
                await client.cancel(task_id)
            except ApiError as error:
                context.output.problem(f"orchq: {task_id}: {error}")
                status = status or code_of(error)
            else:
                if context.as_json:
                    context.output.record({"task_id": task_id, "canceled": True})
                else:
                    context.output.note(f"canceled task {task_id}")
    return status


def _row(task: TaskSummary) -> tuple[object, ...]:
    note = ""
    if task.state == "queued":
        note = f"{task.queue_position} before it"
    elif task.error:
        note = task.error.code
    elif task.finish_reason:
        note = task.finish_reason
    return (task.task_id, task.state, task.priority, task.pool_id, task.tokens_out, _instant(task.created_at_ms), note)


def _fields(task: TaskInfo) -> list[tuple[str, object]]:
    fields: list[tuple[str, object]] = [
        ("task", task.task_id),
        ("state", task.state),
        ("class", task.priority),
        ("pool", task.pool_id),
        ("replica", task.replica_id or None),
        ("session", task.session_id or None),
        ("position", task.queue_position if task.state == "queued" else None),
        ("created", _instant(task.created_at_ms)),
        ("started", _instant(task.started_at_ms) if task.started_at_ms else None),
        ("ended", _instant(task.ended_at_ms) if task.ended_at_ms else None),
        ("tokens out", task.tokens_out),
        ("seed", f"{task.seed} ({task.determinism}, profile {task.sampler_profile_version})"),
        ("finish", task.finish_reason or None),
        ("error", f"{task.error.code}: {task.error.message}" if task.error else None),
        ("sha256", task.receipt.digest if task.receipt else None),
        ("attempts", task.receipt.attempts if task.receipt else None),
    ]
    return [(name, value) for name, value in fields if value is not None]


def _instant(unix_ms: int) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(unix_ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")


COMMANDS = (
    ("task", "show one task with its text so far", TASK_DETAILS, add_task_arguments, execute_task),
    ("tasks", "list your own tasks, newest first", TASKS_DETAILS, add_tasks_arguments, execute_tasks),
    (
        "explain",
        "tell why a task waits, went where it went, ended or was refused",
        EXPLAIN_DETAILS,
        add_explain_arguments,
        execute_explain,
    ),
    ("cancel", "cancel tasks", CANCEL_DETAILS, add_cancel_arguments, execute_cancel),
)
