"""The life of a replica as one transition table.

Req: ORCH-3002, ORCH-3038
"""

from __future__ import annotations

from enum import Enum

from orchqueue.core.task_states import IllegalTransition


class ReplicaState(Enum):
    """Where a replica stands. Only READY takes new attempts."""

    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    SUSPECT = "suspect"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    BROKEN = "broken"


class ReplicaTrigger(Enum):
    """What moves a replica."""

    START = "start"
    BECOME_READY = "become_ready"
    SUSPECT = "suspect"
    CLEAR = "clear"
    LOSE = "lose"
    BREAK = "break"
    STOP = "stop"
    STOPPED = "stopped"


_S, _T = ReplicaState, ReplicaTrigger

REPLICA_TABLE: dict[tuple[ReplicaState, ReplicaTrigger], ReplicaState] = {
    (_S.DOWN, _T.START): _S.STARTING,
    (_S.BACKOFF, _T.START): _S.STARTING,
    (_S.BROKEN, _T.START): _S.STARTING,
    (_S.STARTING, _T.BECOME_READY): _S.READY,
    (_S.READY, _T.SUSPECT): _S.SUSPECT,
    (_S.SUSPECT, _T.CLEAR): _S.READY,
    **{(state, _T.LOSE): _S.BACKOFF for state in (_S.STARTING, _S.READY, _S.SUSPECT)},
    **{(state, _T.BREAK): _S.BROKEN for state in (_S.STARTING, _S.READY, _S.SUSPECT)},
    **{(state, _T.STOP): _S.STOPPING for state in (_S.STARTING, _S.READY, _S.SUSPECT)},
    **{(state, _T.STOP): _S.DOWN for state in (_S.BACKOFF, _S.BROKEN, _S.DOWN)},
    (_S.STOPPING, _T.STOPPED): _S.DOWN,
    (_S.STOPPING, _T.LOSE): _S.DOWN,
}


def next_replica_state(state: ReplicaState, trigger: ReplicaTrigger, name: str) -> ReplicaState:
    """Look up where a trigger leads.

    Errors: IllegalTransition.

    >>> next_replica_state(ReplicaState.DOWN, ReplicaTrigger.START, "r").value
    'starting'
    """
    try:
        return REPLICA_TABLE[state, trigger]
    except KeyError:
        raise IllegalTransition(state, trigger, name) from None
