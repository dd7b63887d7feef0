"""Who holds which decode slot. `release` is called in exactly one place: when an attempt is closed.

Req: ORCH-3009
"""

from __future__ import annotations

from orchqueue.core.ids import AttemptId, ReplicaId


class SlotError(Exception):
    """A bug: a slot taken that is not free, or released by somebody who does not hold it."""


class Slots:
    """Slot ownership of all replicas.

    Req: ORCH-4164

    >>> s = Slots(); s.size(ReplicaId("r"), 1); s.acquire(ReplicaId("r"), AttemptId(1)); s.free(ReplicaId("r"))
    0
    >>> s.release(AttemptId(1))
    'r'
    >>> s.free(ReplicaId("r"))
    1
    """

    def __init__(self) -> None:
        self._total: dict[ReplicaId, int] = {}
        self._held: dict[ReplicaId, set[AttemptId]] = {}
        self._holder: dict[AttemptId, ReplicaId] = {}

    def size(self, replica_id: ReplicaId, total: int) -> None:
        """Set how many slots a replica has."""
        self._total[replica_id] = total
        self._held.setdefault(replica_id, set())

    def total(self, replica_id: ReplicaId) -> int:
        """Count a replica's slots."""
        return self._total.get(replica_id, 0)

    def free(self, replica_id: ReplicaId) -> int:
        """Count a replica's free slots; never below 0, even when it came back smaller."""
        return max(0, self._total.get(replica_id, 0) - len(self._held.get(replica_id, ())))

    def taken(self, replica_id: ReplicaId) -> int:
        """Count a replica's slots that are held; more than there are when it came back smaller."""
        return len(self._held.get(replica_id, ()))

    def holders(self, replica_id: ReplicaId) -> frozenset[AttemptId]:
        """List the attempts that hold a replica's slots."""
        return frozenset(self._held.get(replica_id, ()))

    def acquire(self, replica_id: ReplicaId, attempt_id: AttemptId) -> None:
        """Take a slot.

        Errors: SlotError.
        """
        if self.free(replica_id) < 1:
            raise SlotError(f"{replica_id} has no free slot for attempt {attempt_id}")
        if attempt_id in self._holder:
            raise SlotError(f"attempt {attempt_id} already holds a slot of {self._holder[attempt_id]}")
        self._held[replica_id].add(attempt_id)
        self._holder[attempt_id] = replica_id

    def release(self, attempt_id: AttemptId) -> ReplicaId:
        """Give a slot back.

        Errors: SlotError.
        """
        try:
            replica_id = self._holder.pop(attempt_id)
        except KeyError:
            raise SlotError(f"attempt {attempt_id} holds no slot") from None
        self._held[replica_id].remove(attempt_id)
        return replica_id
