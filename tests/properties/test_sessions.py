"""Sessions through the whole core: how long they live, how many turns they have, and that looking creates nothing."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import views
from orchqueue.core.settings import SessionLimits
from tests.unit.core.driving import TENANT, Driver, pool_settings

NAMES = ["s0", "s1"]
TTL_MS = 1_000


class SessionMachine(RuleBasedStateMachine):
    """Tasks of two sessions, time that passes, deletions; timers fire late or not at all."""

    @initialize(max_turns=st.integers(1, 4))
    def begin(self, max_turns: int) -> None:
        self.max_turns = max_turns
        self.core = Driver(
            pool_settings(slots=4, strict=False, capacity=1000),
            sessions=SessionLimits(TTL_MS, max_turns),
        )
        self.model: dict[str, tuple[int, int]] = {}
        self.count = 0

    def alive(self, name: str) -> tuple[int, int] | None:
        found = self.model.get(name)
        return found if found is not None and self.core.now_ms < found[1] else None

    @rule(name=st.sampled_from(NAMES), counted=st.booleans())
    def take_a_turn(self, name: str, counted: bool) -> None:
        self.count += 1
        prompt = "x" * 300 if counted else "hi"
        effects = self.core.submit(f"t{self.count}", session_id=name, prompt=prompt)
        for question in self.core.wanted(fx.CountPrompt, effects):
            effects = self.core.handle(ev.PromptCounted(question.key, 10))
        turns, until_ms = self.alive(name) or (0, self.core.now_ms + TTL_MS)
        if turns >= self.max_turns:
            (fault,) = self.core.refusal().refusal.faults
            assert fault.pointer == "/session_id"
            del self.model[name]
        else:
            assert self.core.wanted(fx.Accept, effects)
            self.model[name] = (turns + 1, until_ms)

    @rule(delay_ms=st.sampled_from([1, 400, TTL_MS]))
    def time_passes(self, delay_ms: int) -> None:
        self.core.handle(ev.Ticked(), after_ms=delay_ms)

    @rule(name=st.sampled_from(NAMES))
    def timer_fires(self, name: str) -> None:
        self.core.handle(ev.TimerFired(("session", f"{TENANT}/{name}")))

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        effects = self.core.handle(ev.SessionDeleteRequested(self.core.reply(), (TENANT, name)))
        assert self.core.wanted(fx.Done, effects), "deleting is as good as done, also when unknown"
        self.model.pop(name, None)

    @invariant()
    def looks_as_told(self) -> None:
        if not hasattr(self, "core"):
            return
        state = self.core.core.state
        before = len(state.sessions)
        for name in [*NAMES, "never"]:
            seen = views.session(state, (TENANT, name), self.core.now_ms)
            expected = self.alive(name)
            if expected is None:
                assert seen is None
            else:
                assert seen is not None
                assert (seen.turns, seen.ttl_ms_remaining) == (expected[0], expected[1] - self.core.now_ms)
                assert seen.ttl_ms_remaining <= TTL_MS
        assert len(state.sessions) == before, "a look creates nothing"


TestSessions = pytest.mark.req(
    "ORCH-2004", "ORCH-2005", "ORCH-3021", "ORCH-3022", "ORCH-4236", "ORCH-4244", "ORCH-4248"
)(SessionMachine.TestCase)
TestSessions.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
