"""What readers see of a task whose engines are lost, hang, lie and are restarted, against a naive model of bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Bound, Spoken
from orchqueue.core.replay import Followed, follow
from orchqueue.core.running_text import TEXT_TIMER
from orchqueue.core.settings import Supervision, Timeouts
from tests.unit.core.driving import Driver, key, pool_settings

LETTERS = "aé東🌍"
"""One, two, three and four bytes; the second bytes of some are the same."""
TEXTS = st.text(LETTERS, max_size=12)
REPLICAS = ("pr0", "pr1", "pr2")
IDLE_MS = 1_000


def cut(text: str, bounds: list[int]) -> tuple[str, ...]:
    """Cut a text at some places."""
    places = sorted({0, len(text), *(min(bound, len(text)) for bound in bounds)})
    return tuple(text[a:b] for a, b in pairwise(places))


@pytest.mark.req("ORCH-4010", "ORCH-4366")
@given(said=TEXTS, again=TEXTS, same=st.integers(0, 12), bounds=st.lists(st.integers(0, 12), max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_replay_agrees_with_what_was_said_as_whole_texts_do(
    said: str, again: str, same: int, bounds: list[int]
) -> None:
    """However it is cut, what goes on is what follows the sent bytes, and a difference lies at its first byte."""
    again = said[:same] + again
    sent, computed = said.encode(), again.encode()
    differs_at = next((i for i, (a, b) in enumerate(zip(sent, computed, strict=False)) if a != b), None)
    at_bytes, passed = 0, ""
    found = Followed(0)
    for piece in cut(again, bounds):
        found = follow(bytearray(sent), at_bytes, (piece, ""))
        at_bytes, passed = found.at_bytes, passed + "".join(found.rest)
        if found.differs_at is not None:
            break
    assert found.differs_at == differs_at
    if differs_at is None:
        assert (at_bytes, passed.encode()) == (min(len(sent), len(computed)), computed[len(sent) :])
    else:
        assert passed == ""


class ReplayMachine(RuleBasedStateMachine):
    """One strict task on three replicas. The model knows the text that was sent, what each run has said, and the disk."""

    @initialize(text=st.text(LETTERS, min_size=4, max_size=24))
    def begin(self, text: str) -> None:
        self.text, self.sent, self.kept = text, "", ""
        self.core = self.made()
        self.core.submit("t", max_tokens=64)
        self.accepted = self.core.wanted(fx.Record)[0].record
        self.bound: Bound | None = None
        self.run: AttemptId | None = None
        self.said = ""
        self.answer = text
        self.over: Outcome | None = None
        self.take(self.core.last)

    @staticmethod
    def made() -> Driver:
        calm = Supervision(breaker_failures=1_000_000, restarts_per_minute=1_000_000)
        timeouts = Timeouts(wall_ms=1_000_000_000, idle_ms=IDLE_MS)
        pool = pool_settings(replicas=3, timeouts=timeouts, supervision=calm, max_attempts=1_000)
        return Driver(pool, poison_kills=1_000)

    def take(self, effects: list[fx.AnyEffect], new: str = "", end: Outcome | None = None) -> None:
        """Check what readers get and how the task ends; keep what is recorded; see who goes on."""
        told = "".join(text for emitted in self.core.wanted(fx.EmitTokens, effects) for text in emitted.texts)
        assert told == new, "bytes reach readers once and without a gap"
        self.sent += new
        assert [e.ended.outcome for e in self.core.wanted(fx.Finish, effects)] == ([end] if end else [])
        self.over = end or self.over
        for record in [e.record for e in self.core.wanted(fx.Record, effects)]:
            if isinstance(record, Spoken):
                assert record.at_bytes == len(self.kept.encode())
                self.kept += record.text
            elif isinstance(record, Bound):
                self.bound = record
        assert self.sent.startswith(self.kept)
        for start in self.core.wanted(fx.StartAttempt, effects):
            assert (self.run, start.said) == (None, "")
            self.run, self.said, self.answer = start.attempt_id, "", self.text

    def lose(self, event: ev.AnyEvent, after_ms: int = 0) -> None:
        """Take the engine away; whoever goes on begins with the first byte."""
        run, self.run = self.run, None
        self.take(self.core.handle(event, after_ms))
        assert run is not None
        self.take(self.core.close(run))
        for name in REPLICAS:
            self.take(self.core.handle(ev.TimerFired(("restart", name))))
            self.take(self.core.handle(ev.ReplicaHealthy(ReplicaId(name))))
            self.take(self.core.ready(name))
        self.goes_on()

    def goes_on(self) -> None:
        """Demand that some replica has the task."""
        assert self.run is not None, "some replica goes on"

    @precondition(lambda self: not self.over)
    @rule(at=st.integers(0, 24), other=st.text(LETTERS + "#", max_size=3))
    def lie(self, at: int, other: str) -> None:
        """Have the engine say something else from some byte on that it has not said yet, or stop there."""
        at = max(len(self.said), at)
        self.answer = self.answer[:at] + other + self.answer[at + len(other) :] if other else self.answer[:at]

    @precondition(lambda self: not self.over)
    @rule(size=st.integers(1, 9), bounds=st.lists(st.integers(0, 9), max_size=3))
    def say(self, size: int, bounds: list[int]) -> None:
        assert self.run is not None
        piece = self.answer[len(self.said) : len(self.said) + size]
        if not piece:
            return
        self.said += piece
        pairs = zip(self.sent, self.said, strict=False)
        differs = any(one != other for one, other in pairs)
        effects = self.core.handle(ev.ChunksArrived(self.run, cut(piece, bounds), len(self.said)))
        if differs:
            self.take(effects, end=Outcome.DIVERGED)
        else:
            self.take(effects, self.said[len(self.sent) :])

    @precondition(lambda self: not self.over)
    @rule()
    def complete(self) -> None:
        assert self.run is not None
        if len(self.said) < len(self.answer):
            return
        short = len(self.said) < len(self.sent)
        effects = self.core.handle(ev.AttemptCompleted(self.run, "stop", 3, max(1, len(self.said)), 1, 1))
        self.take(effects, end=Outcome.DIVERGED if short else Outcome.COMPLETED)

    @precondition(lambda self: not self.over)
    @rule()
    def stop(self) -> None:
        """Have the engine end where it is."""
        self.answer = self.said
        self.complete()

    @precondition(lambda self: not self.over)
    @rule(how=st.sampled_from(["connection", "process", "silence"]))
    def fail(self, how: str) -> None:
        assert self.run is not None
        if how == "connection":
            self.lose(ev.AttemptFailed(self.run, "lost", "reset"))
        elif how == "process":
            self.lose(ev.ReplicaLost(self.core.core.state.attempts[self.run].replica_id, "signal", "9"))
        elif self.said:
            self.lose(ev.TimerFired(("idle", key("t"))), IDLE_MS)

    @precondition(lambda self: not self.over)
    @rule()
    def beat(self) -> None:
        self.take(self.core.handle(ev.TimerFired(TEXT_TIMER)))
        assert self.kept == self.sent, "all that was sent is recorded at each beat"

    @precondition(lambda self: not self.over)
    @rule(share=st.integers(0, 24))
    def restart(self, share: int) -> None:
        """Kill the daemon: of what was recorded some may be lost, what was not is lost. Readers come back with what they have."""
        assert isinstance(self.accepted, Accepted)
        had, self.kept = self.sent, self.kept[:share]
        self.sent = self.kept
        self.run = None
        self.core = self.made()
        self.take(self.core.handle(ev.TaskRecovered(self.accepted, self.bound, self.kept, len(self.kept))))
        self.goes_on()
        assert had.startswith(self.sent)

    @precondition(lambda self: self.over)
    @rule()
    def talk_on(self) -> None:
        """What comes after the end goes nowhere."""
        self.take(self.core.handle(ev.ChunksArrived(AttemptId(1), ("more",), 1)))


TestReplay = pytest.mark.req("ORCH-4010", "ORCH-4180", "ORCH-4183", "ORCH-4366", "ORCH-4367")(ReplayMachine.TestCase)
TestReplay.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
