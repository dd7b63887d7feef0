"""Show a stream as it comes: text on standard output, the rest on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchqueue.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from orchqueue.cli.output import Output
    from orchqueue.client import TaskStream
    from orchqueue.client.types import Admission, End, ErrorEvent, Event, Metrics

_WORTH_TELLING_MS = 1_000
_LONG_GONE_MS = 3_000


class Absence:
    """Says once that the server is away, and only when it stays away: most breaks are over before anybody wonders.

    Req: ORCH-4311
    """

    def __init__(self, output: Output, patience_ms: int) -> None:
        self._output = output
        self._patience_ms = patience_ms
        self._waited_ms = 0
        self._told = False
        self._was_lost = False

    def on_break(self, failure: Exception, wait_ms: int) -> None:
        """Hear of a failure and of the wait before the next try."""
        self._was_lost = True
        self._waited_ms += wait_ms
        if self._waited_ms >= _LONG_GONE_MS and not self._told:
            self._told = True
            self._output.note(f"waiting for the server, {self._patience_ms / 1000:.0f} s at most ({failure})")

    def tell_unknown(self, task_id: str, failure: Exception) -> None:
        """Say that a task may have been accepted, where an answer to its post was lost; the last failure may be the first."""
        from orchqueue.client.errors import AnswerLost

        if self._was_lost or isinstance(failure, AnswerLost):
            self._output.problem(f"orchq: task {task_id} may have been accepted; ask again with: orchq task {task_id}")

    def over(self) -> None:
        """Hear that something came."""
        self._waited_ms = 0
        self._told = False


async def follow(stream: TaskStream, output: Output, absence: Absence, *, as_json: bool) -> int:
    """Show every event until the end and return the exit status."""
    async for event in stream:
        absence.over()
        if as_json:
            output.record(event_record(event, stream.last_event_id))
        else:
            show(event, stream, output)
    if stream.error is not None:
        if not as_json:
            _tell_error(stream.error, output)
        return ExitCode.TASK_FAILED
    if stream.end is None:
        output.note(f"task {stream.task_id}: nothing follows this position")
        return ExitCode.OK
    return ExitCode.TASK_FAILED if stream.end.canceled else ExitCode.OK


def event_record(event: Event, last_event_id: str) -> dict[str, object]:
    """Make the JSON line of an event; `id` resumes after it."""
    from orchqueue.client.types import End, ErrorEvent, Metrics, Started

    names = {Started: "started", Metrics: "metrics", End: "end", ErrorEvent: "error"}
    record: dict[str, object] = {"event": names.get(type(event), "token"), "data": event}
    if last_event_id:
        record["id"] = last_event_id
    return record


def show(event: Event, stream: TaskStream, output: Output) -> None:
    """Show one event to a person."""
    from orchqueue.client.types import End, Metrics, Started, Token

    if isinstance(event, Token):
        output.text(event.t)
    elif isinstance(event, Started):
        output.clear_status()
    elif isinstance(event, Metrics):
        if stream.started is None and not stream.text:
            _show_waiting(event, output)
    elif isinstance(event, End):
        output.end_text()
        output.note(receipt_line(event, stream))


def show_admission(admission: Admission, output: Output) -> None:
    """Tell how long it will take, where that is worth telling."""
    if admission.queue_position > 0 or admission.predicted_start_ms >= _WORTH_TELLING_MS:
        output.status(waiting_line(admission.queue_position, admission.predicted_start_ms))


def waiting_line(queue_position: int | None, predicted_start_ms: int | None) -> str:
    """Say where a task stands in its queue.

    >>> waiting_line(3, 1840)
    'waiting: 3 before this one, starts in about 1.8 s'
    """
    place = "" if queue_position is None else "next" if queue_position == 0 else f"{queue_position} before this one"
    start = ""
    if predicted_start_ms is not None:
        start = f"starts in about {predicted_start_ms / 1000:.1f} s" if predicted_start_ms else "starts at once"
    return "waiting: " + ", ".join(part for part in (place, start) if part)


def receipt_line(end: End, stream: TaskStream) -> str:
    """Say in one line how it ended and what vouches for it."""
    receipt = end.receipt
    checked = "verified" if stream.is_verified else "not checked: not read from the start"
    durable = "" if receipt.durable else "; not on the server's disk yet"
    return (
        f"[{end.finish_reason}] {end.tokens_out} tokens in {end.decode_ms / 1000:.2f} s · seed {receipt.seed} · "
        f"{receipt.engine} {receipt.engine_version} · sha256 {receipt.digest[:12]}… {checked}{durable} · task {stream.task_id}"
    )


def _show_waiting(metrics: Metrics, output: Output) -> None:
    from msgspec import UNSET

    position = None if metrics.queue_position is UNSET else metrics.queue_position
    start_ms = None if metrics.predicted_start_ms is UNSET else metrics.predicted_start_ms
    if position is not None or start_ms is not None:
        output.status(waiting_line(position, start_ms))


def _tell_error(error: ErrorEvent, output: Output) -> None:
    output.end_text()
    again = ""
    if error.retriable:
        again = " (worth another try"
        again += f" in {error.retry_after_ms / 1000:.1f} s)" if isinstance(error.retry_after_ms, int) else ")"
    output.problem(f"orchq: {error.code}: {error.message}{again}")
    output.problem(f"  correlation id {error.correlation_id}")
