"""Drives a core by hand: settings, replicas that are up, and short ways to say what happens."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from orchqueue.core import decisions as dc
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.explain import explain
from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, ReplyId, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.invariants import violations
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import ClassSettings, PoolSettings, ReplicaSettings, Settings
from orchqueue.core.state import Pool
from orchqueue.core.task import Task

E = TypeVar("E", bound=fx.Effect)
TENANT = Tenant("acme")
FACTS = ev.ReplicaFacts("v1", "digest", 8, 256, True, 100, 1_000)


def pool_settings(name: str = "p", replicas: int = 1, **fields: object) -> PoolSettings:
    """Describe a pool with replicas named after it: `pr0`, `pr1`, `pr2`."""
    ids = tuple(ReplicaSettings(ReplicaId(f"{name}r{i}")) for i in range(replicas))
    return msgspec.structs.replace(PoolSettings(PoolId(name), "llamacpp", "m", ids, 256), **fields)


def both_classes(capacity: int = 64, policy: str = "reject", interactive: int = 8) -> tuple[ClassSettings, ...]:
    """Give both classes one capacity and policy."""
    return (
        ClassSettings("interactive", interactive, capacity, policy),  # type: ignore[arg-type]
        ClassSettings("batch", 1, capacity, policy),  # type: ignore[arg-type]
    )


class Driver:
    """A core, a clock, and everything that it wanted so far."""

    def __init__(self, *pools: PoolSettings, up: bool = True, **settings: object) -> None:
        chosen = msgspec.structs.replace(Settings(pools or (pool_settings(),)), **settings)
        self.core = Orchestrator(chosen)
        self.now_ms = 1_000_000
        self.log: list[fx.AnyEffect] = list(self.core.begin(self.now_ms))
        self.last: list[fx.AnyEffect] = []
        self._reply = 0
        if up:
            for pool in chosen.pools:
                for replica in pool.replicas:
                    self.ready(replica.replica_id, slots_total=pool.slots)

    def handle(self, event: ev.AnyEvent, after_ms: int = 0) -> list[fx.AnyEffect]:
        """Hand an event in and check that every invariant holds."""
        self.now_ms += after_ms
        self.last = self.core.handle(self.now_ms, event)
        self.log.extend(self.last)
        assert violations(self.core.state) == []
        return self.last

    def reply(self) -> ReplyId:
        """Number the next request."""
        self._reply += 1
        return ReplyId(self._reply)

    def ready(self, replica_id: str, **facts: object) -> list[fx.AnyEffect]:
        """Bring a replica up; its model's digest follows from its pool's model."""
        pool = self.core.state.pools[self.core.state.replicas[ReplicaId(replica_id)].pool_id]
        facts = {"model_digest": f"digest-{pool.model_for(ReplicaId(replica_id))}"} | facts
        return self.handle(ev.ReplicaReady(ReplicaId(replica_id), msgspec.structs.replace(FACTS, **facts)))

    def submit(self, name: str, **fields: object) -> list[fx.AnyEffect]:
        """Ask for a task, `after_ms` from now; its spec has a short prompt unless told otherwise."""
        after_ms = fields.pop("after_ms", 0)
        assert isinstance(after_ms, int)
        spec = msgspec.structs.replace(TaskSpec(prompt="hi", seed=1, max_tokens=8), **fields)
        return self.handle(ev.TaskSubmitted(self.reply(), TaskId(name), TENANT, spec), after_ms)

    def submit_of(self, tenant: str, name: str, **fields: object) -> list[fx.AnyEffect]:
        """Ask for a task of some tenant."""
        spec = msgspec.structs.replace(TaskSpec(prompt="hi", seed=1, max_tokens=8), **fields)
        return self.handle(ev.TaskSubmitted(self.reply(), TaskId(name), Tenant(tenant), spec))

    def cancel(self, name: str) -> list[fx.AnyEffect]:
        """Cancel a task."""
        return self.handle(ev.CancelRequested(self.reply(), key(name)))

    def complete(self, attempt_id: int, tokens_out: int = 1) -> list[fx.AnyEffect]:
        """Have an attempt complete and close."""
        attempt = AttemptId(attempt_id)
        done = self.handle(ev.AttemptCompleted(attempt, "stop", 2, tokens_out, 1, tokens_out))
        return done + self.close(attempt_id)

    def close(self, attempt_id: int) -> list[fx.AnyEffect]:
        """Have the engine let go of an attempt."""
        return self.handle(ev.AttemptClosed(AttemptId(attempt_id)))

    def chunk(self, attempt_id: int, text: str = "a") -> list[fx.AnyEffect]:
        """Have text arrive."""
        return self.handle(ev.ChunksArrived(AttemptId(attempt_id), (text,), 1))

    def fail(self, attempt_id: int, failure: ev.AttemptFailure = "lost", *, close: bool = True) -> list[fx.AnyEffect]:
        """Have an attempt fail, and close."""
        done = self.handle(ev.AttemptFailed(AttemptId(attempt_id), failure, "scripted"))
        return done + (self.close(attempt_id) if close else [])

    def wanted(self, kind: type[E], effects: list[fx.AnyEffect] | None = None) -> list[E]:
        """Pick the effects of one kind, of everything so far unless told otherwise."""
        return [e for e in (self.log if effects is None else effects) if isinstance(e, kind)]

    @property
    def starts(self) -> list[str]:
        """Name the tasks in the order in which they were started."""
        return [e.key.rpartition("/")[2] for e in self.wanted(fx.StartAttempt)]

    def refusal(self) -> fx.Refuse:
        """Give the one refusal among the last effects."""
        found = self.wanted(fx.Refuse, self.last)
        assert len(found) == 1, f"one refusal was expected, there are {len(found)}"
        return found[0]

    def decided(self, key: str) -> tuple[dc.AnyDecision, ...]:
        """Give what was logged under a key."""
        return tuple(e.decision for e in self.wanted(fx.LogDecision) if e.decision.key == key)

    def explained(self, name: str, tenant: Tenant = TENANT) -> Explanation | None:
        """Explain a task from everything that was logged about it."""
        whole = task_key(tenant, TaskId(name))
        return explain(self.core.state, whole, self.decided(whole), self.now_ms)

    def task(self, name: str) -> Task:
        """Look a task up."""
        return self.core.state.tasks[key(name)]

    def pool(self, name: str = "p") -> Pool:
        """Look a pool up."""
        return self.core.state.pools[PoolId(name)]

    def waiting(self, pool: str = "p") -> list[str]:
        """Name what waits in a pool, class by class, in order."""
        return [t.task_id for line in self.pool(pool).queue.lines.values() for t in line]


def key(name: str) -> TaskKey:
    """Name one of the driver's tasks."""
    return task_key(TENANT, TaskId(name))
