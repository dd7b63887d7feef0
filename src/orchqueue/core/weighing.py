"""Why a task went where it went, noted at the moment of the decision.

Req: ORCH-4003
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchqueue.core.events import AttemptFailure
from orchqueue.core.request import TaskSpec
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue.core.traces import Candidate, Choice, Standing, Try

CANDIDATES_AT_MOST = 16
TRIES_AT_MOST = 32


def candidates(
    state: State, spec: TaskSpec, fitting: Sequence[Pool], roomy: Sequence[Pool], chosen: Pool
) -> tuple[Candidate, ...]:
    """Note how every pool stood when one of them was chosen: the chosen first, then those that fitted, then the rest.

    Shape: at most `CANDIDATES_AT_MOST`.
    """
    found = [_candidate(state, chosen, "chosen")]
    others = [pool for pool in (*fitting, *state.pools.values()) if pool is not chosen]
    for pool in dict.fromkeys(others):
        if len(found) == CANDIDATES_AT_MOST:
            break
        if pool in roomy:
            standing = _passed_over(state, spec, pool, chosen)
        else:
            standing = "prompt_may_not_fit" if pool in fitting else _left_out(spec, pool, chosen)
        found.append(_candidate(state, pool, standing))
    return tuple(found)


def _candidate(state: State, pool: Pool, standing: Standing) -> Candidate:
    load, slots = state.load(pool)
    return Candidate(pool.pool_id, load, slots, standing)


def _left_out(spec: TaskSpec, pool: Pool, chosen: Pool) -> Standing:
    """Name the first filter that a pool did not pass, in the order in which they are applied."""
    if pool.model_ref != chosen.model_ref:
        return "other_model"
    if pool.settings.engine != chosen.settings.engine:
        return "other_engine"
    if pool.pool_id in spec.placement.avoid:
        return "avoided"
    if not spec.placement.allows(pool.pool_id):
        return "not_pinned"
    if spec.workload not in pool.settings.workloads:
        return "no_workload"
    if (spec.ctx or 1) > pool.settings.ctx:
        return "ctx_too_small"
    return "not_strict"


def _passed_over(state: State, spec: TaskSpec, pool: Pool, chosen: Pool) -> Standing:
    """Name what put a fitting pool behind the chosen one, in the order of `placement.choose_pool`."""
    if chosen.serving and chosen.ready and not (pool.serving and pool.ready):
        return "not_ready"
    wished = spec.placement.pool_ids if spec.placement.mode == "prefer" else ()
    if chosen.pool_id in wished and pool.pool_id not in wished:
        return "not_preferred"
    if _full(pool, spec) and not _full(chosen, spec):
        return "full"
    (load, slots), (chosen_load, chosen_slots) = state.load(pool), state.load(chosen)
    if load * max(1, chosen_slots) > chosen_load * max(1, slots):
        return "more_loaded"
    return "later_in_name"


def _full(pool: Pool, spec: TaskSpec) -> bool:
    line = pool.queue.lines[spec.priority]
    return len(pool.queue) >= pool.queue.capacity or len(line) >= pool.queue.classes[spec.priority].capacity


def begun(state: State, task: Task, replica: Replica, now_ms: int) -> tuple[Try, ...]:
    """Note an attempt and why it goes to its replica. Asked before the slot is taken."""
    session = None if task.session is None else state.sessions.find(task.session, now_ms)
    pool = state.pool_of(replica)
    free = sum(r.ready and state.slots.free(r.replica_id) > 0 for r in pool.replicas.values())
    choice: Choice = "only_free" if free == 1 else "least_busy"
    if session is not None and session.warm_on == replica.replica_id:
        choice = "warm_session"
    this = Try(replica.pool_id, replica.replica_id, now_ms, choice, free)
    return (*task.tries, this)[-TRIES_AT_MOST:]


def failed(task: Task, failure: AttemptFailure, now_ms: int) -> tuple[Try, ...]:
    """Note that the latest attempt failed."""
    return (*task.tries[:-1], msgspec.structs.replace(task.tries[-1], failed_at_ms=now_ms, failure=failure))
