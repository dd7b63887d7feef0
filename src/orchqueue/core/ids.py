"""Names of things, as distinct types over plain strings and integers."""

from __future__ import annotations

from typing import NewType, TypeAlias

Tenant = NewType("Tenant", str)
TaskId = NewType("TaskId", str)
TaskKey = NewType("TaskKey", str)
PoolId = NewType("PoolId", str)
ReplicaId = NewType("ReplicaId", str)
AttemptId = NewType("AttemptId", int)
ReplyId = NewType("ReplyId", int)
SessionKey: TypeAlias = tuple[Tenant, str]
TimerKey: TypeAlias = tuple[str, str]


def task_key(tenant: Tenant, task_id: TaskId) -> TaskKey:
    """Name a task across tenants: two tenants may use the same uuid.

    Req: ORCH-3036, ORCH-4067

    >>> task_key(Tenant("acme"), TaskId("9f"))
    'acme/9f'
    """
    return TaskKey(f"{tenant}/{task_id}")


def task_id_of(key: TaskKey) -> TaskId:
    """Recover the public task id from a key.

    >>> task_id_of(TaskKey("acme/9f"))
    '9f'
    """
    return TaskId(key.rpartition("/")[2])


def tenant_of(key: TaskKey) -> Tenant:
    """Recover the tenant from a key.

    >>> tenant_of(TaskKey("acme/9f"))
    'acme'
    """
    return Tenant(key.rpartition("/")[0])
