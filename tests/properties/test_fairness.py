"""Shares of the classes through the whole core: weights, no idle slot, nobody starved, order inside a class."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from orchqueue.core import effects as fx
from tests.unit.core.driving import Driver, both_classes, pool_settings

COUNTS = st.integers(1, 12)


class FairnessMachine(RuleBasedStateMachine):
    """One slot; both classes come in bursts and are served in runs."""

    @initialize(weight=st.sampled_from([1, 3, 8]))
    def begin(self, weight: int) -> None:
        self.core = Driver(pool_settings(capacity=1_000, classes=both_classes(1_000, interactive=weight)))
        self.limits = {"interactive": 1, "batch": weight}
        self.waiting: dict[str, list[str]] = {"interactive": [], "batch": []}
        self.passed = {"interactive": 0, "batch": 0}
        self.count = 0
        self.core.submit("running")

    @rule(count=COUNTS, priority=st.sampled_from(["interactive", "batch"]))
    def come(self, count: int, priority: str) -> None:
        for _ in range(count):
            self.count += 1
            name = f"t{self.count}"
            self.core.submit(name, priority=priority)
            self.waiting[priority].append(name)

    @rule(count=COUNTS)
    def serve(self, count: int) -> None:
        for _ in range(min(count, sum(map(len, self.waiting.values())))):
            before = len(self.core.starts)
            self.core.complete(self.core.wanted(fx.StartAttempt)[-1].attempt_id)
            assert len(self.core.starts) == before + 1, "something waits, so the free slot is used"
            self._started(self.core.starts[-1])

    def _started(self, name: str) -> None:
        served = next(p for p, names in self.waiting.items() if name in names)
        other = "batch" if served == "interactive" else "interactive"
        assert self.waiting[served].pop(0) == name, "first in, first out inside the class"
        self.passed[served] = 0
        self.passed[other] = self.passed[other] + 1 if self.waiting[other] else 0
        assert self.passed[other] <= self.limits[other], f"{other} waited while {self.passed[other]} others started"


TestFairness = pytest.mark.req("ORCH-4153", "ORCH-4154", "ORCH-4155", "ORCH-4236")(FairnessMachine.TestCase)
TestFairness.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
