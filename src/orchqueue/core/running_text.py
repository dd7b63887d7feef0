"""What a running task has said: kept for a replay, and recorded in batches so that a restart knows it too.

Req: ORCH-4183
"""

from __future__ import annotations

from orchqueue.core.effects import Record, SetTimer
from orchqueue.core.ids import TimerKey
from orchqueue.core.records import Spoken
from orchqueue.core.state import State
from orchqueue.core.task import Task

BATCH_MS = 200
BATCH_BYTES = 4_096
TEXT_TIMER: TimerKey = ("text", "")


def heard(state: State, task: Task, texts: tuple[str, ...], now_ms: int) -> None:
    """Take new text of a task; it is recorded when it is much, or at the next beat, whichever comes first.

    Cost: the hot path; a timer for all tasks together.
    """
    for text in texts:
        task.said += text.encode()
    task.emitted_bytes = len(task.said)
    if task.emitted_bytes - task.kept_bytes >= BATCH_BYTES:
        _record(state, task)
        state.unkept.pop(task.key, None)
    elif task.key not in state.unkept:
        if not state.unkept:
            state.emit(SetTimer(TEXT_TIMER, now_ms + BATCH_MS))
        state.unkept[task.key] = task


def on_beat(state: State, now_ms: int) -> None:
    """Record what every task has said since the last time; a journal that fails now is asked again later."""
    if not state.unkept:
        return
    if state.journal_problem is not None:
        state.emit(SetTimer(TEXT_TIMER, now_ms + BATCH_MS))
        return
    for task in state.unkept.values():
        _record(state, task)
    state.unkept.clear()


def _record(state: State, task: Task) -> None:
    text = task.said[task.kept_bytes :].decode()
    state.emit(Record(Spoken(task.tenant, task.task_id, task.kept_bytes, text, task.tokens_out)))
    task.kept_bytes = task.emitted_bytes
