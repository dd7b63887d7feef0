"""The one door into the runtime: what HTTP asks, and how it is answered.

Req: ORCH-2001, ORCH-4013
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Protocol

import msgspec

from orchqueue.core import quotas, views
from orchqueue.core.effects import Accept, Done
from orchqueue.core.events import (
    AnyEvent,
    CancelRequested,
    DrainRequested,
    ReaderAttached,
    ReaderDetached,
    ReloadRequested,
    RollbackRequested,
    SessionDeleteRequested,
    SettingsReplaced,
    TaskSubmitted,
)
from orchqueue.core.explain import explain
from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import PoolId, ReplyId, SessionKey, TaskId, TaskKey, Tenant
from orchqueue.core.ledger import QuotaUse
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import Settings
from orchqueue.core.snapshots import PoolPicture, SessionPicture, TaskPicture
from orchqueue.core.task_states import TaskState
from orchqueue.core.usage import UsagePicture
from orchqueue.ports.clock import Clock
from orchqueue.runtime.decision_log import DecisionLog
from orchqueue.runtime.loop import Loop
from orchqueue.runtime.recovery import Progress
from orchqueue.runtime.replies import Answer, Replies
from orchqueue.runtime.streams import Streams


class NewSettings(msgspec.Struct, frozen=True):
    """What a changed configuration comes to. Shape: JSON pointers into the file."""

    settings: Settings
    applied: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class SettingsSource(Protocol):
    """Where configurations come from. What it finds is in force only when it was told so by `adopt`."""

    def renew(self) -> NewSettings | list[Fault]:
        """Read the configuration again."""
        ...

    def revert(self) -> NewSettings | None:
        """Find what was in force before the last change; None where there is nothing to go back to."""
        ...

    def adopt(self) -> None:
        """Take note that what was found last is in force now."""
        ...


class Gate:
    """What the edge may ask for. Every answer waits behind the journal's barrier."""

    def __init__(
        self,
        loop: Loop,
        replies: Replies,
        streams: Streams,
        clock: Clock,
        settings_source: SettingsSource,
        decisions: DecisionLog,
        recovery: Progress,
    ) -> None:
        self.streams = streams
        self._loop = loop
        self._replies = replies
        self._clock = clock
        self._settings_source = settings_source
        self._settings_change = asyncio.Lock()
        self._decisions = decisions
        self._recovery = recovery
        streams.attached = self._reader_attached
        streams.detached = self._reader_detached

    def now_ms(self) -> int:
        """Read the daemon's clock."""
        return self._clock.now_ms()

    async def submit(
        self, task_id: TaskId, tenant: Tenant, spec: TaskSpec, client_id: str = "", correlation_id: str = ""
    ) -> Accept | Refusal:
        """Have a task admitted or refused. `spec.seed` is filled in."""
        answer = await self._ask(
            lambda reply: TaskSubmitted(reply, task_id, tenant, spec, client_id, correlation_id), task_id
        )
        assert not isinstance(answer, Done), f"submission of {task_id} was answered like a control call"
        return answer

    async def cancel(self, key: TaskKey) -> Refusal | None:
        """Cancel a task; None when it is canceled or has ended anyway.

        Req: ORCH-2003
        """
        answer = await self._ask(lambda reply: CancelRequested(reply, key))
        return answer if isinstance(answer, Refusal) else None

    async def delete_session(self, session: SessionKey) -> Refusal | None:
        """Forget a session."""
        answer = await self._ask(lambda reply: SessionDeleteRequested(reply, session))
        return answer if isinstance(answer, Refusal) else None

    async def drain(self, pool_id: PoolId, deadline_ms: int) -> Done | Refusal:
        """Empty a pool."""
        return await self._control(lambda reply: DrainRequested(reply, pool_id, deadline_ms))

    async def reload(self, pool_id: PoolId, model_ref: str, canary_percent: int = 100) -> Done | Refusal:
        """Replace a pool's model, or have a share of its tasks try another one."""
        return await self._control(lambda reply: ReloadRequested(reply, pool_id, model_ref, canary_percent))

    async def rollback(self, pool_id: PoolId) -> Done | Refusal:
        """Give a pool its previous model back."""
        return await self._control(lambda reply: RollbackRequested(reply, pool_id))

    async def reload_config(self) -> Done | Refusal:
        """Read the configuration again and take over what can change live; a file with any problem changes nothing.

        Shape: `detail` holds `applied` and `needs_restart`, pointers separated by newlines.
        Req: ORCH-4205
        """
        async with self._settings_change:
            found = await asyncio.to_thread(self._settings_source.renew)
            if isinstance(found, list):
                return Refusal(Outcome.INVALID, "the configuration has problems, so nothing was changed", tuple(found))
            return await self._put_in_force(found)

    async def rollback_config(self) -> Done | Refusal:
        """Put the configuration before the last reload in force again.

        Shape: as of `reload_config`.
        Req: ORCH-4207
        """
        async with self._settings_change:
            found = self._settings_source.revert()
            if found is None:
                text = "no configuration to go back to: no reload has changed anything, or it was taken back already"
                return Refusal(Outcome.CONFLICT, text)
            return await self._put_in_force(found)

    async def _put_in_force(self, found: NewSettings) -> Done | Refusal:
        """Have the core take new settings; only what it has taken is noted as in force.

        Req: ORCH-4328
        """
        answer = await self._control(lambda reply: SettingsReplaced(reply, found.settings))
        if isinstance(answer, Refusal):
            return answer
        self._settings_source.adopt()
        detail: dict[str, str | int] = {
            "applied": "\n".join(found.applied),
            "needs_restart": "\n".join(found.needs_restart),
        }
        return Done(answer.reply, detail)

    async def task(self, key: TaskKey) -> TaskPicture | None:
        """Look at a task.

        Req: ORCH-3036
        """
        picture = views.task(self._loop.core.state, key, self.now_ms())
        await self._barrier()
        return picture

    async def tasks(
        self, tenant: Tenant, state: str | None, priority: str | None, limit: int, cursor: str | None
    ) -> tuple[list[TaskPicture], str | None] | Fault:
        """List a tenant's tasks, newest first.

        Errors: a Fault when the cursor is not one of ours.
        Req: ORCH-4001, ORCH-4082
        """
        before = None if cursor is None else _decode_cursor(cursor)
        if cursor is not None and before is None:
            return Fault("/query/cursor", "not a cursor that this daemon gave out; leave it away to start over")
        core, now_ms = self._loop.core.state, self.now_ms()
        found: list[TaskPicture] = []
        last_seq = 0
        for task in reversed(core.tasks.values()):
            if task.tenant != tenant or task.state is TaskState.COUNTING or (before is not None and task.seq >= before):
                continue
            if priority is not None and task.spec.priority != priority:
                continue
            picture = views.picture(core, task, now_ms)
            if state is not None and picture.state != state:
                continue
            if len(found) == limit:
                await self._barrier()
                return found, _encode_cursor(last_seq)
            found.append(picture)
            last_seq = task.seq
        await self._barrier()
        return found, None

    async def explain(self, key: TaskKey) -> Explanation | None:
        """Explain a task, or a refusal that is still logged; None when neither is known.

        Req: ORCH-4003
        """
        found = explain(self._loop.core.state, key, self._decisions.of(key), self.now_ms())
        await self._barrier()
        return found

    async def usage(self, tenant: Tenant, from_day: int, to_day: int) -> UsagePicture:
        """Look at a tenant's usage in some days, both counted.

        Req: ORCH-4004
        """
        picture = self._loop.core.state.usage.picture(tenant, from_day, to_day)
        await self._barrier()
        return picture

    async def quotas(self, tenant: Tenant, key_id: str) -> tuple[QuotaUse, ...]:
        """Look at the limits of a tenant and of one of its keys, with what is in use.

        Req: ORCH-4305
        """
        found = quotas.uses(self._loop.core.state, tenant, key_id, self.now_ms())
        await self._barrier()
        return found

    async def session(self, key: SessionKey) -> SessionPicture | None:
        """Look at a session."""
        picture = views.session(self._loop.core.state, key, self.now_ms())
        await self._barrier()
        return picture

    def pools(self) -> tuple[PoolPicture, ...]:
        """Look at all pools."""
        return views.pools(self._loop.core.state)

    def recovering(self) -> str:
        """Tell how far recovery has come; empty once everything that was accepted is there.

        Until then nobody may be told that a task is not known.

        Req: ORCH-4377
        """
        return self._recovery.pending

    def readiness(self) -> list[str]:
        """List why no task can be taken now, empty when one can.

        Anybody may ask, so it names states only: what went wrong with a pool stands in its health.

        Req: ORCH-4133, ORCH-4134
        """
        state = self._loop.core.state
        if state.shutting_down:
            return ["shutting down"]
        if self._recovery.pending:
            return [self._recovery.pending]
        reasons = [] if state.journal_problem is None else [f"journal: {state.journal_problem}"]
        if state.journal_full:
            reasons.append("journal: it holds as much as journal.max_bytes allows")
        pools = self.pools()
        if not any(pool.ready for pool in pools):
            reasons.extend(f"pool {pool.pool_id}: {_condition(pool)}" for pool in pools)
        return reasons

    async def _control(self, make: Callable[[ReplyId], AnyEvent]) -> Done | Refusal:
        answer = await self._ask(make)
        assert not isinstance(answer, Accept), "a control call was answered like a submission"
        return answer

    async def _ask(self, make: Callable[[ReplyId], AnyEvent], task_id: str | None = None) -> Answer:
        reply, future = self._replies.expect()
        if not self._loop.mailbox.post_or_refuse(make(reply)):
            future.cancel()
            text = "too many requests are waiting to be read; slow down"
            return Refusal(Outcome.REJECTED_BUSY, text, retry_after_ms=1_000, task_id=task_id)
        return await future

    async def _barrier(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop.interpreter.barrier(future)
        await future

    def _reader_attached(self, key: TaskKey, readers: int) -> None:
        self._loop.mailbox.post(ReaderAttached(key, readers))

    def _reader_detached(self, key: TaskKey, readers: int) -> None:
        self._loop.mailbox.post(ReaderDetached(key, readers))


def _condition(pool: PoolPicture) -> str:
    if pool.mode != "serving":
        return pool.mode
    return "loading" if pool.live else "no live replica"


def _encode_cursor(seq: int) -> str:
    return urlsafe_b64encode(f"seq:{seq}".encode()).decode()


def _decode_cursor(cursor: str) -> int | None:
    try:
        kind, _, number = urlsafe_b64decode(cursor.encode()).decode().partition(":")
        return int(number) if kind == "seq" else None
    except ValueError:
        return None
