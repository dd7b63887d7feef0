"""Everything the core knows, in one place. Only the flows change it.

Units: instants in unix milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Literal

import msgspec

from orchqueue.core.canary import Canary
from orchqueue.core.effects import AnyEffect
from orchqueue.core.estimate import Rates, Readmission
from orchqueue.core.events import DeviceFigures, ReplicaFacts
from orchqueue.core.habits import Habits
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, SessionKey, TaskKey
from orchqueue.core.inflow import Inflow
from orchqueue.core.ledger import Ledger
from orchqueue.core.queue import PoolQueue
from orchqueue.core.replica_states import ReplicaState, ReplicaTrigger, next_replica_state
from orchqueue.core.request import TaskSpec
from orchqueue.core.sessions import Sessions
from orchqueue.core.settings import PoolSettings, ReplicaSettings, Settings
from orchqueue.core.slots import Slots
from orchqueue.core.task import Task
from orchqueue.core.usage import Usage

SLO_SAMPLES = 512
FIRST_STEPS = (ReplicaState.DOWN, ReplicaState.STARTING)

PoolMode = Literal["serving", "draining", "drained", "verifying", "reloading"]


class Attempt(msgspec.Struct):
    """One try of a task on a replica. It holds a slot until it is closed, also when the task is no longer its own.

    Units: `worked_ms` what the engine says that it read and decoded, once it is done.
    """

    attempt_id: AttemptId
    key: TaskKey
    replica_id: ReplicaId
    started_at_ms: int
    busy_at_start: int
    aborting: bool = False
    worked_ms: int | None = None


class Replica:
    """One replica's state. `model_ref`: what it was started with last; `renewing`: it gets another as soon as it is idle."""

    def __init__(self, settings: ReplicaSettings, pool_id: PoolId, model_ref: str) -> None:
        self.settings = settings
        self.model_ref = model_ref
        self.renewing = False
        self.replica_id = settings.replica_id
        self.pool_id = pool_id
        self.state = ReplicaState.DOWN
        self.facts: ReplicaFacts | None = None
        self.rates = Rates()
        self.restarts = 0
        self.failures_in_row = 0
        self.restart_times_ms: list[int] = []
        self.starting_since_ms = 0
        self.start_took_ms = 0
        self.ready_since_ms = 0
        self.retry_at_ms = 0
        self.last_error: str | None = None
        self.kv_usage_ratio: float | None = None
        self.devices: tuple[DeviceFigures, ...] = ()
        self.resident: list[SessionKey | None] = []
        self.cooling = False

    def move(self, trigger: ReplicaTrigger) -> None:
        """Change state by the table.

        Errors: IllegalTransition.
        """
        self.state = next_replica_state(self.state, trigger, self.replica_id)

    @property
    def vram_free_bytes(self) -> int:
        """Add up what its devices have free, as far as that is known."""
        return sum(figures.vram_free_bytes or 0 for figures in self.devices)

    @property
    def ready(self) -> bool:
        """Tell whether new attempts may start here: up, staying so, and not just overloaded by somebody else's requests."""
        return self.state is ReplicaState.READY and not self.cooling and not self.renewing


class Pool:
    """One pool's state."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.pool_id = settings.pool_id
        self.queue = PoolQueue(settings.capacity, settings.classes, settings.scheduling)
        self.habits = Habits()
        self.inflow: dict[str, Inflow] = {c.name: Inflow() for c in settings.classes}
        self.replicas = {r.replica_id: Replica(r, settings.pool_id, settings.model_ref) for r in settings.replicas}
        self.mode: PoolMode = "serving"
        self.drain_at_ms: int | None = None
        self.model_ref = settings.model_ref
        self.previous_model_ref: str | None = None
        self.replaced_model_ref: str | None = None
        self.wanted_model_ref: str | None = None
        self.wanted_percent = 100
        self.canary: Canary | None = None
        self.asleep = not settings.preload
        self.swap_begun = False
        self.reload_failed = False
        self.last_error: str | None = None
        self.interactive_first_tokens_ms: deque[int] = deque(maxlen=SLO_SAMPLES)
        self.readmission: dict[str, Readmission] = {c.name: Readmission() for c in settings.classes}
        self.rate_tokens_micro: dict[str, int] = {}
        self.rate_refilled_at_ms: dict[str, int] = {}

    @property
    def engine_version(self) -> str:
        """Name the engine version of the pool's replicas, `unknown` before one was ready."""
        for replica in self.replicas.values():
            if replica.facts is not None:
                return replica.facts.engine_version
        return "unknown"

    @property
    def model_digest(self) -> str:
        """Name the weights of the pool's model, empty before a replica was ready with it."""
        for replica in self.replicas.values():
            if replica.facts is not None and replica.model_ref == self.model_ref:
                return replica.facts.model_digest
        return ""

    @property
    def known_answer(self) -> str:
        """Tell what the self-test's fixed request gives here, empty where nothing was proven.

        Equal engines and flags on unlike processors may differ in it; then they differ in all texts.
        """
        for replica in self.replicas.values():
            if replica.facts is not None and replica.model_ref == self.model_ref:
                return replica.facts.known_answer
        return ""

    @property
    def wakes(self) -> bool:
        """Tell whether a task brings the pool up, or did so and its first start is under way: tasks may wait for that.

        Req: ORCH-4138
        """
        if self.settings.preload or not self.serving:
            return False
        return all(r.state in FIRST_STEPS and r.facts is None and not r.restarts for r in self.replicas.values())

    @property
    def regulars(self) -> tuple[Replica, ...]:
        """List the replicas that are no canary's."""
        apart = self.canary.replica_ids if self.canary is not None else ()
        return tuple(r for r in self.replicas.values() if r.replica_id not in apart)

    def model_for(self, replica_id: ReplicaId) -> str:
        """Tell what a replica is to serve when it is started next."""
        canary = self.canary
        return canary.model_ref if canary is not None and replica_id in canary.replica_ids else self.model_ref

    @property
    def kv_bytes_per_token(self) -> int:
        """Tell what a token of context occupies, 0 where no engine tells."""
        return next((r.facts.kv_bytes_per_token for r in self.replicas.values() if r.facts is not None), 0)

    @property
    def set_key(self) -> tuple[str, ...]:
        """Identify the replica set: pools with equal keys give equal outputs. What a canary tries is not of it.

        Req: ORCH-3047, ORCH-4406
        """
        return self._key(self.model_ref, self.model_digest, self.engine_version, self.known_answer)

    def key_of(self, replica: Replica) -> tuple[str, ...]:
        """Identify the set of one replica.

        Req: ORCH-3047, ORCH-4330
        """
        if replica.model_ref == self.model_ref:
            return self.set_key
        facts = replica.facts
        told = (facts.model_digest, facts.engine_version, facts.known_answer) if facts else ("", "", "")
        return self._key(replica.model_ref, *told)

    def _key(self, model_ref: str, model_digest: str, engine_version: str, known_answer: str) -> tuple[str, ...]:
        """Put a key together.

        The name counts beside the digest: of an engine that runs elsewhere the digest is only what the engine says.
        """
        s = self.settings
        return (
            s.engine,
            model_ref,
            model_digest,
            s.quant or "",
            str(s.ctx),
            engine_version,
            s.sampler_profile_version,
            s.prompt_form,
            s.launch_digest,
            s.device_class,
            known_answer,
        )

    def engine_spec(self, spec: TaskSpec) -> TaskSpec:
        """Put a request into the form that this pool's engine gets."""
        return spec.as_chat() if self.settings.prompt_form == "chat" else spec

    @property
    def serving(self) -> bool:
        """Tell whether the pool takes new tasks."""
        return self.mode in ("serving", "verifying")

    @property
    def dispatching(self) -> bool:
        """Tell whether waiting tasks may be started here: a draining pool still empties its queue."""
        return self.mode in ("serving", "verifying", "draining")

    @property
    def ready(self) -> bool:
        """Tell whether some replica takes attempts for the pool's own model."""
        return any(r.ready for r in self.regulars)


def _sharers(replicas: tuple[Replica, ...]) -> dict[ReplicaId, tuple[ReplicaId, ...]]:
    """List for every replica those whose decoding slows it down: all on the same devices, itself included.

    Of an engine that runs elsewhere nothing is known but itself.
    """
    on: dict[str, list[ReplicaId]] = {}
    masks = {r.replica_id: (r.settings.url,) if r.settings.url else r.settings.devices or ("cpu",) for r in replicas}
    for replica_id, mask in masks.items():
        for device in mask:
            on.setdefault(device, []).append(replica_id)
    return {name: tuple(dict.fromkeys(o for device in mask for o in on[device])) for name, mask in masks.items()}


class State:
    """The whole core."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pools = {p.pool_id: Pool(p) for p in settings.pools}
        self.replicas = {r.replica_id: r for p in self.pools.values() for r in p.replicas.values()}
        self.sharers = _sharers(tuple(self.replicas.values()))
        self.tasks: dict[TaskKey, Task] = {}
        self.active: dict[TaskKey, Task] = {}
        self.followed: dict[TaskKey, Task] = {}
        self.unkept: dict[TaskKey, Task] = {}
        self.interrupted: dict[TaskKey, Task] = {}
        self.retained: OrderedDict[TaskKey, int] = OrderedDict()
        self.retained_bytes = 0
        self.attempts: dict[AttemptId, Attempt] = {}
        self.slots = Slots()
        self.sessions = Sessions(settings.sessions)
        self.usage = Usage()
        self.ledger = Ledger(settings.tenants)
        self.last_seq = 0
        self.last_attempt = 0
        self.shutting_down = False
        self.journal_problem: str | None = None
        self.journal_full = False
        self.dirty = False
        self.effects: list[AnyEffect] = []

    def emit(self, *effects: AnyEffect) -> None:
        """Want something done."""
        self.effects.extend(effects)

    def pool_of(self, replica: Replica) -> Pool:
        """Look up a replica's pool."""
        return self.pools[replica.pool_id]

    def siblings(self, pool: Pool) -> list[Pool]:
        """List the other pools of the same replica set."""
        key = pool.set_key
        return [other for other in self.pools.values() if other is not pool and other.set_key == key]

    def next_seq(self) -> int:
        """Number the next task."""
        self.last_seq += 1
        return self.last_seq

    def next_attempt(self) -> AttemptId:
        """Number the next attempt."""
        self.last_attempt += 1
        return AttemptId(self.last_attempt)

    def busy(self, pool: Pool) -> int:
        """Count the slots of a pool that are taken."""
        return sum(len(self.slots.holders(r)) for r in pool.replicas)

    def load(self, pool: Pool) -> tuple[int, int]:
        """Give a pool's (busy + waiting) and slots, for comparing pools without division."""
        slots = sum(self.slots.total(r.replica_id) for r in pool.replicas.values() if r.ready)
        return self.busy(pool) + len(pool.queue), slots
