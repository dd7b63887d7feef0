"""Predictions for real pools: when a slot frees, when a task starts, when a refused client should come back.

Req: ORCH-2007
"""

from __future__ import annotations

from math import exp
from typing import TypeAlias

import msgspec

from orchqueue.core.estimate import (
    Passers,
    Rates,
    SlotFrees,
    passed_on_the_way,
    remaining_tokens,
    service_ms,
    start_after_ms,
)
from orchqueue.core.ids import PoolId
from orchqueue.core.queue import Ahead
from orchqueue.core.records import Basis
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.state import Attempt, Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState

FALLBACK_START_MS = 5_000
NOW = SlotFrees(0, 0)
DRAINED_RETRY_MS = 30_000
# Where passing has no bound the wait is as long as the longest deadline: any more would be a figure that says nothing.
PASSED_AT_MOST_MS = 604_800_000
CAUTION = {"measured": (5, 4), "selftest": (3, 2), "none": (2, 1)}

FreeSlots: TypeAlias = dict[PoolId, list[SlotFrees]]


class Forecast(msgspec.Struct, frozen=True):
    """When a task probably starts and ends."""

    position: int
    start_in_ms: int
    end_in_ms: int
    basis: Basis


def expect(pool: Pool, task: Task) -> None:
    """Note on a task what it will probably read and decode in a pool.

    Req: ORCH-4361
    """
    spec = task.spec
    found = pool.habits.expect(task.tenant, spec.priority, pool.model_ref, spec.expected_tokens, spec.max_tokens)
    task.cost_tokens, task.spread_tokens = found.tokens, found.spread_tokens
    task.prefill_tokens = pool.habits.expect_prompt(task.prompt_tokens, task.prompt_basis)


def pool_rates(state: State, pool: Pool) -> Rates:
    """Average the rates that a pool's replicas have with every slot taken, of those that were ever ready."""
    known = [r.rates.at(full(state, r)) for r in pool.replicas.values() if r.rates.basis != "none"]
    if not known:
        return Rates()
    basis: Basis = "measured" if all(r.basis == "measured" for r in known) else "selftest"
    prefill_us, decode_us, overhead_us = (
        sum(figures) // len(known)
        for figures in zip(*((r.prefill_us, r.decode_us, r.overhead_us) for r in known), strict=True)
    )
    return Rates(prefill_us, decode_us, basis, overhead_us)


def busy(state: State, replica: Replica) -> int:
    """Count the tasks that are decoded on a replica's devices, by whichever replica."""
    return sum(len(state.slots.holders(sharer)) for sharer in state.sharers[replica.replica_id])


def full(state: State, replica: Replica) -> int:
    """Count the slots that share a replica's devices."""
    return sum(state.slots.total(sharer) for sharer in state.sharers[replica.replica_id])


def remaining_ms(state: State, attempt: Attempt, replica: Replica, now_ms: int) -> int:
    """Predict how long an attempt still holds its slot."""
    return _remaining_ms(state, attempt, replica.rates.at(busy(state, replica)), now_ms)


def _remaining_ms(state: State, attempt: Attempt, rates: Rates, now_ms: int) -> int:
    task = state.active.get(attempt.key)
    if task is None or task.attempt_id != attempt.attempt_id:
        return 0
    done_tokens = task.tokens_out
    if task.replay_bytes is not None:
        done_tokens = task.tokens_out * task.replay_bytes // task.emitted_bytes
    left = remaining_tokens(task.cost_tokens, task.spread_tokens, done_tokens, task.spec.max_tokens)
    if task.state is TaskState.STREAMING:
        return service_ms(0, left, rates)
    prefill_ms = service_ms(task.prefill_tokens, 0, rates, 1)
    return service_ms(0, left, rates) + max(0, prefill_ms - (now_ms - attempt.started_at_ms))


def slots_free(state: State, pool: Pool, now_ms: int) -> list[SlotFrees]:
    """Predict for every slot of a pool when it frees. Empty when no replica is up. A canary's slots are only for its share."""
    free: list[SlotFrees] = []
    for replica in pool.regulars:
        if not replica.ready:
            continue
        free.extend(NOW for _ in range(state.slots.free(replica.replica_id)))
        rates = replica.rates.at(busy(state, replica))
        for attempt_id in sorted(state.slots.holders(replica.replica_id)):
            attempt = state.attempts[attempt_id]
            task = state.active.get(attempt.key)
            spread = 0 if task is None or task.attempt_id != attempt_id else task.spread_tokens
            free.append(SlotFrees(_remaining_ms(state, attempt, rates, now_ms), service_ms(0, spread, rates)))
    return free


def comes_up_in_ms(pool: Pool, now_ms: int) -> int:
    """Predict when the pool's first replica is up, from how long starting took before.

    A start that takes longer than expected is expected to take half as long again as it has taken so far. A pool that
    was drained comes back only when somebody reloads it.

    Req: ORCH-4120, ORCH-4121
    """
    if pool.mode == "drained":
        return DRAINED_RETRY_MS
    waits = []
    for replica in pool.regulars:
        took = replica.start_took_ms or FALLBACK_START_MS
        if replica.state is ReplicaState.STARTING:
            so_far = now_ms - replica.starting_since_ms
            waits.append(took - so_far if so_far < took else max(1_000, so_far // 2))
        elif replica.state in (ReplicaState.BACKOFF, ReplicaState.BROKEN):
            waits.append(max(0, replica.retry_at_ms - now_ms) + took)
    return min(waits, default=FALLBACK_START_MS)


def start_of(state: State, pool: Pool, task: Task, now_ms: int, free_in_ms: FreeSlots | None = None) -> Forecast:
    """Predict position, start and end of a waiting task, by letting what is ahead of it take the slots as they free.

    `free_in_ms` remembers each pool's slots for whoever predicts many starts at one instant.

    Req: ORCH-3029
    """
    rates = pool_rates(state, pool)
    own_ms = service_ms(task.prefill_tokens, task.cost_tokens, rates, 1)
    ahead = pool.queue.look_ahead(task)
    work = ahead.work
    if work.tasks == 0 and any(r.ready and state.slots.free(r.replica_id) for r in pool.regulars):
        return Forecast(0, 0, own_ms, rates.basis)
    known = {} if free_in_ms is None else free_in_ms
    slots = _slots_once(state, pool, now_ms, known)
    for sibling in state.siblings(pool):
        if not len(sibling.queue) and sibling.dispatching and task.spec.placement.allows(sibling.pool_id):
            slots = [*slots, *(wait for wait in _slots_once(state, sibling, now_ms, known) if wait == NOW)]
    if not slots:
        slots = [SlotFrees(comes_up_in_ms(pool, now_ms), 0)]
    each_ms = service_ms(work.prompts, work.tokens, rates, work.tasks) // max(1, work.tasks)
    start_in_ms = start_after_ms(slots, work.tasks, each_ms)
    start_in_ms = passed_on_the_way(start_in_ms, _passers(pool, task, ahead, rates, len(slots), now_ms, start_in_ms))
    return Forecast(work.tasks, start_in_ms, start_in_ms + own_ms, rates.basis)


def _passers(
    pool: Pool, task: Task, ahead: Ahead, rates: Rates, slots: int, now_ms: int, ahead_ms: int
) -> list[Passers]:
    """List who may come later and still start before a task: other classes, and other tenants of its own.

    Each other tenant of which no task stands behind this one passes until it has had what the task's own tenant has before it;
    only three quarters of what they send pass, because in a burst a tenant's tasks stand behind each other.
    """
    found = []
    for name, tasks in ahead.to_come.items():
        inflow = pool.inflow[name]
        at_most_ms = min(PASSED_AT_MOST_MS, tasks * inflow.whole.each_ms // slots)
        found.append(Passers(inflow.permille(now_ms, slots, ahead_ms), at_most_ms))
    own_ms = service_ms(ahead.own.prompts, ahead.own.tokens, rates, ahead.own.tasks)
    if own_ms and pool.queue.shares_tenants:
        inflow = pool.inflow[task.spec.priority]
        behind = [task.tenant, *ahead.later]
        permille = inflow.others_permille(behind, now_ms, slots, ahead_ms)
        found.append(Passers(permille * 3 // 4, own_ms * inflow.others(behind) // slots))
    return found


def _slots_once(state: State, pool: Pool, now_ms: int, known: FreeSlots) -> list[SlotFrees]:
    found = known.get(pool.pool_id)
    if found is None:
        found = known[pool.pool_id] = slots_free(state, pool, now_ms)
    return found


def retry_after_full(state: State, pool: Pool, priority: str, now_ms: int) -> int:
    """Tell a client refused by a full queue when a place should be free for it.

    The interval between two freed places is the work between them over the slots that drain this queue: one task of a full
    pool, one round of a full class. A margin covers the uncertainty of what the rates rest on.

    Req: ORCH-4119
    """
    rates = pool_rates(state, pool)
    slots = slots_free(state, pool, now_ms) or [SlotFrees(comes_up_in_ms(pool, now_ms), 0)]
    between = pool.queue.between_places(priority)
    places = min(pool.queue.capacity, pool.queue.classes[priority].capacity)
    times, over = CAUTION[rates.basis]
    interval = service_ms(between.prompts, between.tokens, rates, between.tasks) * times // (over * len(slots))
    return pool.readmission[priority].promise(now_ms, min(slots).in_ms, interval, places)


def end_of(state: State, task: Task, now_ms: int) -> int | None:
    """Predict in how many milliseconds a running task ends; None when it does not run.

    Req: ORCH-4362
    """
    attempt = None if task.attempt_id is None else state.attempts.get(task.attempt_id)
    if attempt is None:
        return None
    return remaining_ms(state, attempt, state.replicas[attempt.replica_id], now_ms)


def on_time_probability(state: State, task: Task, start_in_ms: int, end_in_ms: int, now_ms: int) -> float | None:
    """Estimate how likely a task makes its deadline: even when it should end just then, and surer the farther off that is.

    What blurs it is by how much outputs of its kind miss their expectation, and a quarter of the wait before its start.
    None without a deadline.

    Shape: 0 to 1.
    Req: ORCH-4362
    """
    if task.spec.deadline_ms is None:
        return None
    left_ms = task.accepted_at_ms + task.spec.deadline_ms - now_ms
    if left_ms <= 0:
        return 0.0
    rates = pool_rates(state, state.pools[task.pool_id])
    blur_ms = max(1, service_ms(0, task.spread_tokens, rates) + start_in_ms // 4 + end_in_ms // 20)
    odds = max(-30.0, min(30.0, 1.7 * (left_ms - end_in_ms) / blur_ms))
    return round(1 / (1 + exp(-odds)), 3)
