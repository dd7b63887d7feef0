"""Plays a trace against the real core in virtual time, and writes down what became of every task."""

from __future__ import annotations

import gc
from heapq import heappop, heappush
from typing import TypeAlias

import msgspec

from benchmarks.scheduling.engines import ABORT_MS, CHUNK_TOKENS, POOL, Engine, EnginePool, paces
from benchmarks.scheduling.trace import Arrival, Priority, Trace
from orchqueue.core.effects import (
    AbortAttempt,
    Accept,
    AnyEffect,
    ClearTimer,
    Count,
    EmitMetrics,
    EmitStarted,
    EmitTokens,
    Finish,
    Forget,
    Note,
    Observe,
    OpenStream,
    Record,
    Refuse,
    SetTimer,
    StartAttempt,
)
from orchqueue.core.events import (
    AnyEvent,
    AttemptClosed,
    AttemptCompleted,
    CancelRequested,
    ChunksArrived,
    ReaderAttached,
    ReplicaFacts,
    ReplicaReady,
    TaskSubmitted,
    Ticked,
    TimerFired,
)
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, ReplyId, TaskId, TaskKey, Tenant, TimerKey, task_key
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.request import TaskSpec
from orchqueue.core.settings import (
    ClassSettings,
    PoolSettings,
    ReplicaSettings,
    Retention,
    Scheduling,
    Settings,
    TenantSettings,
    Timeouts,
)

Policy: TypeAlias = Scheduling
POLICIES: tuple[Policy, ...] = ("fair", "fifo", "strict-priority", "round-robin")
CLASS_WEIGHTS: dict[Priority, int] = {"interactive": 8, "batch": 1}
BEGIN_MS = 1_700_000_000_000
BIN_MS = 10_000
TICK_MS = 30_000
FOLLOWED_EACH = 100
BYTES_PER_TOKEN = 4
CAPACITY = 1_000_000

_FACTS = ReplicaFacts("v1", "d" * 64, POOL.slots_each, 1 << 20, False, POOL.prefill_us, POOL.decode_us)
_NOT_OURS = frozenset((Record, OpenStream, EmitTokens, Forget, Count, Observe, Note))
_TEXT = (" word" * CHUNK_TOKENS,)


class Run(msgspec.Struct, gc=False):
    """One submission, from sending to its end. Instants count from the begin of the trace; -1: it never came to that.

    `first_at_ms`: when the client sent this task for the first time. `told_ms`: the predicted start, from admission.
    `tokens`: decoded so far.
    """

    index: int
    arrival: Arrival
    round: int
    first_at_ms: int
    submitted_at_ms: int
    key: TaskKey
    told_ms: int = -1
    told_position: int = 0
    started_at_ms: int = -1
    first_token_at_ms: int = -1
    ended_at_ms: int = -1
    completed: bool = False
    tokens: int = 0
    attempt_id: int = -1
    engine: int = -1

    @property
    def wait_ms(self) -> int:
        """Tell how long it waited in the queue."""
        return self.started_at_ms - self.submitted_at_ms


class Told(msgspec.Struct, frozen=True, gc=False):
    """A prediction that a follower was told while it waited."""

    run: Run
    at_ms: int
    start_in_ms: int


class Played(msgspec.Struct):
    """What became of a trace under a policy.

    `service[tenant, class][n]`: tokens decoded, prompts by their worth, in the n-th bin of `BIN_MS`.
    """

    policy: Policy
    trace: Trace
    pool: EnginePool
    runs: list[Run]
    service: dict[tuple[str, Priority], dict[int, float]]
    told_later: list[Told]
    refused: int = 0
    makespan_ms: int = 0
    busy_slot_ms: int = 0
    events: int = 0


def pool_settings(policy: Policy, trace: Trace, pool: EnginePool = POOL) -> Settings:
    """Configure one pool for a policy, with room for everything, so that all policies do the same work."""
    replicas = tuple(ReplicaSettings(ReplicaId(f"r{number}")) for number in range(pool.replicas))
    classes = tuple(ClassSettings(name, weight, CAPACITY) for name, weight in CLASS_WEIGHTS.items())
    only = PoolSettings(
        PoolId("p"),
        "llamacpp",
        "file:m",
        replicas,
        1 << 20,
        pool.slots_each,
        strict=False,
        capacity=CAPACITY,
        scheduling=policy,
        classes=classes,
        timeouts=Timeouts(wall_ms=3_600_000, idle_ms=60_000),
    )
    tenants = tuple(TenantSettings(name, weight) for name, weight in trace.weights.items())
    return Settings((only,), retention=Retention(interactive_ms=1, batch_ms=1), tenants=tenants)


def play(trace: Trace, policy: Policy, pool: EnginePool = POOL) -> Played:
    """Play a trace to the end of its last task.

    Cost: about 0.25 ms a task. The garbage collector rests meanwhile: there are no cycles to find.
    """
    player = _Player(trace, policy, pool)
    collecting = gc.isenabled()
    gc.disable()
    try:
        return player.play()
    finally:
        if collecting:
            gc.enable()


class _Player:
    def __init__(self, trace: Trace, policy: Policy, pool: EnginePool) -> None:
        self.core = Orchestrator(pool_settings(policy, trace, pool))
        self.played = Played(policy, trace, pool, [], {}, [])
        self.paces = paces(trace.seed, len(trace.arrivals))
        self.engines = [Engine(pool) for _ in range(pool.replicas)]
        self.by_key: dict[TaskKey, Run] = {}
        self.by_attempt: dict[int, Run] = {}
        self.timers: dict[TimerKey, int] = {}
        self.heap: list[tuple[int, int, str, Run | TimerKey]] = []
        self.pushed = 0
        self.now_ms = 0
        self.prompt = "All work and no play makes Jack a dull boy. " * 400
        self.act(self.core.begin(BEGIN_MS))
        for number in range(pool.replicas):
            facts = msgspec.structs.replace(
                _FACTS,
                slots_total=pool.slots_each,
                prefill_us_per_token=pool.prefill_us,
                decode_us_per_token=pool.decode_us,
            )
            self.tell(ReplicaReady(ReplicaId(f"r{number}"), facts))

    def play(self) -> Played:
        """Take whatever is due next: what was arranged before what arrives, a tick last."""
        heap, arrivals = self.heap, self.played.trace.arrivals
        index, tick_ms = 0, TICK_MS
        while index < len(arrivals) or self.by_key:
            arrives_ms = arrivals[index].at_ms if index < len(arrivals) else 1 << 62
            due_ms = heap[0][0] if heap else 1 << 62
            if tick_ms < due_ms and tick_ms < arrives_ms:
                self.now_ms = tick_ms
                tick_ms += TICK_MS
                self.tell(Ticked())
            elif due_ms <= arrives_ms:
                self.now_ms, _, kind, subject = heappop(heap)
                if isinstance(subject, Run):
                    self.due(kind, subject)
                elif self.timers.get(subject) == self.now_ms:
                    del self.timers[subject]
                    self.tell(TimerFired(subject))
            else:
                self.now_ms = arrives_ms
                self.submit(index, arrivals[index], 0, arrives_ms)
                index += 1
        return self.played

    def due(self, kind: str, run: Run) -> None:
        """Go on with a run: its next text, its end after an abort, or its client's patience."""
        if kind == "text":
            if run.ended_at_ms < 0:
                self.advance(run)
        elif kind == "stopped":
            self.close(run)
        elif run.ended_at_ms < 0:
            self.tell(CancelRequested(ReplyId(0), run.key))
            self.submit(run.index, run.arrival, run.round + 1, run.first_at_ms)

    def submit(self, index: int, arrival: Arrival, turn: int, first_at_ms: int) -> None:
        """Send a task."""
        task_id = TaskId(f"{index:x}-{turn}")
        tenant = Tenant(arrival.tenant)
        key = task_key(tenant, task_id)
        run = Run(index, arrival, turn, first_at_ms, self.now_ms, key)
        self.played.runs.append(run)
        self.by_key[key] = run
        spec = TaskSpec(
            prompt=self.prompt[: BYTES_PER_TOKEN * arrival.prompt_tokens],
            priority=arrival.priority,
            max_tokens=arrival.max_tokens,
            expected_tokens=arrival.expected_tokens,
            seed=1,
            on_disconnect="continue",
        )
        self.tell(TaskSubmitted(ReplyId(len(self.played.runs)), task_id, tenant, spec))
        if arrival.patience_ms and turn < arrival.rounds:
            self.push(self.now_ms + arrival.patience_ms, "patience", run)
        if index % FOLLOWED_EACH == 0 and run.ended_at_ms < 0:
            self.tell(ReaderAttached(key, 1))

    def push(self, at_ms: int, kind: str, subject: Run | TimerKey) -> None:
        self.pushed += 1
        heappush(self.heap, (at_ms, self.pushed, kind, subject))

    def tell(self, event: AnyEvent) -> None:
        self.played.events += 1
        self.act(self.core.handle(BEGIN_MS + self.now_ms, event))

    def act(self, effects: list[AnyEffect]) -> None:
        """Carry out what the world of a trace has a part in; it keeps no journal, streams and metrics."""
        for effect in effects:
            if type(effect) in _NOT_OURS:
                continue
            match effect:
                case SetTimer(key, at_ms):
                    due_ms = max(self.now_ms, at_ms - BEGIN_MS)
                    self.timers[key] = due_ms
                    self.push(due_ms, "timer", key)
                case ClearTimer(timer):
                    self.timers.pop(timer, None)
                case Accept():
                    run = self.by_key[effect.key]
                    run.told_ms, run.told_position = effect.predicted_start_ms, effect.queue_position
                case EmitStarted():
                    self.by_key[effect.key].started_at_ms = self.now_ms
                case StartAttempt():
                    self.start(effect.attempt_id, effect.key, int(effect.replica_id[1:]))
                case Finish():
                    self.by_key.pop(effect.key).ended_at_ms = self.now_ms
                case AbortAttempt(attempt_id):
                    self.push(self.now_ms + ABORT_MS, "stopped", self.by_attempt[attempt_id])
                case EmitMetrics():
                    self.note_told(effect)
                case Refuse(reply) if reply:
                    run = self.played.runs[reply - 1]
                    self.by_key.pop(run.key).ended_at_ms = self.now_ms
                    self.played.refused += 1
                case _:
                    pass

    def note_told(self, effect: EmitMetrics) -> None:
        run = self.by_key[effect.key]
        if effect.predicted_start_ms is not None and run.started_at_ms < 0:
            self.played.told_later.append(Told(run, self.now_ms, effect.predicted_start_ms))

    def start(self, attempt_id: AttemptId, key: TaskKey, replica: int) -> None:
        run, engine = self.by_key[key], self.engines[replica]
        run.attempt_id, run.engine = attempt_id, replica
        self.by_attempt[attempt_id] = run
        engine.busy += 1
        self.push(self.now_ms + engine.prefill_ms(run.arrival.prompt_tokens, self.paces[run.index]), "text", run)

    def advance(self, run: Run) -> None:
        """Hand over what was decoded since the last time, and arrange the next."""
        engine, arrival = self.engines[run.engine], run.arrival
        if run.first_token_at_ms < 0:
            run.first_token_at_ms = self.now_ms
            fresh, worth = 1, 1 + engine.pool.service(arrival.prompt_tokens)
        else:
            fresh = min(CHUNK_TOKENS, arrival.tokens_out - run.tokens)
            worth = float(fresh)
        run.tokens += fresh
        bins = self.played.service.setdefault((arrival.tenant, arrival.priority), {})
        bins[self.now_ms // BIN_MS] = bins.get(self.now_ms // BIN_MS, 0.0) + worth
        self.tell(ChunksArrived(AttemptId(run.attempt_id), _TEXT, run.tokens))
        left = min(CHUNK_TOKENS, arrival.tokens_out - run.tokens)
        if left:
            self.push(self.now_ms + engine.decode_ms(left, self.paces[run.index]), "text", run)
            return
        run.completed = True
        self.tell(
            AttemptCompleted(
                AttemptId(run.attempt_id),
                "length" if run.tokens == arrival.max_tokens else "stop",
                arrival.prompt_tokens,
                run.tokens,
                run.first_token_at_ms - run.started_at_ms,
                self.now_ms - run.first_token_at_ms,
            )
        )
        self.close(run)

    def close(self, run: Run) -> None:
        """Free the slot."""
        self.engines[run.engine].busy -= 1
        self.played.busy_slot_ms += self.now_ms - run.started_at_ms
        self.played.makespan_ms = self.now_ms
        del self.by_attempt[run.attempt_id]
        self.tell(AttemptClosed(AttemptId(run.attempt_id)))
