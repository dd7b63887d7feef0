"""Replicas go down and come up again with the model that their pool wants of them.

Req: ORCH-2102, ORCH-4131
"""

from __future__ import annotations

from orchqueue.core.effects import ClearTimer, StartReplica, StopReplica
from orchqueue.core.ending import end
from orchqueue.core.estimate import Rates
from orchqueue.core.log_entries import log_replica
from orchqueue.core.outcome import Outcome
from orchqueue.core.replica_states import ReplicaState, ReplicaTrigger
from orchqueue.core.state import Pool, Replica, State

UP = (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.SUSPECT)


def start_replica(state: State, replica: Replica, now_ms: int) -> None:
    """Have a replica launched with the model that its pool wants of it; what was known of another model is forgotten."""
    wanted = state.pool_of(replica).model_for(replica.replica_id)
    if wanted != replica.model_ref:
        forget_engine(replica)
    replica.model_ref = wanted
    replica.renewing = False
    replica.move(ReplicaTrigger.START)
    replica.starting_since_ms = now_ms
    state.emit(StartReplica(replica.replica_id, wanted))


def forget_engine(replica: Replica) -> None:
    """Forget what another engine or model showed."""
    replica.facts = None
    replica.rates = Rates()
    replica.failures_in_row = 0
    replica.resident = []


def take_down(state: State, replica: Replica, now_ms: int) -> None:
    """Have a replica stopped, whatever it is doing; one that is down anyway need not be."""
    replica.renewing = False
    if replica.state in UP:
        state.emit(StopReplica(replica.replica_id))
    if replica.state is not ReplicaState.STOPPING:
        replica.move(ReplicaTrigger.STOP)
        log_replica(state, replica, now_ms)
    state.emit(ClearTimer(("restart", replica.replica_id)), ClearTimer(("stable", replica.replica_id)))
    state.sessions.chill(replica.replica_id)


def wake_step(state: State, pool: Pool, now_ms: int) -> None:
    """Start the replicas of a pool that was not preloaded, once a task waits for it.

    Req: ORCH-4138
    """
    if pool.asleep and len(pool.queue) and pool.serving and not state.shutting_down:
        pool.asleep = False
        for replica in pool.replicas.values():
            start_replica(state, replica, now_ms)


def renew_step(state: State, pool: Pool, now_ms: int) -> None:
    """Restart the replicas that shall serve another model, each as soon as nothing runs on it."""
    for replica in pool.replicas.values():
        if replica.renewing and not state.slots.holders(replica.replica_id):
            take_down(state, replica, now_ms)
            if replica.state is ReplicaState.DOWN:
                start_replica(state, replica, now_ms)


def end_those_left_behind(state: State, pool: Pool, now_ms: int) -> None:
    """End what waits for a model that is no longer served here: it must not run on another one.

    Req: ORCH-4129
    """
    text = f"pool {pool.pool_id} serves {pool.model_ref} now; send the task again for another pool or model"
    for task in [t for line in pool.queue.lines.values() for t in line]:
        if task.spec.model_ref not in (None, pool.model_ref):
            end(state, task, Outcome.POOL_UNAVAILABLE, now_ms, text, retry_after_ms=1_000)
