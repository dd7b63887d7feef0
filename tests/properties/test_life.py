"""The life of tasks through the whole core against a naive model of the promises: each ends once, by the right reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Ended
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.settings import Supervision, Timeouts
from tests.unit.core.driving import Driver, both_classes, key, pool_settings

REPLICAS = ("pr0", "pr1")
WALL_MS, IDLE_MS, FIRST_TOKEN_MS, GRACE_MS, DEADLINE_MS = 60_000, 5_000, 3_000, 10_000, 200_000
ATTEMPTS_AT_MOST, KILLS_AT_MOST = 5, 3
RUNNING = ("bound", "streaming")
PICKS = st.integers(0, 99)


@dataclass
class Life:
    """One task, as a client and an operator could follow it."""

    phase: str
    deadline_at_ms: int
    owner: int | None = None
    attempts: int = 0
    kills: int = 0
    tried: set[str] = field(default_factory=set)
    bound_at_ms: int = 0
    token_at_ms: int = 0
    readers: int = 0
    left_at_ms: int | None = None
    told_started: bool = False
    sent: int = 0
    clock_from_ms: int | None = None
    spent_ms: int = 0

    def after_failure(self, failure: str, replica: str, now_ms: int) -> Outcome | None:
        """Say how a failed attempt ends the task; None when it is tried again."""
        self.tried.add(replica)
        self.kills += failure in ("lost", "hung")
        if failure == "rejected":
            return Outcome.ENGINE_LOST if self.sent else Outcome.ENGINE_REFUSED
        if self.kills >= KILLS_AT_MOST:
            return Outcome.IDLE_TIMEOUT if failure == "hung" else Outcome.POISON
        if self.attempts >= ATTEMPTS_AT_MOST:
            return Outcome.IDLE_TIMEOUT if failure == "hung" else Outcome.REPLICAS_EXHAUSTED
        if failure == "engine_error" and self.tried == set(REPLICAS):
            return Outcome.REPLICAS_EXHAUSTED
        self.phase, self.owner = "waiting", None
        self.spent_ms += 0 if self.clock_from_ms is None else now_ms - self.clock_from_ms
        self.clock_from_ms = None
        return None

    def wall_due_ms(self) -> int:
        """Say when decoding has taken too long; a replay has the whole limit for itself."""
        return (
            self.bound_at_ms + WALL_MS if self.clock_from_ms is None else self.clock_from_ms + WALL_MS - self.spent_ms
        )

    def after_timer(self, kind: str, now_ms: int) -> Outcome | None:
        """Say how a timer that fires now ends the task; None when it is not due."""
        running = self.phase in RUNNING
        limits = {
            "deadline": (self.phase == "waiting" or running, self.deadline_at_ms, Outcome.DEADLINE_PASSED),
            "wall": (running, self.wall_due_ms(), Outcome.WALL_TIMEOUT),
            "first_token": (
                self.phase == "bound" and not self.sent,
                self.bound_at_ms + FIRST_TOKEN_MS,
                Outcome.FIRST_TOKEN_TIMEOUT,
            ),
            "idle": (self.phase == "streaming", self.token_at_ms + IDLE_MS, Outcome.IDLE_TIMEOUT),
            "disconnect": (
                (self.phase == "waiting" or running) and self.readers == 0,
                (self.left_at_ms or 0) + GRACE_MS,
                Outcome.CANCELED_ON_DISCONNECT,
            ),
        }
        matters, due_at_ms, outcome = limits[kind]
        return outcome if matters and now_ms >= due_at_ms else None


class LifeMachine(RuleBasedStateMachine):
    """Tasks on two replicas of one slot; clients, engines, timers and the journal do what they like."""

    @initialize()
    def begin(self) -> None:
        calm = Supervision(breaker_failures=1_000_000, restarts_per_minute=1_000_000)
        self.core = Driver(
            pool_settings(
                replicas=2,
                capacity=1_000,
                classes=both_classes(1_000),
                timeouts=Timeouts(WALL_MS, IDLE_MS, FIRST_TOKEN_MS),
                supervision=calm,
            )
        )
        self.lives: dict[str, Life] = {}
        self.open: dict[int, tuple[str, str]] = {}
        self.said: dict[int, int] = {}
        self.stopping: set[int] = set()
        self.count = 0

    def choose(self, pick: int) -> tuple[str, Life]:
        name = sorted(self.lives)[pick % len(self.lives)]
        return name, self.lives[name]

    def follow(self, effects: list[fx.AnyEffect], **ends: Outcome) -> None:
        """Check that exactly these ends are told, recorded first, and take in what was started."""
        told = {e.key.rpartition("/")[2]: e.ended.outcome for e in self.core.wanted(fx.Finish, effects)}
        assert told == ends
        recorded: list[str] = []
        for effect in effects:
            if isinstance(effect, fx.Record) and isinstance(effect.record, Ended):
                recorded.append(effect.record.task_id)
            if isinstance(effect, fx.Finish):
                assert effect.ended.task_id in recorded, "an end is told that the journal does not have"
                recorded.remove(effect.ended.task_id)
        assert recorded == [], "each end is recorded once, before it is told"
        for name in ends:
            self.lives[name].phase, self.lives[name].owner = "ended", None
        self.stopping |= {a.attempt_id for a in self.core.wanted(fx.AbortAttempt, effects)}
        for start in self.core.wanted(fx.StartAttempt, effects):
            life = self.lives[start.key.rpartition("/")[2]]
            assert (life.phase, life.owner) == ("waiting", None)
            assert start.replica_id not in [replica for _, replica in self.open.values()], "its slot is still held"
            life.phase, life.owner, life.attempts = "bound", start.attempt_id, life.attempts + 1
            life.bound_at_ms = self.core.now_ms
            life.clock_from_ms = None if life.sent else self.core.now_ms
            life.spent_ms = life.spent_ms if life.sent else 0
            self.said[start.attempt_id] = 0
            self.open[start.attempt_id] = (start.key.rpartition("/")[2], start.replica_id)
        for started in self.core.wanted(fx.EmitStarted, effects):
            life = self.lives[started.key.rpartition("/")[2]]
            assert not life.told_started, "started is told once"
            life.told_started = True

    @rule(counted=st.booleans(), priority=st.sampled_from(["interactive", "batch"]))
    def submit(self, counted: bool, priority: str) -> None:
        self.count += 1
        name = f"t{self.count:03}"
        effects = self.core.submit(
            name,
            prompt="x" * 300 if counted else "hi",
            priority=priority,
            on_disconnect="cancel",
            deadline_ms=DEADLINE_MS,
        )
        asked = bool(self.core.wanted(fx.CountPrompt, effects))
        if self.core.wanted(fx.Refuse, effects):
            assert not any(r.ready for r in self.core.pool().replicas.values()), "refused though a replica is up"
            return
        assert asked is counted
        self.lives[name] = Life("counting" if counted else "waiting", self.core.now_ms + DEADLINE_MS)
        assert bool(self.core.wanted(fx.Accept, effects)) is not counted
        self.follow(effects)

    @precondition(lambda self: self.lives)
    @rule(pick=PICKS, tokens=st.sampled_from([None, 10, 10_000]))
    def count_prompt(self, pick: int, tokens: int | None) -> None:
        name, life = self.choose(pick)
        effects = self.core.handle(ev.PromptCounted(key(name), tokens))
        if life.phase != "counting":
            assert effects == []
            return
        up = any(r.ready for r in self.core.pool().replicas.values()) or self.core.wanted(fx.StartAttempt, effects)
        if tokens == 10_000 or not up:
            assert len(self.core.wanted(fx.Refuse, effects)) == 1
            del self.lives[name]
        else:
            assert len(self.core.wanted(fx.Accept, effects)) == 1
            life.phase, life.deadline_at_ms = "waiting", self.core.now_ms + DEADLINE_MS
        self.follow(effects)

    @precondition(lambda self: self.lives)
    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        name, life = self.choose(pick)
        effects = self.core.cancel(name)
        known = life.phase != "counting"
        assert bool(self.core.wanted(fx.Done, effects)) is known
        assert bool(self.core.wanted(fx.Refuse, effects)) is not known
        ends = {name: Outcome.CANCELED_BY_CLIENT} if known and life.phase != "ended" else {}
        self.follow(effects, **ends)

    @precondition(lambda self: self.open)
    @rule(pick=PICKS)
    def chunk(self, pick: int) -> None:
        attempt = sorted(self.open)[pick % len(self.open)]
        name, _ = self.open[attempt]
        life = self.lives.get(name)
        effects = self.core.chunk(attempt)
        self.said[attempt] += 1
        heard = life is not None and life.owner == attempt
        new = heard and life is not None and self.said[attempt] > life.sent
        assert [t.key for t in self.core.wanted(fx.EmitTokens, effects)] == [key(name)] * new
        if life is not None and heard:
            life.phase, life.token_at_ms = "streaming", self.core.now_ms
            if life.clock_from_ms is None and self.said[attempt] == life.sent:
                life.clock_from_ms = self.core.now_ms
            if new:
                life.sent, life.kills = self.said[attempt], 0
        self.follow(effects)

    @precondition(lambda self: self.open)
    @rule(pick=PICKS)
    def complete(self, pick: int) -> None:
        attempt = sorted(self.open)[pick % len(self.open)]
        name, _ = self.open[attempt]
        owned = name in self.lives and self.lives[name].owner == attempt
        self.stopping.add(attempt)
        effects = self.core.handle(ev.AttemptCompleted(AttemptId(attempt), "stop", 2, 1, 1, 1))
        short = owned and self.said[attempt] < self.lives[name].sent
        self.follow(effects, **({name: Outcome.DIVERGED if short else Outcome.COMPLETED} if owned else {}))

    @precondition(lambda self: self.open)
    @rule(pick=PICKS, failure=st.sampled_from(["lost", "rejected", "overloaded", "engine_error"]))
    def fail(self, pick: int, failure: ev.AttemptFailure) -> None:
        attempt = sorted(self.open)[pick % len(self.open)]
        name, replica = self.open[attempt]
        life = self.lives.get(name)
        self.stopping.add(attempt)
        outcome = None
        if life is not None and life.owner == attempt:
            outcome = life.after_failure(failure, replica, self.core.now_ms)
        effects = self.core.fail(attempt, failure, close=False)
        self.follow(effects, **({name: outcome} if outcome else {}))

    @precondition(lambda self: self.stopping)
    @rule(pick=PICKS)
    def close(self, pick: int) -> None:
        attempt = sorted(self.stopping)[pick % len(self.stopping)]
        self.stopping.remove(attempt)
        del self.open[attempt]
        self.follow(self.core.close(attempt))

    @precondition(lambda self: self.lives)
    @rule(
        pick=PICKS,
        kind=st.sampled_from(["deadline", "wall", "first_token", "idle", "disconnect"]),
        after_ms=st.sampled_from([0, FIRST_TOKEN_MS, IDLE_MS, GRACE_MS, WALL_MS, DEADLINE_MS]),
    )
    def timer(self, pick: int, kind: str, after_ms: int) -> None:
        name, life = self.choose(pick)
        now_ms = self.core.now_ms + after_ms
        if kind == "deadline" and now_ms < life.deadline_at_ms:
            return
        if kind == "disconnect" and life.left_at_ms is None:
            return
        outcome = life.after_timer(kind, now_ms)
        if outcome is Outcome.IDLE_TIMEOUT and life.owner is not None:
            outcome = life.after_failure("hung", self.open[life.owner][1], now_ms)
        effects = self.core.handle(ev.TimerFired((kind, key(name))), after_ms)
        self.follow(effects, **({name: outcome} if outcome else {}))

    @precondition(lambda self: self.lives)
    @rule(pick=PICKS, readers=st.integers(0, 2))
    def read(self, pick: int, readers: int) -> None:
        name, life = self.choose(pick)
        if life.phase == "counting" or readers == life.readers:
            return
        event = ev.ReaderAttached if readers > life.readers else ev.ReaderDetached
        effects = self.core.handle(event(key(name), readers))
        if life.phase != "ended":
            life.left_at_ms = self.core.now_ms if readers < life.readers else life.left_at_ms
            life.readers = readers
        self.follow(effects)

    @precondition(lambda self: self.lives)
    @rule(pick=PICKS)
    def withdraw(self, pick: int) -> None:
        name, life = self.choose(pick)
        if life.phase == "counting":
            return
        self.core.handle(ev.JournalStalled("disk full"))
        running = life.phase != "ended"
        effects = self.core.handle(ev.AcceptsWithdrawn((key(name),)))
        self.follow(effects, **({name: Outcome.JOURNAL_DOWN} if running else {}))
        assert key(name) not in self.core.core.state.tasks
        del self.lives[name]
        self.follow(self.core.handle(ev.JournalHealed()))

    @precondition(lambda self: any(life.phase == "ended" for life in self.lives.values()))
    @rule(pick=PICKS)
    def forget(self, pick: int) -> None:
        ended = sorted(name for name, life in self.lives.items() if life.phase == "ended")
        name = ended[pick % len(ended)]
        effects = self.core.handle(ev.TimerFired(("retention", key(name))))
        assert self.core.wanted(fx.Forget, effects) == [fx.Forget(key(name))]
        del self.lives[name]
        self.follow(effects)

    @rule(name=st.sampled_from(REPLICAS))
    def lose(self, name: str) -> None:
        up = self.core.core.state.replicas[ReplicaId(name)].state in (ReplicaState.READY, ReplicaState.SUSPECT)
        ends: dict[str, Outcome] = {}
        for attempt, (owner, replica) in self.open.items():
            life = self.lives.get(owner)
            if up and replica == name and life is not None and life.owner == attempt:
                outcome = life.after_failure("lost", replica, self.core.now_ms)
                ends |= {owner: outcome} if outcome else {}
        self.follow(self.core.handle(ev.ReplicaLost(ReplicaId(name), "signal", "9")), **ends)

    @rule(name=st.sampled_from(REPLICAS))
    def come_back(self, name: str) -> None:
        self.follow(self.core.handle(ev.TimerFired(("cool", name))))
        self.follow(self.core.handle(ev.TimerFired(("restart", name))))
        self.follow(self.core.handle(ev.ReplicaHealthy(ReplicaId(name))))
        self.follow(self.core.ready(name))

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "core"):
            return
        tasks = {k.rpartition("/")[2]: task for k, task in self.core.core.state.tasks.items()}
        assert {name: (t.state.value, t.attempt_id) for name, t in tasks.items()} == {
            name: (life.phase, life.owner) for name, life in self.lives.items()
        }
        assert set(self.core.core.state.attempts) == set(self.open), "only a close frees a slot"
        owned = {life.owner for life in self.lives.values()}
        assert [a for a in self.open if a not in owned and a not in self.stopping] == [], "an engine runs on for nobody"


TestLife = pytest.mark.req(
    "ORCH-3016", "ORCH-3017", "ORCH-4109", "ORCH-4110", "ORCH-4152", "ORCH-4164", "ORCH-4173", "ORCH-4189", "ORCH-4236"
)(LifeMachine.TestCase)
TestLife.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
