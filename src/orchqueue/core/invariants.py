"""What holds between any two events. Checked by the simulator and the property tests after every step."""

from __future__ import annotations

from orchqueue.core import quotas
from orchqueue.core.state import State
from orchqueue.core.task_states import TaskState


def violations(state: State) -> list[str]:
    """List everything that is wrong, empty when all is well.

    Cost: walks the whole state; not for the hot path.
    """
    found: list[str] = []
    for key, task in state.active.items():
        if task.key != key or state.tasks.get(key) is not task:
            found.append(f"{key} is active but not known by its key")
        queued = task.seq in state.pools[task.pool_id].queue.lines[task.spec.priority].by_seq
        if queued != (task.state is TaskState.WAITING):
            found.append(f"{key} is {task.state.value} but {'stands' if queued else 'does not stand'} in its queue")
        if (task.attempt_id is not None) != (task.state in (TaskState.BOUND, TaskState.STREAMING)):
            found.append(f"{key} is {task.state.value} with attempt {task.attempt_id}")
        if task.attempt_id is not None and task.attempt_id not in state.attempts:
            found.append(f"{key} is owned by attempt {task.attempt_id}, which is closed")
    for pool in state.pools.values():
        for name, line in pool.queue.lines.items():
            found += [f"line {name} of {pool.pool_id} {text}" for text in line.violations()]
    held = {a for r in state.replicas for a in state.slots.holders(r)}
    if held != set(state.attempts):
        found.append(f"slots are held by {sorted(held)}, attempts are {sorted(state.attempts)}")
    for replica_id in state.replicas:
        total, taken = state.slots.total(replica_id), len(state.slots.holders(replica_id))
        if taken > total:
            found.append(f"{replica_id} has {taken} attempts on {total} slots")
    ended = {k for k, t in state.tasks.items() if t.state is TaskState.ENDED}
    if ended != set(state.retained):
        found.append("ended and retained tasks differ")
    if set(state.followed) != {k for k, t in state.active.items() if t.readers}:
        found.append("followed tasks are not those that are read")
    if set(state.active) | ended != set(state.tasks):
        found.append("some task is neither active nor ended")
    return found + quotas.disagreements(state)
