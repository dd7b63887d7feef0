"""Which replica a task starts on: the least busy one, or the one that is warm for it, and never at the cost of others."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplicaId
from tests.unit.core.driving import Driver, both_classes, pool_settings

PASSED_AT_MOST = 4
WAIT_AT_MOST_MS = 1_000
PICKS = st.integers(0, 99)


class WarmthMachine(RuleBasedStateMachine):
    """One pool of equal replicas, one class; some tasks belong to sessions, some run long; timers fire on time."""

    @initialize(replicas=st.integers(2, 3), slots=st.integers(1, 2))
    def begin(self, replicas: int, slots: int) -> None:
        self.core = Driver(
            pool_settings(
                replicas=replicas, slots=slots, strict=False, ctx=100_000, capacity=1_000, classes=both_classes(1_000)
            )
        )
        self.slots = slots
        self.vram = {f"pr{number}": 0 for number in range(replicas)}
        self.running: dict[int, tuple[str, str | None]] = {}
        self.waiting: dict[str, str | None] = {}
        self.passed: dict[str, int] = {}
        self.due: dict[tuple[str, str], int] = {}
        self.waits_since: dict[str, int] = {}
        self.warm_on: dict[str, str] = {}
        self.count = 0

    def busy(self, replica: str) -> int:
        return sum(where == replica for where, _ in self.running.values())

    def best(self) -> str | None:
        """Name the replica that the next task without a session goes to."""
        free = [r for r in self.vram if self.busy(r) < self.slots]
        return min(
            free, key=lambda r: (Fraction(self.busy(r), self.slots), -self.vram[r], self.busy(r), r), default=None
        )

    def follow(self, effects: list[fx.AnyEffect]) -> None:
        for effect in effects:
            match effect:
                case fx.SetTimer(("warm", name), at_ms):
                    self.due["warm", name] = at_ms
                    self.waits_since[name.rpartition("/")[2]] = self.core.now_ms
                case fx.ClearTimer(("warm", name)):
                    self.due.pop(("warm", name), None)
                case fx.StartAttempt():
                    self._started(effect)
                case _:
                    pass

    def _started(self, start: fx.StartAttempt) -> None:
        name, replica = start.key.rpartition("/")[2], str(start.replica_id)
        session = self.waiting.pop(name)
        if session is None:
            assert replica == self.best(), "the least busy replica, more free memory, fewer active, first by name"
        assert self.busy(replica) < self.slots
        for other in self.waiting:
            if int(other[1:]) < int(name[1:]):
                assert self.waiting[other] is not None, f"{name} was started before {other}, which waits for nothing"
                self.passed[other] = self.passed.get(other, 0) + 1
                assert self.passed[other] <= PASSED_AT_MOST, f"{other} was passed {self.passed[other]} times"
        self.running[start.attempt_id] = (replica, session)

    @rule(session=st.sampled_from([None, "s0", "s1"]), tokens=st.sampled_from([8, 8, 5_000]))
    def come(self, session: str | None, tokens: int) -> None:
        self.submit(session, tokens)

    def submit(self, session: str | None, tokens: int) -> None:
        self.count += 1
        name = f"t{self.count}"
        self.waiting[name] = session
        effects = self.core.submit(name, session_id=session, max_tokens=tokens, expected_tokens=tokens)
        if not self.core.wanted(fx.Accept, effects):
            del self.waiting[name]
        self.follow(effects)

    @rule(count=st.integers(2, 6))
    def crowd(self, count: int) -> None:
        for _ in range(count):
            self.submit(None, 8)

    @rule(count=st.integers(1, 6))
    def serve_elsewhere(self, count: int) -> None:
        for _ in range(count):
            waited_for = {self.warm_on.get(session) for session in self.waiting.values() if session is not None}
            cold = [attempt for attempt, (replica, _) in self.running.items() if replica not in waited_for]
            if cold:
                self._complete(min(cold))

    @precondition(lambda self: self.running)
    @rule(pick=PICKS)
    def complete(self, pick: int) -> None:
        self._complete(sorted(self.running)[pick % len(self.running)])

    def _complete(self, attempt: int) -> None:
        replica, session = self.running.pop(attempt)
        if session is not None:
            self.warm_on[session] = replica
        self.follow(self.core.complete(attempt))

    @rule(pick=PICKS, free_bytes=st.integers(0, 2))
    def scrape(self, pick: int, free_bytes: int) -> None:
        replica = sorted(self.vram)[pick % len(self.vram)]
        self.vram[replica] = free_bytes
        figures = (ev.DeviceFigures("0", vram_free_bytes=free_bytes),)
        self.follow(self.core.handle(ev.ReplicaScraped(ReplicaId(replica), None, figures)))

    @rule(delay_ms=st.sampled_from([1, 400, 999]))
    def time_passes(self, delay_ms: int) -> None:
        until_ms = self.core.now_ms + delay_ms
        while due := [(at_ms, timer) for timer, at_ms in self.due.items() if at_ms <= until_ms]:
            at_ms, timer = min(due)
            del self.due[timer]
            self.follow(self.core.handle(ev.TimerFired(timer), after_ms=at_ms - self.core.now_ms))
        self.follow(self.core.handle(ev.Ticked(), after_ms=until_ms - self.core.now_ms))

    @invariant()
    def nobody_waits_beside_a_free_slot_but_for_warmth(self) -> None:
        if not hasattr(self, "core") or self.best() is None:
            return
        for name, session in self.waiting.items():
            assert session is not None, f"{name} waits for nothing, and {self.best()} has a free slot"
            assert name in self.waits_since, f"{name} waits, and no end of its wait is set"
            assert self.core.now_ms < self.waits_since[name] + WAIT_AT_MOST_MS, f"{name} waited too long for warmth"
            assert session in self.warm_on, f"{name} waits though session {session} has left nothing anywhere"


TestWarmth = pytest.mark.req("ORCH-3010", "ORCH-3013", "ORCH-4154", "ORCH-4236", "ORCH-4250")(WarmthMachine.TestCase)
TestWarmth.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
