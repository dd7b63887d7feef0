"""Predictions for real pools: when a slot frees, when a task starts, when a refused client should come back.

Req: ORCH-2007
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from orchqueue.core.effects import Basis
from orchqueue.core.estimate import Rates, remaining_tokens, service_ms, start_after_ms
from orchqueue.core.ids import PoolId
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.state import Attempt, Pool, Replica, State
from orchqueue.core.task import Task

FALLBACK_START_MS = 5_000
DRAINED_RETRY_MS = 30_000
CAUTION = {"measured": (5, 4), "selftest": (3, 2), "none": (2, 1)}

FreeSlots: TypeAlias = dict[PoolId, list[int]]


class Forecast(msgspec.Struct, frozen=True):
    """When a task probably starts."""

    position: int
    start_in_ms: int
    basis: Basis


def expected_tokens(pool: Pool, priority: str, hint: int | None, max_tokens: int) -> int:
    """Predict how many tokens a task will decode: its own hint, else what finished here lately, else its limit."""
    return min(max_tokens, hint or pool.learned_tokens.get(priority) or max_tokens)


def pool_rates(pool: Pool) -> Rates:
    """Average the rates of a pool's replicas that were ever ready."""
    known = [r.rates for r in pool.replicas.values() if r.rates.basis != "none"]
    if not known:
        return Rates()
    basis: Basis = "measured" if all(r.basis == "measured" for r in known) else "selftest"
    return Rates(sum(r.prefill_us for r in known) // len(known), sum(r.decode_us for r in known) // len(known), basis)


def remaining_ms(state: State, attempt: Attempt, replica: Replica, now_ms: int) -> int:
    """Predict how long an attempt still holds its slot."""
    task = state.active.get(attempt.key)
    if task is None or task.attempt_id != attempt.attempt_id:
        return 0
    left = remaining_tokens(task.cost_tokens, task.tokens_out, task.spec.max_tokens)
    if task.first_token_at_ms is not None:
        return service_ms(0, left, replica.rates)
    return max(0, service_ms(task.prompt_tokens, left, replica.rates) - (now_ms - attempt.started_at_ms))


def slots_free_in_ms(state: State, pool: Pool, now_ms: int) -> list[int]:
    """Predict for every slot of a pool when it frees; 0 for a free one. Empty when no replica is up."""
    free: list[int] = []
    for replica in pool.replicas.values():
        if not replica.ready:
            continue
        free.extend(0 for _ in range(state.slots.free(replica.replica_id)))
        holders = sorted(state.slots.holders(replica.replica_id))
        free.extend(remaining_ms(state, state.attempts[a], replica, now_ms) for a in holders)
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
    for replica in pool.replicas.values():
        took = replica.start_took_ms or FALLBACK_START_MS
        if replica.state is ReplicaState.STARTING:
            so_far = now_ms - replica.starting_since_ms
            waits.append(took - so_far if so_far < took else max(1_000, so_far // 2))
        elif replica.state in (ReplicaState.BACKOFF, ReplicaState.BROKEN):
            waits.append(max(0, replica.retry_at_ms - now_ms) + took)
    return min(waits, default=FALLBACK_START_MS)


def start_of(state: State, pool: Pool, task: Task, now_ms: int, free_in_ms: FreeSlots | None = None) -> Forecast:
    """Predict position and start of a waiting task.

    `free_in_ms` remembers each pool's slots for whoever predicts many starts at one instant.

    Req: ORCH-3029
    """
    rates = pool_rates(pool)
    count, tokens = pool.queue.ahead(task)
    if count == 0 and any(r.ready and state.slots.free(r.replica_id) for r in pool.replicas.values()):
        return Forecast(0, 0, rates.basis)
    prompt_ms = count * service_ms(_typical_prompt(pool, task), 0, rates)
    ahead_ms = prompt_ms + service_ms(0, tokens, rates)
    known = {} if free_in_ms is None else free_in_ms
    slots = _slots_once(state, pool, now_ms, known)
    for sibling in state.siblings(pool):
        if not len(sibling.queue) and sibling.dispatching and task.spec.placement.allows(sibling.pool_id):
            slots = [*slots, *(wait for wait in _slots_once(state, sibling, now_ms, known) if wait == 0)]
    if not slots:
        return Forecast(count, comes_up_in_ms(pool, now_ms) + ahead_ms, rates.basis)
    return Forecast(count, start_after_ms(slots, ahead_ms), rates.basis)


def _slots_once(state: State, pool: Pool, now_ms: int, known: FreeSlots) -> list[int]:
    found = known.get(pool.pool_id)
    if found is None:
        found = known[pool.pool_id] = sorted(slots_free_in_ms(state, pool, now_ms))
    return found


def _typical_prompt(pool: Pool, task: Task) -> int:
    line = pool.queue.lines[task.spec.priority]
    return (line.oldest.prompt_tokens + line.youngest.prompt_tokens) // 2 if line.order else task.prompt_tokens


def retry_after_full(state: State, pool: Pool, priority: str, now_ms: int) -> int:
    """Tell a client refused by a full queue when a place should be free for it.

    The interval between two freed places is one service time over the slots that drain this queue. A margin covers the
    uncertainty of what the rates rest on.

    Req: ORCH-4119
    """
    rates = pool_rates(pool)
    slots = slots_free_in_ms(state, pool, now_ms) or [comes_up_in_ms(pool, now_ms)]
    line = pool.queue.lines[priority]
    waiting = sum(len(other.order) for other in pool.queue.lines.values())
    tokens = sum(other.cost_tokens for other in pool.queue.lines.values())
    typical = tokens // waiting if waiting else 1
    prompt = line.oldest.prompt_tokens if line.order else 0
    times, over = CAUTION[rates.basis]
    interval = service_ms(prompt, typical, rates) * times // (over * len(slots))
    return pool.readmission[priority].promise(now_ms, min(slots), interval)


def on_time_probability(task: Task, start_in_ms: int, rates: Rates, now_ms: int) -> float | None:
    """Estimate how likely a task makes its deadline: certain with half its time to spare, hopeless when twice too late.

    None without a deadline.
    """
    if task.spec.deadline_ms is None:
        return None
    left = task.accepted_at_ms + task.spec.deadline_ms - now_ms
    need = start_in_ms + service_ms(
        task.prompt_tokens if task.first_token_at_ms is None else 0,
        remaining_tokens(task.cost_tokens, task.tokens_out, task.spec.max_tokens),
        rates,
    )
    if left <= 0:
        return 0.0
    return round(min(1.0, max(0.0, (2 * left - need) / (1.5 * left))), 3)
