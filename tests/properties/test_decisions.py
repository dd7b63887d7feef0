"""The decision log in random histories: nothing observable is missing, all is in order, and nobody reads of others."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.explain import explain
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, TaskId, TaskKey, Tenant, task_key, tenant_of
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Timeouts
from orchqueue.runtime.decision_log import DecisionLog
from orchqueue_sim.chronicle import Chronicle
from tests.unit.core.driving import Driver, both_classes, pool_settings

TENANTS = (Tenant("northwind"), Tenant("southgate"))
PICKS = st.integers(0, 99)


class DecisionMachine(RuleBasedStateMachine):
    """Two tenants share two pools with tiny queues; clients, engines, timers and operators do what they like."""

    @initialize(policy=st.sampled_from(["reject", "drop-lru", "shed-low-priority"]))
    def begin(self, policy: str) -> None:
        tight = {"classes": both_classes(1, policy), "capacity": 1, "timeouts": Timeouts(9_000, 700, 500)}
        pools = pool_settings("p", 2), pool_settings("q")
        self.core = Driver(*(msgspec.structs.replace(pool, **tight) for pool in pools))
        self.log, self.small = DecisionLog(), DecisionLog(entries_at_most=12)
        self.chronicle = Chronicle()
        self.keys: list[TaskKey] = []
        self.open: list[AttemptId] = []
        self.follow(ev.Ticked(), self.core.log)

    def follow(self, event: ev.AnyEvent, effects: list[fx.AnyEffect]) -> None:
        """Compare what was told with what was logged, and keep it as the runtime does."""
        assert self.chronicle.decided(event, effects) == ""
        for effect in self.core.wanted(fx.LogDecision, effects):
            self.log.append(effect.decision)
            self.small.append(effect.decision)
        self.open += [start.attempt_id for start in self.core.wanted(fx.StartAttempt, effects)]

    def handle(self, event: ev.AnyEvent, after_ms: int = 1) -> None:
        self.follow(event, self.core.handle(event, after_ms))

    @rule(
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(["interactive", "batch"]),
        session=st.booleans(),
        kind=st.sampled_from(["fine", "fine", "fine", "counted", "invalid", "hopeless"]),
        again=st.booleans(),
        before=st.integers(0, 3),
    )
    def submit(self, tenant: Tenant, priority: str, session: bool, kind: str, again: bool, before: int) -> None:
        other = TENANTS[tenant == TENANTS[0]]
        for _ in range(before):
            self.ask(other, "batch", session=False, kind="fine", again=False)
        self.ask(tenant, priority, session=session, kind=kind, again=again)

    def ask(self, tenant: Tenant, priority: str, *, session: bool, kind: str, again: bool) -> None:
        mine = [key for key in self.keys if tenant_of(key) == tenant]
        task_id = TaskId(f"{tenant}-task-{len(self.keys)}")
        if again and mine:
            task_id = TaskId(mine[-1].rpartition("/")[2])
        key = task_key(tenant, task_id)
        if key not in self.keys:
            self.keys.append(key)
        fields: dict[str, object] = {"priority": priority, "session_id": f"{tenant}-talk" if session else None}
        if kind == "counted":
            fields["prompt"] = f"{tenant} says " * 20
        elif kind == "invalid":
            fields["ctx"] = 9_999
        elif kind == "hopeless":
            fields["deadline_ms"] = 0
        spec = msgspec.structs.replace(TaskSpec(prompt=f"{tenant} says", seed=1, max_tokens=8), **fields)
        self.handle(ev.TaskSubmitted(self.core.reply(), task_id, tenant, spec, f"{tenant}-key"))

    @precondition(lambda self: self.keys)
    @rule(pick=PICKS, tokens=st.sampled_from([None, 9, 9_999]))
    def count_prompt(self, pick: int, tokens: int | None) -> None:
        self.handle(ev.PromptCounted(self.keys[pick % len(self.keys)], tokens))

    @precondition(lambda self: self.keys)
    @rule(pick=PICKS, what=st.sampled_from(["cancel", "withdraw", "retention", "read", "leave"]))
    def touch(self, pick: int, what: str) -> None:
        key = self.keys[pick % len(self.keys)]
        events: dict[str, ev.AnyEvent] = {
            "cancel": ev.CancelRequested(self.core.reply(), key),
            "withdraw": ev.AcceptsWithdrawn((key,)),
            "retention": ev.TimerFired(("retention", key)),
            "read": ev.ReaderAttached(key, 1),
            "leave": ev.ReaderDetached(key, 0),
        }
        task = self.core.core.state.active.get(key)
        if what in ("withdraw", "read", "leave") and (task is None or task.admission is None):
            return
        self.handle(events[what])

    @precondition(lambda self: self.keys)
    @rule(
        pick=PICKS,
        kind=st.sampled_from(["deadline", "wall", "first_token", "idle", "disconnect", "warm"]),
        after_ms=st.sampled_from([1, 600, 12_000]),
    )
    def timer(self, pick: int, kind: str, after_ms: int) -> None:
        self.handle(ev.TimerFired((kind, self.keys[pick % len(self.keys)])), after_ms)

    @precondition(lambda self: self.open)
    @rule(
        pick=PICKS,
        what=st.sampled_from(["text", "text", "other text", "done", "lost", "rejected", "overloaded", "engine_error"]),
    )
    def engine(self, pick: int, what: str) -> None:
        attempt = self.open[pick % len(self.open)]
        if "text" in what:
            self.handle(ev.ChunksArrived(attempt, ("whisper" if what == "text" else "a whisper",), 1))
            return
        failure: dict[str, ev.AttemptFailure] = {
            "lost": "lost", "rejected": "rejected", "overloaded": "overloaded", "engine_error": "engine_error",
        }  # fmt: skip
        if what in failure:
            self.handle(ev.AttemptFailed(attempt, failure[what], "whisper"))
        else:
            self.handle(ev.AttemptCompleted(attempt, "stop", 3, 1, 1, 1))
        self.open.remove(attempt)
        self.handle(ev.AttemptClosed(attempt))

    @rule(name=st.sampled_from(["pr0", "pr1", "qr0"]), what=st.sampled_from(["lose", "restart", "heal"]))
    def replica(self, name: str, what: str) -> None:
        replica_id = ReplicaId(name)
        if what == "lose":
            self.handle(ev.ReplicaLost(replica_id, "signal", "9"))
        elif what == "heal":
            self.handle(ev.ReplicaHealthy(replica_id))
        else:
            self.handle(ev.TimerFired(("cool", name)))
            self.handle(ev.TimerFired(("restart", name)))
            self.follow(ev.Ticked(), self.core.ready(name))

    @rule(pool=st.sampled_from(["p", "q"]), what=st.sampled_from(["drain", "reload", "verified"]))
    def operate(self, pool: str, what: str) -> None:
        if what == "drain":
            self.handle(ev.DrainRequested(self.core.reply(), PoolId(pool), 5_000))
        elif what == "reload":
            self.handle(ev.ReloadRequested(self.core.reply(), PoolId(pool), "m"))
        else:
            self.handle(ev.ModelVerified(PoolId(pool), "m", ""))

    @invariant()
    def nobody_reads_of_others(self) -> None:
        if hasattr(self, "core"):
            self.read(self.keys[-2:])

    @rule()
    def everybody_reads(self) -> None:
        self.read(self.keys)

    def read(self, keys: list[TaskKey]) -> None:
        """Explain tasks as their own tenant sees them."""
        state, now_ms = self.core.core.state, self.core.now_ms
        for key in keys:
            for log in (self.log, self.small):
                found = explain(state, key, log.of(key), now_ms)
                if key in state.tasks and key in state.retained:
                    assert found is not None, f"{key} is known"
                words = msgspec.json.encode(found).decode()
                assert [t for t in TENANTS if t != tenant_of(key) and t in words] == []
                assert "whisper" not in msgspec.json.encode(log.of(key)).decode()
                assert f"{tenant_of(key)} says" not in msgspec.json.encode(log.of(key)).decode()
        assert len(self.small) <= 12


TestDecisions = pytest.mark.req("ORCH-3036", "ORCH-4086", "ORCH-4320", "ORCH-4321", "ORCH-4323", "ORCH-4327")(
    DecisionMachine.TestCase
)
TestDecisions.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
