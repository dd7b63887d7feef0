"""Which attempts an event takes from their tasks: the engine failed, its replica is gone, or it fell silent for too long.

Req: ORCH-4173, ORCH-4367, ORCH-4370
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId


class Loss(msgspec.Struct, frozen=True):
    """What failed how: one attempt, or all that a replica had."""

    failure: ev.AttemptFailure
    attempt_id: AttemptId | None = None
    replica_id: ReplicaId | None = None

    def hits(self, attempt_id: AttemptId | None, replica_id: ReplicaId | None) -> bool:
        """Tell whether an attempt on a replica is among it."""
        if attempt_id is None:
            return False
        return attempt_id == self.attempt_id or (self.replica_id is not None and replica_id == self.replica_id)


def loss_of(event: ev.AnyEvent, effects: Sequence[fx.AnyEffect]) -> Loss | None:
    """Tell what an event has taken away, None when it has taken nothing.

    1. A silence shows by the abort that follows from it.
    2. An engine that does not let go of it is given up, which is told to the operator.
    """
    match event:
        case ev.AttemptFailed():
            return Loss(event.failure, event.attempt_id)
        case ev.ReplicaLost():
            return Loss("lost", None, event.replica_id)
        case ev.TimerFired() if event.key[0] == "idle":
            silent = next((e.attempt_id for e in effects if isinstance(e, fx.AbortAttempt)), None)
            return None if silent is None else Loss("hung", silent)
        case ev.TimerFired() if event.key[0] == "hung":
            told = (e.fields["replica_id"] for e in effects if isinstance(e, fx.Note) and e.event == "replica_lost")
            given_up = next(told, None)
            return None if given_up is None else Loss("lost", None, ReplicaId(str(given_up)))
        case _:
            return None
