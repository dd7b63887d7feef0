"""The bounded queue of a pool against a naive model of the rules, written from the requirements alone."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core.outcome import Outcome
from orchqueue.core.settings import ClassSettings
from tests.unit.core.driving import Driver, pool_settings

POLICIES = ("reject", "drop-lru", "shed-low-priority")
RANK = {"batch": 0, "interactive": 1}


class Model:
    """A list of (name, class) in order of acceptance, and nothing clever."""

    def __init__(self, capacity: int, caps: dict[str, int], policies: dict[str, str]) -> None:
        self.capacity, self.caps, self.policies = capacity, caps, policies
        self.waiting: list[tuple[str, str]] = []

    def submit(self, name: str, priority: str) -> tuple[Outcome | None, str | None]:
        """Take a newcomer in.

        Shape: why it was refused, or None; who was dropped for it, or None.
        """
        same = [n for n, p in self.waiting if p == priority]
        class_full = len(same) >= self.caps[priority]
        if len(self.waiting) < self.capacity and not class_full:
            self.waiting.append((name, priority))
            return None, None
        victim = None
        match self.policies[priority]:
            case "reject":
                return Outcome.REJECTED_FULL, None
            case "drop-lru":
                candidates = [(n, p) for n, p in self.waiting if RANK[p] <= RANK[priority]]
                if class_full:
                    candidates = [(n, p) for n, p in candidates if p == priority]
                lowest = min((RANK[p] for _, p in candidates), default=0)
                victim = next(((n, p) for n, p in candidates if RANK[p] == lowest), None)
                if victim is None:
                    return Outcome.DROPPED_NO_VICTIM, None
            case "shed-low-priority":
                batch = [(n, p) for n, p in self.waiting if p == "batch"]
                if priority == "batch" or class_full or not batch:
                    return Outcome.REJECTED_SHED, None
                victim = batch[-1]
        assert victim is not None
        self.waiting.remove(victim)
        self.waiting.append((name, priority))
        return None, victim[0]

    def line(self, priority: str) -> list[str]:
        """Name a class's waiting tasks in order."""
        return [n for n, p in self.waiting if p == priority]


class QueueMachine(RuleBasedStateMachine):
    """One slot, always taken; tasks come, go, and are served one by one."""

    @initialize(
        capacity=st.integers(1, 6),
        interactive=st.tuples(st.integers(1, 5), st.sampled_from(POLICIES)),
        batch=st.tuples(st.integers(1, 5), st.sampled_from(POLICIES)),
    )
    def begin(self, capacity: int, interactive: tuple[int, str], batch: tuple[int, str]) -> None:
        classes = (
            ClassSettings("interactive", 8, interactive[0], interactive[1]),  # type: ignore[arg-type]
            ClassSettings("batch", 1, batch[0], batch[1]),  # type: ignore[arg-type]
        )
        self.core = Driver(pool_settings(capacity=capacity, classes=classes))
        self.model = Model(
            capacity,
            {"interactive": interactive[0], "batch": batch[0]},
            {"interactive": interactive[1], "batch": batch[1]},
        )
        self.count = 0
        self.passed_batch = 0
        self.core.submit("running")

    @rule(priority=st.sampled_from(["interactive", "batch"]))
    def submit(self, priority: str) -> None:
        self.count += 1
        name = f"t{self.count}"
        refused, victim = self.model.submit(name, priority)
        effects = self.core.submit(name, priority=priority)
        told = self.core.wanted(fx.Finish, effects)
        assert [f.key.rpartition("/")[2] for f in told] == ([victim] if victim else [])
        if victim:
            policy = self.model.policies[priority]
            outcome = Outcome.DROPPED_VICTIM if policy == "drop-lru" else Outcome.SHED_VICTIM
            assert told[0].ended.outcome is outcome
            assert told[0].ended.retry_after_ms is not None
        if refused is None:
            assert [a.key.rpartition("/")[2] for a in self.core.wanted(fx.Accept, effects)] == [name]
        else:
            refusal = self.core.refusal().refusal
            assert refusal.outcome is refused
            assert refusal.retry_after_ms is not None
            assert refusal.retry_after_ms >= 1

    @precondition(lambda self: self.model.waiting)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        name, _ = gone = self.model.waiting[pick % len(self.model.waiting)]
        self.core.cancel(name)
        self.model.waiting.remove(gone)

    @rule()
    def serve(self) -> None:
        running = self.core.wanted(fx.StartAttempt)[-1].attempt_id
        before = len(self.core.starts)
        self.core.complete(running)
        started = self.core.starts[before:]
        if not self.model.waiting:
            assert started == []
            self.core.submit("refill" + str(before))
            return
        assert len(started) == 1, "a slot is free and a task waits: it must start"
        gone = next((n, p) for n, p in self.model.waiting if n == started[0])
        assert started[0] == self.model.line(gone[1])[0], "first in, first out inside the class"
        self._check_shares(gone[1])
        self.model.waiting.remove(gone)

    def _check_shares(self, priority: str) -> None:
        if priority == "batch" or not self.model.line("batch"):
            self.passed_batch = 0
            return
        self.passed_batch += 1
        assert self.passed_batch <= 8, "at most eight interactive starts between two batch starts"

    @invariant()
    def same_lines(self) -> None:
        if not hasattr(self, "core"):
            return
        lines = self.core.pool().queue.lines
        for priority in RANK:
            assert [t.task_id for t in lines[priority]] == self.model.line(priority)
            for position, task in enumerate(lines[priority]):
                assert lines[priority].position(task) == position


TestQueue = pytest.mark.req(
    "ORCH-3004", "ORCH-3005", "ORCH-3006", "ORCH-4157", "ORCH-4158", "ORCH-4159", "ORCH-4160", "ORCH-4161", "ORCH-4236"
)(QueueMachine.TestCase)
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
