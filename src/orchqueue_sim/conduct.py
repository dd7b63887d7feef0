"""The auditor's own idea of replicas, tries and limits: what may be started where, how often, and until when.

It follows events and effects only. Like `order`, it does not judge idle slots after a drain or reload, because from then
on nobody outside knows in which pool a task waits.

Req: ORCH-3016, ORCH-4136, ORCH-4143, ORCH-4154, ORCH-4343
"""

from __future__ import annotations

from collections import Counter

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, TaskKey
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Accepted, Ended
from orchqueue.core.settings import PoolSettings, Settings
from orchqueue_sim.order import Order

SLACK_MS = 100
"""How late a limit may be kept when nothing stands still: timers of a run come up to half of it late."""
BLAMES = {
    Outcome.ENGINE_REFUSED: ("rejected",),
    Outcome.POISON: ("lost",),
    Outcome.REPLICAS_EXHAUSTED: ("lost", "overloaded", "engine_error"),
}
EARLY = frozenset(
    {
        Outcome.DEADLINE_PASSED,
        Outcome.WALL_TIMEOUT,
        Outcome.FIRST_TOKEN_TIMEOUT,
        Outcome.IDLE_TIMEOUT,
        Outcome.CANCELED_ON_DISCONNECT,
    }
)
QUIET = (ev.ChunksArrived, ev.Ticked, ev.ReplicaScraped, ev.ReaderAttached, ev.ReaderDetached)


class Limits(msgspec.Struct):
    """What binds one task in one life of the daemon.

    Units: instants of the daemon's clock.
    """

    accepted_at_ms: int
    deadline_ms: int | None
    tries: int = 0
    losses: int = 0
    started_at_ms: int = 0
    token_at_ms: int | None = None
    unread_since_ms: int | None = None
    pool_id: PoolId | None = None
    failure: str = ""


class Conduct:
    """Replicas that are up, and every task's tries and limits."""

    def __init__(self, settings: Settings, order: Order) -> None:
        self._settings = settings
        self._order = order
        self._pools: dict[PoolId, PoolSettings] = {p.pool_id: p for p in settings.pools}
        self._pool_of = {r.replica_id: p.pool_id for p in settings.pools for r in p.replicas}
        self.life_over()

    def life_over(self) -> None:
        """Forget what only a life of the daemon knows."""
        self._pause_over_ms = 0
        self._up: dict[ReplicaId, str] = {}
        self._resting: dict[ReplicaId, str] = {}
        self._slots: dict[ReplicaId, int] = {}
        self._taken: Counter[ReplicaId] = Counter()
        self._held: dict[AttemptId, ReplicaId] = {}
        self._limits: dict[TaskKey, Limits] = {}
        self._quiet = False
        self._stalled = False

    def paused(self, now_ms: int) -> None:
        """See that the machine stood still until now: whatever was due is late."""
        self._pause_over_ms = now_ms

    # Replicas.

    def decided(self, event: ev.AnyEvent, effects: list[fx.AnyEffect]) -> str:
        """See that all effects of an event are known; tell what stands idle, empty when nothing does."""
        if isinstance(event, QUIET):
            return ""
        for effect in effects:
            if isinstance(effect, fx.StopReplica):
                self._up.pop(effect.replica_id, None)
            elif isinstance(effect, fx.StartAttempt):
                self._held[effect.attempt_id] = effect.replica_id
                self._taken[effect.replica_id] += 1
        return self._idle()

    def happened(self, event: ev.AnyEvent, effects: list[fx.AnyEffect]) -> str:
        """See an event; tell what is wrong with a replica that was let in, empty when nothing is."""
        match event:
            case ev.ReplicaReady():
                if any(isinstance(e, fx.Count) and e.labels[-1] == "ready" for e in effects):
                    return self._ready(event)
            case ev.ReplicaLost() | ev.ReplicaStopped():
                self._up.pop(event.replica_id, None)
            case ev.ReplicaHealthy():
                if self._resting.get(event.replica_id) == "suspect":
                    del self._resting[event.replica_id]
            case ev.TimerFired() if event.key[0] == "cool":
                if self._resting.get(ReplicaId(event.key[1])) == "cooling":
                    del self._resting[ReplicaId(event.key[1])]
            case ev.AttemptFailed():
                replica_id = self._held.get(event.attempt_id)
                if replica_id is not None and event.failure in ("lost", "overloaded"):
                    self._resting[replica_id] = "suspect" if event.failure == "lost" else "cooling"
            case ev.AttemptClosed():
                replica_id = self._held.pop(event.attempt_id, None)
                if replica_id is not None:
                    self._taken[replica_id] -= 1
            case ev.ShutdownBegan():
                self._quiet = True
            case ev.JournalStalled() | ev.JournalHealed():
                self._stalled = isinstance(event, ev.JournalStalled)
        return ""

    def _ready(self, event: ev.ReplicaReady) -> str:
        replica_id, pool = event.replica_id, self._pools[self._pool_of[event.replica_id]]
        self._resting.pop(replica_id, None)
        self._slots[replica_id] = min(pool.slots, event.facts.slots_total)
        self._up[replica_id] = version = event.facts.engine_version
        for other in pool.replicas:
            if self._up.get(other.replica_id, version) != version:
                return f"{replica_id} of version {version} was let in beside {other.replica_id}, which is another one"
        return ""

    def _idle(self) -> str:
        if self._quiet or self._stalled or self._order.is_disturbed:
            return ""
        for place in self._order.waiting.values():
            if not self._order.eligible(place, place.pool_id):
                continue
            for replica in self._pools[place.pool_id].replicas:
                name = replica.replica_id
                if name in self._up and name not in self._resting and self._taken[name] < self._slots[name]:
                    return f"{place.key} waits although {name} has a free slot"
        return ""

    # Tasks.

    def accepted(self, record: Accepted, now_ms: int) -> None:
        """Begin to watch a task, of this life or an earlier one."""
        accepted_at_ms = min(record.accepted_at_ms, now_ms)
        deadline_ms = record.spec.deadline_ms
        at_ms = None if deadline_ms is None else max(now_ms, accepted_at_ms + deadline_ms)
        self._limits[self._order.key_of(record)] = Limits(accepted_at_ms, at_ms)

    def welcomed(self, effect: fx.Accept) -> str:
        """Judge what a newcomer is told of its place."""
        others = sum(p.pool_id == effect.pool_id for p in self._order.waiting.values()) - 1
        if effect.repeated or (self._order.is_disturbed and effect.queue_position >= 0):
            return ""
        if not 0 <= effect.queue_position <= max(0, others) or effect.predicted_start_ms < 0:
            return f"{effect.key} was told position {effect.queue_position}, {others} others wait in {effect.pool_id}"
        return ""

    @staticmethod
    def refused(refusal: Refusal) -> str:
        """Judge whether a client that may come back is told when."""
        if refusal.meaning.status in (429, 503) and (refusal.retry_after_ms or 0) < 1:
            return f"a refusal as {refusal.outcome.value} says to come back in {refusal.retry_after_ms} ms"
        return ""

    def started(self, effect: fx.StartAttempt, now_ms: int) -> str:
        """Judge whether a task may be tried once more."""
        limits, replica_id = self._limits[effect.key], effect.replica_id
        if replica_id not in self._up or replica_id in self._resting:
            return f"{effect.key} is started on {replica_id}, which is {self._resting.get(replica_id, 'not up')}"
        most = self._pools[limits.pool_id].max_attempts if limits.pool_id else 1
        if limits.failure == "rejected":
            return f"{effect.key} is tried again although an engine refused the request itself"
        if limits.losses >= self._settings.poison_kills:
            return f"{effect.key} is tried again after it has lost {limits.losses} replicas"
        if limits.tries and limits.tries >= most:
            return f"{effect.key} is tried for the {limits.tries + 1}th time, {most} are allowed"
        limits.tries += 1
        limits.started_at_ms, limits.token_at_ms, limits.failure = now_ms, None, ""
        limits.pool_id = self._pool_of[replica_id]
        return ""

    def failed(self, key: TaskKey, failure: str) -> None:
        """See the attempt that owned a task fail."""
        limits = self._limits[key]
        limits.failure = failure
        limits.losses += failure == "lost"

    def spoke(self, key: TaskKey, now_ms: int) -> None:
        """See text of a task."""
        self._limits[key].token_at_ms = now_ms

    def read(self, event: ev.ReaderAttached | ev.ReaderDetached, now_ms: int) -> None:
        """See a reader come or go."""
        limits = self._limits.get(event.key)
        if limits is not None:
            limits.unread_since_ms = None if event.readers else now_ms

    def ended(self, key: TaskKey, ended: Ended, now_ms: int) -> str:
        """Judge whether a task's time was really over, or over for long, and whether who is blamed did it."""
        limits = self._limits.pop(key)
        outcome = ended.outcome
        wanted = BLAMES.get(outcome)
        if wanted is not None and limits.failure not in wanted:
            return f"{key} ended as {outcome.value} although its last attempt {limits.failure or 'did not fail'}"
        if outcome is Outcome.POISON and limits.losses < self._settings.poison_kills:
            return f"{key} ended as poison after {limits.losses} lost replicas"
        timeouts = self._pools[limits.pool_id].timeouts if limits.pool_id else None
        due: dict[Outcome, int | None] = {Outcome.DEADLINE_PASSED: limits.deadline_ms}
        if timeouts is not None:
            token_ms = limits.token_at_ms
            due[Outcome.WALL_TIMEOUT] = limits.started_at_ms + timeouts.wall_ms
            due[Outcome.FIRST_TOKEN_TIMEOUT] = limits.started_at_ms + (timeouts.first_token_ms or 0)
            due[Outcome.IDLE_TIMEOUT] = None if token_ms is None else token_ms + timeouts.idle_ms
        if limits.unread_since_ms is not None:
            due[Outcome.CANCELED_ON_DISCONNECT] = limits.unread_since_ms + self._settings.disconnect_grace_ms
        if outcome in EARLY and (due.get(outcome) is None or now_ms < (due[outcome] or 0)):
            return f"{key} ended as {outcome.value} at {now_ms}, its time is over at {due.get(outcome)}"
        ran = bool(limits.tries) and not limits.failure
        bounds = [limits.deadline_ms, due.get(Outcome.WALL_TIMEOUT) if ran else None]
        for bound_ms in bounds:
            if bound_ms is not None and now_ms > max(bound_ms, self._pause_over_ms) + SLACK_MS:
                return f"{key} ended as {outcome.value} {now_ms - bound_ms} ms after its time was over"
        return ""
