"""What the edge needs from the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchqueue.core.effects import Accept, Done
from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import PoolId, SessionKey, TaskId, TaskKey, Tenant
from orchqueue.core.ledger import QuotaUse
from orchqueue.core.outcome import Fault, Refusal
from orchqueue.core.request import TaskSpec
from orchqueue.core.snapshots import PoolPicture, SessionPicture, TaskPicture
from orchqueue.core.usage import UsagePicture
from orchqueue.runtime.streams import Streams


class Gateway(Protocol):
    """The runtime as the edge sees it. What is read waits for the journal's barrier.

    Req: ORCH-4013
    """

    @property
    def streams(self) -> Streams:
        """Give the stream logs."""
        ...

    def now_ms(self) -> int:
        """Read the clock."""
        ...

    async def submit(
        self, task_id: TaskId, tenant: Tenant, spec: TaskSpec, client_id: str, correlation_id: str
    ) -> Accept | Refusal:
        """Ask for admission; `spec.seed` is filled in."""
        ...

    async def cancel(self, key: TaskKey) -> Refusal | None:
        """Stop a task; None when that is durable."""
        ...

    async def delete_session(self, session: SessionKey) -> Refusal | None:
        """Forget a session; None when it is gone."""
        ...

    async def task(self, key: TaskKey) -> TaskPicture | None:
        """Look at one task."""
        ...

    async def tasks(
        self, tenant: Tenant, state: str | None, priority: str | None, limit: int, cursor: str | None
    ) -> tuple[list[TaskPicture], str | None] | Fault:
        """List a tenant's tasks, newest first, and the cursor of the next page; a Fault for a foreign cursor."""
        ...

    async def explain(self, key: TaskKey) -> Explanation | None:
        """Explain one task or a refusal."""
        ...

    async def usage(self, tenant: Tenant, from_day: int, to_day: int) -> UsagePicture:
        """Look at a tenant's usage in some days, both counted."""
        ...

    async def quotas(self, tenant: Tenant, key_id: str) -> Sequence[QuotaUse]:
        """Look at the limits of a tenant and of one of its keys, with what is in use."""
        ...

    async def session(self, key: SessionKey) -> SessionPicture | None:
        """Look at one session."""
        ...

    def pools(self) -> Sequence[PoolPicture]:
        """Look at all pools."""
        ...

    async def drain(self, pool_id: PoolId, deadline_ms: int) -> Done | Refusal:
        """Empty a pool."""
        ...

    async def reload(self, pool_id: PoolId, model_ref: str, canary_percent: int) -> Done | Refusal:
        """Put another model into a pool, or have a share of its tasks try it."""
        ...

    async def rollback(self, pool_id: PoolId) -> Done | Refusal:
        """Put a pool's previous model back."""
        ...

    async def reload_config(self) -> Done | Refusal:
        """Read the configuration file again."""
        ...

    async def rollback_config(self) -> Done | Refusal:
        """Put the configuration before the last reload in force again."""
        ...

    def recovering(self) -> str:
        """Tell how far recovery has come; empty once everything that was accepted is there."""
        ...

    def readiness(self) -> Sequence[str]:
        """List why the daemon is not ready; empty when it is."""
        ...
