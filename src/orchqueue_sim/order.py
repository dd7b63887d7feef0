"""The auditor's own idea of who waits where, and in which order tasks may start.

It follows acceptances, starts, failures and ends only. A drain or reload moves tasks between pools in ways that nobody
outside can follow, so from then on, until the daemon's next life, order and room are not judged.

Req: ORCH-3004, ORCH-3005, ORCH-3006, ORCH-4011
"""

from __future__ import annotations

import msgspec

from orchqueue.core.ids import PoolId, ReplicaId, TaskKey, task_key, tenant_of
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import PoolSettings, Settings

FULL = (Outcome.REJECTED_FULL, Outcome.REJECTED_SHED, Outcome.DROPPED_NO_VICTIM)


class Place(msgspec.Struct):
    """One task's place. `index` is its number in the order of acceptance, over all lives."""

    key: TaskKey
    index: int
    pool_id: PoolId
    spec: TaskSpec
    strict: bool
    recovered: bool = False
    retried: bool = False

    @property
    def may_wait_for_warmth(self) -> bool:
        """Tell whether it may let others pass for its session's sake."""
        return not self.strict and self.spec.session_id is not None and self.spec.kv_hint == "reuse"

    def may_run_in(self, pool_id: PoolId) -> bool:
        """Tell whether its wishes allow a pool."""
        wish = self.spec.placement
        if pool_id in wish.avoid:
            return False
        return self.pool_id == pool_id or wish.mode != "pin" or pool_id in wish.pool_ids


class Order:
    """Who waits in which pool, by the auditor's own count."""

    def __init__(self, settings: Settings) -> None:
        self._first_settings = settings
        self._index: dict[TaskKey, int] = {}
        self._last_index = 0
        self.waiting: dict[TaskKey, Place] = {}
        self._running: dict[TaskKey, Place] = {}
        self._streak: dict[PoolId, int] = {}
        self._disturbed = False
        self._gave_way = False
        self.reconfigured(settings)

    def reconfigured(self, settings: Settings) -> None:
        """Take new policies."""
        self._pools: dict[PoolId, PoolSettings] = {p.pool_id: p for p in settings.pools}
        self._pool_of = {r.replica_id: p.pool_id for p in settings.pools for r in p.replicas}
        self._streak.clear()

    @property
    def is_disturbed(self) -> bool:
        """Tell whether order and room are not judged any more in this life."""
        return self._disturbed

    @staticmethod
    def key_of(record: Accepted) -> TaskKey:
        """Name a task across tenants."""
        return task_key(record.tenant, record.task_id)

    def begin(self) -> None:
        """See the next event begin."""
        self._gave_way = False

    def disturbed(self) -> None:
        """Stop judging order and room in this life."""
        self._disturbed = True

    def life_over(self) -> None:
        """Begin anew, with the configuration file's settings."""
        self.waiting.clear()
        self._running.clear()
        self._disturbed = False
        self.reconfigured(self._first_settings)

    def accepted(self, record: Accepted) -> str:
        """Let a newcomer wait; tell what is wrong with that, empty when nothing is."""
        place = self._enter(record)
        pool = self._pools[place.pool_id]
        if self._disturbed or self._gave_way:
            # With a victim the queue has not grown, though it may be above a bound that was lowered meanwhile.
            return ""
        new = [p for p in self.waiting.values() if p.pool_id == place.pool_id and not p.retried and not p.recovered]
        if len(new) > pool.capacity:
            return (
                f"{place.key} was accepted as number {len(new)} in {pool.pool_id}, which has room for {pool.capacity}"
            )
        for line in pool.classes:
            count = sum(p.spec.priority == line.name for p in new)
            if count > line.capacity and line.name == place.spec.priority:
                return f"{place.key} was accepted as {line.name} number {count}, {pool.pool_id} allows {line.capacity}"
        return ""

    def _enter(self, record: Accepted) -> Place:
        key = task_key(record.tenant, record.task_id)
        self._last_index += 1
        self._index[key] = self._last_index
        place = Place(key, self._last_index, record.pool_id, record.spec, record.strict)
        self.waiting[key] = place
        return place

    def recovered(self, record: Accepted, *, begun: bool) -> None:
        """Let a task of an earlier life wait in its old place; one whose text was begun cannot run everywhere."""
        key = task_key(record.tenant, record.task_id)
        index = self._index.get(key)
        if index is None:
            self._enter(record).recovered = True
        else:
            self.waiting[key] = Place(key, index, record.pool_id, record.spec, record.strict, recovered=True)
        self.waiting[key].retried = begun

    def refused(self, outcome: Outcome, pool_id: str | None, spec: TaskSpec | None) -> str:
        """Judge a refusal for lack of room."""
        if outcome not in FULL or self._disturbed or pool_id is None or spec is None:
            return ""
        pool = self._pools[PoolId(pool_id)]
        here = [p for p in self.waiting.values() if p.pool_id == pool.pool_id]
        own = next(c for c in pool.classes if c.name == spec.priority)
        if len(here) < pool.capacity and sum(p.spec.priority == own.name for p in here) < own.capacity:
            return f"a task was refused as {outcome.value} while {pool.pool_id} held only {len(here)}"
        return ""

    def bound(self, key: TaskKey, replica_id: ReplicaId) -> str:
        """Start a task; tell whose turn it was instead, empty when it was its own."""
        place = self.waiting.pop(key, None)
        if place is None:
            return f"{key} was started but did not wait"
        source, pool_id = place.pool_id, self._pool_of[replica_id]
        problem = "" if self._disturbed else self._passed(place, pool_id) or self._starved(place, pool_id)
        if not place.may_run_in(pool_id):
            problem = f"{key} from {source} was started in {pool_id} against its wish {place.spec.placement}"
        place.pool_id = pool_id
        self._running[key] = place
        return problem

    def _passed(self, place: Place, pool_id: PoolId) -> str:
        for other in self.waiting.values():
            if (
                other.index < place.index
                and other.pool_id == place.pool_id
                and other.spec.priority == place.spec.priority
                and tenant_of(other.key) == tenant_of(place.key)
                and self.eligible(other, pool_id)
            ):
                return f"{place.key} was started before {other.key}, which was accepted earlier"
        return ""

    @staticmethod
    def eligible(place: Place, pool_id: PoolId) -> bool:
        """Tell whether nothing keeps a waiting task from any free slot of a pool."""
        return not place.retried and not place.may_wait_for_warmth and place.may_run_in(pool_id)

    def _starved(self, place: Place, pool_id: PoolId) -> str:
        pool = self._pools[place.pool_id]
        weights = {c.name: c.weight for c in pool.classes}
        limit = -(-weights["interactive"] // weights["batch"])
        batch_waits = any(
            p.spec.priority == "batch" and p.pool_id == pool.pool_id and self.eligible(p, pool_id)
            for p in self.waiting.values()
        )
        if place.spec.priority == "batch" or not batch_waits:
            self._streak[pool.pool_id] = 0
            return ""
        self._streak[pool.pool_id] = self._streak.get(pool.pool_id, 0) + 1
        if self._streak[pool.pool_id] > limit:
            return f"{self._streak[pool.pool_id]} interactive starts in {pool.pool_id} while a batch task waited"
        return ""

    def requeued(self, key: TaskKey) -> None:
        """Let a task whose attempt failed wait again in its old place."""
        place = self._running.pop(key, None)
        if place is not None:
            place.retried = True
            self.waiting[key] = place

    def ended(self, key: TaskKey, outcome: Outcome) -> str:
        """Forget an ended task; tell whether it was a victim that could not be one."""
        waited = self.waiting.pop(key, None)
        ran = self._running.pop(key, None)
        policy = DROPPING.get(outcome)
        if policy is None:
            return ""
        self._gave_way = True
        if waited is None:
            return f"{key} was dropped for another although it {'ran' if ran else 'did not wait'}"
        if self._disturbed or any(c.full_policy == policy for c in self._pools[waited.pool_id].classes):
            return ""
        return f"{key} was dropped by policy {policy}, which {waited.pool_id} does not have"


DROPPING = {Outcome.DROPPED_VICTIM: "drop-lru", Outcome.SHED_VICTIM: "shed-low-priority"}
