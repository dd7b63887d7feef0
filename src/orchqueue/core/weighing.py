"""Why a task went where it went, noted at the moment of the decision.

Req: ORCH-4003
"""

from __future__ import annotations

from collections.abc import Sequence

from orchqueue.core.decisions import Bound, Candidate, Choice, ReplicaCandidate, ReplicaStanding, Share, Standing
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.request import TaskSpec
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task

CANDIDATES_AT_MOST = 16


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


def bound(state: State, task: Task, source: Pool, replica: Replica, now_ms: int) -> Bound:
    """Note an attempt and why it goes to its replica. Asked before the slot is taken and the turn is booked.

    Shape: `candidates` at most `CANDIDATES_AT_MOST`: the chosen replica, then the others of its pool, then those of the
    pool in which the task waited.
    Cost: about 1 µs for each candidate; the free replicas of the pool are counted.
    Req: ORCH-4324
    """
    pool = state.pool_of(replica)
    session = None if task.session is None else state.sessions.find(task.session, now_ms)
    warm_on = None if session is None else session.warm_on
    chosen = _weighed(state, task, replica, "chosen")
    found, free = [chosen], 1
    for other in pool.replicas.values():
        if other is replica:
            continue
        if len(found) < CANDIDATES_AT_MOST:
            found.append(_passed_by(state, task, other, chosen, "not_warm" if warm_on == chosen.replica_id else None))
            free += found[-1].ready and found[-1].busy < found[-1].slots
        else:
            free += other.ready and state.slots.free(other.replica_id) > 0
    if source is not pool:
        others = list(source.replicas.values())[: CANDIDATES_AT_MOST - len(found)]
        found += [_passed_by(state, task, other, chosen, "other_pool") for other in others]
    choice: Choice = "only_free" if free == 1 else "least_busy"
    if warm_on == replica.replica_id:
        choice = "warm_session"
    if pool.canary is not None and replica.replica_id in pool.canary.replica_ids:
        choice = "canary"
    return Bound(
        now_ms,
        task.key,
        task.attempts + 1,
        pool.pool_id,
        replica.replica_id,
        choice,
        free,
        task.spec.priority,
        tuple(found),
        _shares(source),
        None if source is pool else source.pool_id,
    )


SCORED: frozenset[ReplicaStanding] = frozenset({"chosen", "not_warm", "busier", "less_memory", "later_in_name"})


def _shares(pool: Pool) -> tuple[Share, ...]:
    pending, lines = pool.queue.share.pending, pool.queue.lines
    return tuple(
        Share(name, weight, len(lines[name]), pending.get(name)) for name, weight in pool.queue.weights.items()
    )


def _weighed(state: State, task: Task, replica: Replica, standing: ReplicaStanding) -> ReplicaCandidate:
    busy, slots = state.slots.taken(replica.replica_id), state.slots.total(replica.replica_id)
    return ReplicaCandidate(
        replica.replica_id,
        standing,
        replica.ready,
        busy,
        slots,
        replica.vram_free_bytes if replica.devices else 0,
        task.session is not None and task.session in replica.resident,
        busy * 1000 // slots if standing in SCORED else None,
    )


def _passed_by(
    state: State, task: Task, replica: Replica, chosen: ReplicaCandidate, otherwise: ReplicaStanding | None
) -> ReplicaCandidate:
    """Name the first filter that a replica did not pass, else `otherwise`, else what put it behind the chosen one.

    The filters come in the order of `placement`, the rank is that of `placement.free_replicas`.
    """
    name, slots = replica.replica_id, state.slots
    standing: ReplicaStanding
    if not replica.ready:
        standing = "cooling" if replica.state is ReplicaState.READY else "not_ready"
    elif slots.taken(name) >= slots.total(name):
        standing = "no_free_slot"
    elif task.strict and (replica.facts is None or not replica.facts.strict_proven):
        standing = "not_strict"
    elif replica.model_ref != state.replicas[chosen.replica_id].model_ref:
        standing = "other_model"
    elif name in task.tried and chosen.replica_id not in task.tried:
        standing = "tried"
    elif otherwise is not None:
        standing = otherwise
    elif slots.taken(name) * chosen.slots > chosen.busy * slots.total(name):
        standing = "busier"
    else:
        standing = "less_memory" if replica.vram_free_bytes < chosen.vram_free_bytes else "later_in_name"
    return _weighed(state, task, replica, standing)
