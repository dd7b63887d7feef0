"""What happens to a known task from the outside: canceled, read, left, withdrawn."""

from __future__ import annotations

from orchqueue.core import quotas
from orchqueue.core.effects import (
    ClearTimer,
    Done,
    EvictKv,
    Record,
    Refuse,
    SetTimer,
)
from orchqueue.core.ending import end, forget
from orchqueue.core.events import (
    AcceptsWithdrawn,
    CancelRequested,
    ReaderAttached,
    ReaderDetached,
    SessionDeleteRequested,
)
from orchqueue.core.ids import SessionKey, task_id_of
from orchqueue.core.log_entries import log_refused
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.records import Followed
from orchqueue.core.state import State
from orchqueue.core.task_states import TaskState


def evict_session(state: State, key: SessionKey) -> None:
    """Forget a session, and its context where the engine can.

    Req: ORCH-2005
    """
    session = state.sessions.evict(key)
    if session is not None and session.warm_on is not None:
        state.emit(EvictKv(session.warm_on, key))
    state.emit(ClearTimer(("session", "/".join(key))))


def on_cancel(state: State, event: CancelRequested, now_ms: int) -> None:
    """Cancel in any phase; again, or after the end, it is as good as done.

    Req: ORCH-2003, ORCH-4110
    """
    task = state.tasks.get(event.key)
    if task is None or task.state is TaskState.COUNTING:
        text = f"no task {task_id_of(event.key)} is known; it never existed or its retention time is over"
        refusal = Refusal(Outcome.UNKNOWN_ID, text, (Fault("/path/task_id", text),))
        state.emit(Refuse(event.reply, refusal))
        return
    if task.state is not TaskState.ENDED:
        end(state, task, Outcome.CANCELED_BY_CLIENT, now_ms)
    state.emit(Done(event.reply))


def on_reader_attached(state: State, event: ReaderAttached) -> None:
    """Note that somebody reads; a restart must know of it where readers that leave end the task.

    Req: ORCH-4113
    """
    task = state.active.get(event.key)
    if task is not None:
        if not task.reader_seen and task.spec.cancels_on_disconnect:
            state.emit(Record(Followed(task.tenant, task.task_id)))
        task.readers, task.reader_seen = event.readers, True
        state.followed[task.key] = task
        state.emit(ClearTimer(("disconnect", task.key)))


def on_reader_detached(state: State, event: ReaderDetached, now_ms: int) -> None:
    """Begin the grace after which an unread task is canceled, where it wants that.

    Req: ORCH-3026
    """
    task = state.active.get(event.key)
    if task is None:
        return
    task.readers, task.unread_since_ms = event.readers, now_ms
    if event.readers == 0:
        state.followed.pop(task.key, None)
    if event.readers == 0 and task.spec.cancels_on_disconnect:
        state.emit(SetTimer(("disconnect", task.key), now_ms + state.settings.disconnect_grace_ms))


def on_session_delete(state: State, event: SessionDeleteRequested) -> None:
    """Forget a session; work in flight finishes; unknown ones are as good as forgotten.

    Req: ORCH-2005
    """
    evict_session(state, event.session)
    state.emit(Done(event.reply))


def on_accepts_withdrawn(state: State, event: AcceptsWithdrawn, now_ms: int) -> None:
    """Take back acceptances that nobody was told of, because the journal could not commit them.

    Those that have ended come first: the end of another may need their room, and would have them forgotten as if they counted.

    Req: ORCH-4013, ORCH-4189
    """
    for key in sorted(event.keys, key=state.active.__contains__):
        task = state.tasks.get(key)
        if task is not None and task.session is not None:
            state.sessions.take_turn_back(task.session)
        if task is not None and task.state is not TaskState.ENDED:
            end(state, task, Outcome.JOURNAL_DOWN, now_ms, "withdrawn: the journal could not be written")
        if task is not None:
            state.usage.withdraw(task)
            quotas.withdraw(state, task, now_ms)
            text = "not accepted: the journal could not be written; send it again"
            log_refused(state, key, Refusal(Outcome.JOURNAL_DOWN, text, retry_after_ms=1_000), now_ms)
        if key in state.retained:
            forget(state, key, counted=False)
