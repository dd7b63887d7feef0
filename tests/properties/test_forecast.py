"""What is predicted at admission comes true where nothing is left to chance: lengths as expected, one tenant, no newcomers."""

from __future__ import annotations

from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId
from tests.unit.core.driving import Driver, pool_settings


class Engine:
    """Decodes a token of every running task each `token_ms`, never more and never less."""

    def __init__(self, core: Driver, token_ms: int) -> None:
        self.core, self.token_ms = core, token_ms
        self.running: list[tuple[int, int, int]] = []
        self.started_at_ms: dict[str, int] = {}
        self.seen = 0

    def begin(self) -> None:
        """Take what the core has started since it was asked last."""
        starts = self.core.wanted(fx.StartAttempt)
        for start in starts[self.seen :]:
            self.started_at_ms[start.key.rpartition("/")[2]] = self.core.now_ms
            ends_at_ms = self.core.now_ms + start.spec.max_tokens * self.token_ms
            heappush(self.running, (ends_at_ms, start.attempt_id, start.spec.max_tokens))
        self.seen = len(starts)

    def run_out(self) -> None:
        """Decode until nothing is left."""
        self.begin()
        while self.running:
            at_ms, attempt, tokens = heappop(self.running)
            done = ev.AttemptCompleted(AttemptId(attempt), "stop", 2, tokens, 0, tokens * self.token_ms)
            self.core.handle(done, at_ms - self.core.now_ms)
            self.core.close(attempt)
            self.begin()


@pytest.mark.req("ORCH-3029", "ORCH-4361", "ORCH-4236")
@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 4),
    token_ms=st.integers(1, 20),
    learned=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30)
    | st.builds(lambda tokens, count: [tokens] * count, st.integers(1, 60), st.integers(1, 30)),
)
def test_a_predicted_start_comes_true_within_one_task(
    slots: int, token_ms: int, learned: list[int], lengths: list[int]
) -> None:
    """At rates learned before, a start is off by the longest task at most, with equal tasks by what each before it is rounded."""
    core = Driver(pool_settings(slots=slots, strict=False))
    engine = Engine(core, token_ms)
    for index, tokens in enumerate(learned):
        core.submit(f"l{index}", max_tokens=tokens, expected_tokens=tokens)
    engine.run_out()
    asked_at_ms, told = core.now_ms, dict[str, int]()
    for index, tokens in enumerate(lengths):
        effects = core.submit(f"n{index}", max_tokens=tokens, expected_tokens=tokens)
        told[f"n{index}"] = core.wanted(fx.Accept, effects)[0].predicted_start_ms
    engine.run_out()
    longest_ms = max(lengths) * token_ms
    for place, (name, start_in_ms) in enumerate(told.items()):
        # Of each turn whole milliseconds are told, and a rate is learned to a thousandth.
        rounded_ms = 1 + place // slots * (1 + longest_ms / 1_000)
        most_ms = rounded_ms if len(set(lengths)) == 1 else longest_ms
        missed_ms = start_in_ms - (engine.started_at_ms[name] - asked_at_ms)
        assert abs(missed_ms) <= most_ms, f"{name} was told to start {missed_ms} ms too late, and {most_ms} may be"
