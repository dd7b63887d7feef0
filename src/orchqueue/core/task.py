"""One accepted (or almost accepted) task, as the core keeps it."""

from __future__ import annotations

import msgspec

from orchqueue.core.accounts import Hold
from orchqueue.core.effects import Accept
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, ReplyId, SessionKey, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.records import Accepted, Basis, CountBasis, Ended
from orchqueue.core.request import TaskSpec
from orchqueue.core.task_states import TaskState, TaskTrigger, next_task_state


class Task(msgspec.Struct, gc=False):
    """A task's whole state.

    `seq` is the order of acceptance and never changes, so a task that is tried again keeps its place.
    `attempt_id` is the one attempt that owns the task: whatever comes from any other attempt is fenced off.
    Nothing here refers back to a task, so the garbage collector need not walk the waiting ones.

    `said` is the text that was sent, kept while it runs. `replay_bytes`: a new run is being compared with it and has come so far; None
    when nothing is compared. `made_by`: engine version and model digest of what began the text, `spoke_on` the replica.
    `earlier_attempts` were made in earlier lives of the daemon; `continued`: an engine went on from the text of another.

    `ran_model_ref` is what its latest attempt runs on.
    `charged` is what its tenant's share in `charged_pool_id` was charged for its start, in the policy's units.

    Units: instants in unix milliseconds; `clock_from_ms` since when the current attempt decodes text that is new, None while it does not;
    `spent_ms` what earlier attempts did; `kept_bytes` of the text are recorded; `base_tokens` were decoded by attempts that this one
    continues; `cost_tokens` is what it is expected to decode, give or take `spread_tokens`; `prefill_tokens`
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
    said: bytearray = msgspec.field(default_factory=bytearray)
    kept_bytes: int = 0
    replay_bytes: int | None = None
    made_by: tuple[str, str] | None = None
    spoke_on: ReplicaId | None = None
    earlier_attempts: int = 0
    base_tokens: int = 0
    continued: bool = False
    clock_from_ms: int | None = None
    spent_ms: int = 0
    readers: int = 0
    reader_seen: bool = False
    unread_since_ms: int = 0
    passes: int = 0
    warm_wait_begun: bool = False
    warm_wait_over: bool = False
    kv_warm: bool | None = None
    evictions: int = 0
    ended: Ended | None = None
    model_ref: str = ""
    ran_model_ref: str = ""
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

    def wall_due_ms(self, wall_ms: int) -> int:
        """Tell when the limit on decoding is reached. A replay has the whole limit for itself, and none of it counts.

        Req: ORCH-4369
        """
        if self.clock_from_ms is None:
            return (self.bound_at_ms or 0) + wall_ms
        return self.clock_from_ms + wall_ms - self.spent_ms

    def stop_clock(self, now_ms: int) -> None:
        """Add what the attempt has decoded."""
        if self.clock_from_ms is not None:
            self.spent_ms += now_ms - self.clock_from_ms
        self.clock_from_ms = None

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
            *self._told(),
        )

    def _told(self) -> tuple[int, int, int, Basis]:
        told = self.admission
        assert told is not None, f"{self.key} is recorded before its client is told"
        return told.queue_position, told.predicted_start_ms, told.predicted_end_ms, told.basis
