"""One accepted (or almost accepted) task, as the core keeps it."""

from __future__ import annotations

import msgspec

from orchqueue.core.accounts import Hold
from orchqueue.core.effects import Accept
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, ReplyId, SessionKey, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.records import Accepted, CountBasis, Ended
from orchqueue.core.request import TaskSpec
from orchqueue.core.task_states import TaskState, TaskTrigger, next_task_state


class Task(msgspec.Struct, gc=False):
    """A task's whole state.

    `seq` is the order of acceptance and never changes, so a task that is tried again keeps its place.
    `attempt_id` is the one attempt that owns the task: whatever comes from any other attempt is fenced off.
    Nothing here refers back to a task, so the garbage collector need not walk the waiting ones.

    `charged` is what its tenant's share in `charged_pool_id` was charged for its start, in the policy's units.

    Units: instants in unix milliseconds; `cost_tokens` is what it is expected to decode, give or take `spread_tokens`; `prefill_tokens`
    what its prompt probably has, where `prompt_tokens` may be no more than an upper bound.
    """

    task_id: TaskId
    tenant: Tenant
    spec: TaskSpec
    digest: str
    seq: int
    client_id: str = ""
    correlation_id: str = ""
    state: TaskState = TaskState.COUNTING
    pool_id: PoolId = PoolId("")
    strict: bool = False
    profile: str = "v1"
    prompt_tokens: int = 0
    prompt_basis: CountBasis = "estimate"
    prefill_tokens: int = 0
    cost_tokens: int = 0
    spread_tokens: int = 0
    weight: int = 1
    charged: int = 0
    charged_pool_id: PoolId = PoolId("")
    accepted_at_ms: int = 0
    admission: Accept | None = None
    replies: tuple[ReplyId, ...] = ()
    attempt_id: AttemptId | None = None
    attempts: int = 0
    kills: int = 0
    tried: frozenset[ReplicaId] = frozenset()
    bound_at_ms: int | None = None
    first_bound_at_ms: int | None = None
    first_token_at_ms: int | None = None
    last_token_at_ms: int | None = None
    started_told: bool = False
    tokens_out: int = 0
    emitted_bytes: int = 0
    readers: int = 0
    reader_seen: bool = False
    unread_since_ms: int = 0
    passes: int = 0
    warm_wait_begun: bool = False
    warm_wait_over: bool = False
    kv_warm: bool | None = None
    ended: Ended | None = None
    model_ref: str = ""
    hold: Hold | None = None

    @property
    def key(self) -> TaskKey:
        """Name the task across tenants."""
        return task_key(self.tenant, self.task_id)

    @property
    def session(self) -> SessionKey | None:
        """Name the task's session, if it has one.

        Req: ORCH-4246
        """
        return None if self.spec.session_id is None else (self.tenant, self.spec.session_id)

    def move(self, trigger: TaskTrigger) -> None:
        """Change state by the table.

        Errors: IllegalTransition.
        """
        self.state = next_task_state(self.state, trigger, self.key)

    def accepted_record(self) -> Accepted:
        """Describe the acceptance for the journal."""
        return Accepted(
            self.tenant,
            self.task_id,
            self.spec,
            self.pool_id,
            self.strict,
            self.profile,
            self.prompt_tokens,
            self.accepted_at_ms,
            self.client_id,
            self.correlation_id,
            self.model_ref,
            self.prompt_basis,
        )
