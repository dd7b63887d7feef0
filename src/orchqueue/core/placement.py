"""Which pool a task waits in, and which replica a freed slot goes to.

Req: ORCH-3008, ORCH-3009, ORCH-3011
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import msgspec

from orchqueue.core.forecast import remaining_ms
from orchqueue.core.ids import ReplicaId
from orchqueue.core.retry import may_go_on
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task

WARM_WAIT_MS = 1_000
PASSES_AT_MOST = 4
SCAN_AT_MOST = 64


def choose_pool(state: State, pools: Sequence[Pool], task: Task) -> Pool:
    """Choose the pool that a task waits in: serving and ready first, then wished for, then with room, then least loaded.

    Req: ORCH-4162, ORCH-4165
    """
    wished = task.spec.placement.pool_ids if task.spec.placement.mode == "prefer" else ()

    def rank(pool: Pool) -> tuple[bool, bool, bool, Fraction, str]:
        load, slots = state.load(pool)
        line = pool.queue.lines[task.spec.priority]
        full = len(pool.queue) >= pool.queue.capacity or len(line) >= pool.queue.classes[task.spec.priority].capacity
        return (
            not (pool.serving and pool.ready),
            pool.pool_id not in wished,
            full,
            Fraction(load, max(1, slots)),
            pool.pool_id,
        )

    return min(pools, key=rank)


class Match(msgspec.Struct, frozen=True):
    """A task for a free slot; `source` is the pool whose queue it leaves."""

    task: Task
    source: Pool
    replica: Replica


class WarmWait(msgspec.Struct, frozen=True):
    """A task was passed over because its session's replica frees soon."""

    task: Task


def choose(state: State, now_ms: int) -> tuple[Match | None, list[WarmWait]]:
    """Match one waiting task with one free slot, if any pair fits.

    1. A pool's own queue comes first; only then the longest queue of a sibling.
    2. Classes by their shares, inside a class first in first out among the tasks eligible for the replica.

    Req: ORCH-3005, ORCH-4154
    """
    passed: list[WarmWait] = []
    # Asked after every event, and with nothing waiting the answer must not cost a look from each pool at each other.
    if not any(len(pool.queue) for pool in state.pools.values()):
        return None, passed
    for pool in state.pools.values():
        if not pool.dispatching or (pool.mode == "draining" and not len(pool.queue)):
            continue
        for replica in free_replicas(state, pool):
            for source in _sources(state, pool):
                task = _first_eligible(state, source, pool, replica, now_ms, passed)
                if task is not None:
                    return Match(task, source, replica), passed
    return None, passed


def free_replicas(state: State, pool: Pool) -> list[Replica]:
    """List replicas with a free slot: least busy for its slots, more free VRAM, fewer active, id.

    Req: ORCH-3010
    """
    free = [r for r in pool.replicas.values() if r.ready and state.slots.free(r.replica_id) > 0]

    def rank(replica: Replica) -> tuple[Fraction, int, int, ReplicaId]:
        busy = len(state.slots.holders(replica.replica_id))
        total = state.slots.total(replica.replica_id)
        return Fraction(busy, total), -replica.vram_free_bytes, busy, replica.replica_id

    return sorted(free, key=rank)


def _sources(state: State, pool: Pool) -> Iterator[Pool]:
    if len(pool.queue):
        yield pool
    if pool.mode == "draining":
        return
    others = [p for p in state.siblings(pool) if len(p.queue) and p.mode != "reloading"]
    yield from sorted(others, key=lambda p: (-len(p.queue), p.pool_id))


def _first_eligible(
    state: State, source: Pool, pool: Pool, replica: Replica, now_ms: int, passed: list[WarmWait]
) -> Task | None:
    queue = source.queue
    for name in queue.turns():
        for seen, task in enumerate(queue.lines[name]):
            if seen >= SCAN_AT_MOST:
                break
            if not _may_run(task, source, pool, replica) or _left_to_another(state, task, source, pool, replica):
                continue
            if _waits_for_warmth(state, task, replica, now_ms):
                passed.append(WarmWait(task))
                continue
            return task
    return None


def _may_run(task: Task, source: Pool, pool: Pool, replica: Replica) -> bool:
    if not _fits(task, replica):
        return False
    if source is not pool and not task.spec.placement.allows(pool.pool_id):
        return False
    if replica.replica_id in task.tried:
        others = (r for r in pool.replicas.values() if r.model_ref == replica.model_ref)
        return not any(r.ready and r.replica_id not in task.tried and _fits(task, r) for r in others)
    return True


def _left_to_another(state: State, task: Task, source: Pool, pool: Pool, replica: Replica) -> bool:
    """Tell whether a canary's share decides that another replica takes a task.

    1. A task with text goes on where its model is; the check for that is `_may_run`'s.
    2. The canary takes what may go either way, while its share is owed, and nothing else.
    3. While its share is owed and it has a free slot, nobody else takes such a task.

    Req: ORCH-4329, ORCH-4330
    """
    canary = pool.canary
    if canary is None or task.emitted_bytes:
        return False
    theirs = source is pool and canary.open_to(task) and canary.owed
    if replica.replica_id in canary.replica_ids:
        return not theirs
    return theirs and any(
        r.ready and state.slots.free(r.replica_id) and _may_run(task, source, pool, r)
        for r in (pool.replicas[name] for name in canary.replica_ids)
    )


def _fits(task: Task, replica: Replica) -> bool:
    """Tell whether a replica could take a task at all: it has proven what the task was promised, and can go on with its text."""
    facts = replica.facts
    if task.strict and (facts is None or not facts.strict_proven):
        return False
    return not task.emitted_bytes or (facts is not None and may_go_on(task, facts))


def _waits_for_warmth(state: State, task: Task, replica: Replica, now_ms: int) -> bool:
    """Tell whether a task should leave this slot to others. strict tasks never wait for warmth.

    Req: ORCH-3013, ORCH-4251
    """
    if task.strict or task.spec.kv_hint == "cold" or task.session is None:
        return False
    if task.passes >= PASSES_AT_MOST or task.warm_wait_over:
        return False
    session = state.sessions.find(task.session, now_ms)
    if session is None or session.warm_on is None or session.warm_on == replica.replica_id:
        return False
    warm = state.replicas[session.warm_on]
    if not warm.ready or state.pool_of(warm).key_of(warm) != state.pool_of(replica).key_of(replica):
        return False
    holders = state.slots.holders(warm.replica_id)
    if state.slots.free(warm.replica_id):
        return True
    return bool(holders) and min(remaining_ms(state, state.attempts[a], warm, now_ms) for a in holders) < WARM_WAIT_MS
