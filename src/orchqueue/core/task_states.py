"""The life of a task as one transition table."""

from __future__ import annotations

from enum import Enum


class IllegalTransition(Exception):
    """A bug: something happened to a thing in a state where it cannot. Names state, trigger and id."""

    def __init__(self, state: Enum, trigger: Enum, name: str) -> None:
        super().__init__(
            f"{name}: {trigger.value} cannot happen in state {state.value}; this is a bug, please report it"
        )
        self.state = state
        self.trigger = trigger


class TaskState(Enum):
    """Where a task stands."""

    COUNTING = "counting"
    WAITING = "waiting"
    BOUND = "bound"
    STREAMING = "streaming"
    ENDED = "ended"


class TaskTrigger(Enum):
    """What moves a task."""

    ADMIT = "admit"
    BIND = "bind"
    FIRST_TOKEN = "first_token"
    REQUEUE = "requeue"
    END = "end"


_S, _T = TaskState, TaskTrigger

TASK_TABLE: dict[tuple[TaskState, TaskTrigger], TaskState] = {
    (_S.COUNTING, _T.ADMIT): _S.WAITING,
    (_S.WAITING, _T.BIND): _S.BOUND,
    (_S.WAITING, _T.END): _S.ENDED,
    (_S.BOUND, _T.FIRST_TOKEN): _S.STREAMING,
    (_S.BOUND, _T.REQUEUE): _S.WAITING,
    (_S.BOUND, _T.END): _S.ENDED,
    (_S.STREAMING, _T.REQUEUE): _S.WAITING,
    (_S.STREAMING, _T.END): _S.ENDED,
}


def next_task_state(state: TaskState, trigger: TaskTrigger, name: str) -> TaskState:
    """Look up where a trigger leads.

    Errors: IllegalTransition.
    Req: ORCH-4152

    >>> next_task_state(TaskState.WAITING, TaskTrigger.BIND, "t").value
    'bound'
    """
    try:
        return TASK_TABLE[state, trigger]
    except KeyError:
        raise IllegalTransition(state, trigger, name) from None
