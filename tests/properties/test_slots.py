"""Slot ownership: never more than there are, released exactly once."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.slots import SlotError, Slots

REPLICAS = [ReplicaId("a"), ReplicaId("b")]


class SlotMachine(RuleBasedStateMachine):
    """Two replicas whose attempts come and go."""

    @initialize(totals=st.tuples(st.integers(0, 3), st.integers(0, 3)))
    def begin(self, totals: tuple[int, int]) -> None:
        self.slots = Slots()
        self.totals = dict(zip(REPLICAS, totals, strict=True))
        self.held: dict[AttemptId, ReplicaId] = {}
        self.last = 0
        for replica, total in self.totals.items():
            self.slots.size(replica, total)

    def used(self, replica: ReplicaId) -> int:
        return sum(where == replica for where in self.held.values())

    @rule(replica=st.sampled_from(REPLICAS))
    def acquire(self, replica: ReplicaId) -> None:
        self.last += 1
        attempt = AttemptId(self.last)
        if self.used(replica) >= self.totals[replica]:
            with pytest.raises(SlotError):
                self.slots.acquire(replica, attempt)
        else:
            self.slots.acquire(replica, attempt)
            self.held[attempt] = replica

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), other=st.sampled_from(REPLICAS))
    def acquire_again(self, pick: int, other: ReplicaId) -> None:
        with pytest.raises(SlotError):
            self.slots.acquire(other, sorted(self.held)[pick % len(self.held)])

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        attempt = sorted(self.held)[pick % len(self.held)]
        assert self.slots.release(attempt) == self.held.pop(attempt)
        with pytest.raises(SlotError):
            self.slots.release(attempt)

    @rule(replica=st.sampled_from(REPLICAS), total=st.integers(0, 3))
    def come_back_with(self, replica: ReplicaId, total: int) -> None:
        self.slots.size(replica, total)
        self.totals[replica] = total

    @invariant()
    def agrees(self) -> None:
        for replica in REPLICAS if hasattr(self, "slots") else ():
            assert self.slots.free(replica) == max(0, self.totals[replica] - self.used(replica))
            assert self.slots.holders(replica) == {a for a, where in self.held.items() if where == replica}


TestSlots = pytest.mark.req("ORCH-3009", "ORCH-4164", "ORCH-4236")(SlotMachine.TestCase)
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
