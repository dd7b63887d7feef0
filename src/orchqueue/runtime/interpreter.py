"""Carries out effects in their one fixed order: records first, then whatever tells or starts something.

The barrier: every reply, terminal event, start and abort waits until the journal has committed all records that were
decided before it. Only tokens, metrics, timers and figures pass at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core.events import AcceptsWithdrawn, AnyEvent, JournalHealed, JournalStalled
from orchqueue.core.ids import PoolId, ReplicaId, SessionKey, TaskKey, task_key
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import AnyRecord, Ended
from orchqueue.core.request import TaskSpec
from orchqueue.ports.clock import Clock
from orchqueue.ports.journal import Journal
from orchqueue.ports.telemetry import Telemetry
from orchqueue.runtime.attempts import Attempts
from orchqueue.runtime.decision_log import DecisionLog
from orchqueue.runtime.replies import Replies
from orchqueue.runtime.streams import Streams
from orchqueue.runtime.timers import Timers

if TYPE_CHECKING:
    import asyncio


class ReplicaControl(Protocol):
    """Who brings replicas up and down."""

    def start(self, replica_id: ReplicaId, model_ref: str) -> None:
        """Begin to bring a replica up."""
        ...

    def stop(self, replica_id: ReplicaId) -> None:
        """Begin to take a replica down."""
        ...

    def probe(self, replica_id: ReplicaId) -> None:
        """Begin to find out whether a replica lives."""
        ...

    def verify_model(self, pool_id: PoolId, model_ref: str) -> None:
        """Begin to compare a model's checksum."""
        ...

    def count_prompt(self, key: TaskKey, replica_id: ReplicaId, spec: TaskSpec, timeout_ms: int) -> None:
        """Begin to count a prompt's tokens."""
        ...

    def evict_session(self, replica_id: ReplicaId, session: SessionKey) -> None:
        """Begin to forget a session's KV."""
        ...


class Deferred(msgspec.Struct):
    """An effect behind the barrier: it waits for record number `seq`."""

    seq: int
    effect: fx.AnyEffect
    since_ms: int


class Ports(msgspec.Struct):
    """Everything the interpreter acts through."""

    journal: Journal
    streams: Streams
    replies: Replies
    timers: Timers
    attempts: Attempts
    replicas: ReplicaControl
    telemetry: Telemetry
    clock: Clock
    decisions: DecisionLog


class Interpreter:
    """Carries out what the core decided. `post` must only queue an event, never handle it.

    Req: ORCH-3015, ORCH-4013
    """

    def __init__(self, ports: Ports, post: Callable[[AnyEvent], None], stall_ms: int) -> None:
        self._ports = ports
        self._post = post
        self._stall_ms = stall_ms
        self._records: list[AnyRecord] = []
        self._deferred: deque[Deferred] = deque()
        self._barriers: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._decided = 0
        self._committed = 0
        self._stalled = False
        self._unopened: set[TaskKey] = set()
        self._stall_reason = ""

    def carry_out(self, effects: Iterable[fx.AnyEffect]) -> None:
        """Take one event's effects: what may pass passes, the rest is queued for `flush`.

        Cost: hot path for tokens.
        Req: ORCH-4186
        """
        for effect in effects:
            if type(effect) is fx.EmitTokens:
                self._ports.streams.tokens(effect.key, effect.texts)
            elif isinstance(effect, fx.Record):
                self._records.append(self._with_text(effect.record))
                self._decided += 1
            elif isinstance(effect, fx.BEHIND_BARRIER):
                if self._passes_stall(effect):
                    self._act(effect)
                elif self._stalled and isinstance(effect, fx.Accept):
                    # Decided before the core knew of the stall.
                    self._withdraw([effect])
                else:
                    if isinstance(effect, fx.OpenStream):
                        self._unopened.add(effect.key)
                    self._deferred.append(Deferred(self._decided, effect, self._ports.clock.now_ms()))
            else:
                self._pass(effect)

    def flush(self) -> None:
        """Hand the batch's records to the journal as one group, and release what waits for nothing."""
        if self._records:
            records, self._records = self._records, []
            last = self._ports.journal.append(records)
            assert last == self._decided, f"the journal counts {last} records, we {self._decided}"
        self._release()

    def _with_text(self, record: AnyRecord) -> AnyRecord:
        if not isinstance(record, Ended):
            return record
        key = task_key(record.tenant, record.task_id)
        # While its own stream waits to be opened, the log of that name is a forgotten task's.
        text = "" if key in self._unopened else self._ports.streams.text(key)
        return msgspec.structs.replace(record, text=text)

    def _passes_stall(self, effect: fx.AnyEffect) -> bool:
        """Let a client learn at once that nothing can be recorded: that answer rests on no record."""
        return isinstance(effect, fx.Refuse) and self._stalled and effect.refusal.outcome is Outcome.JOURNAL_DOWN

    def _release(self) -> None:
        while self._deferred and self._deferred[0].seq <= self._committed:
            self._act(self._deferred.popleft().effect)
        while self._barriers and self._barriers[0][0] <= self._committed:
            future = self._barriers.popleft()[1]
            if not future.done():
                future.set_result(None)

    def barrier(self, future: asyncio.Future[None]) -> None:
        """Resolve a future once everything decided so far is committed."""
        if self._committed >= self._decided and not self._deferred:
            future.set_result(None)
        else:
            self._barriers.append((self._decided, future))

    @property
    def owes_ends(self) -> bool:
        """Tell whether the end of a stream that can be read still waits for the journal."""
        return any(isinstance(d.effect, fx.Finish) and d.effect.key in self._ports.streams for d in self._deferred)

    def committed(self, seq: int) -> None:
        """Learn from the journal how far it is durable."""
        assert seq >= self._committed, f"the journal went back from record {self._committed} to {seq}"
        self._committed = seq
        self._release()

    def stalled(self, reason: str) -> None:
        """Learn that a commit failed: whoever was not answered yet is told no, and its acceptance is taken back."""
        accepts = [d.effect for d in self._deferred if isinstance(d.effect, fx.Accept)]
        self._deferred = deque(d for d in self._deferred if not isinstance(d.effect, fx.Accept))
        self._stall_reason = reason
        if not self._stalled:
            self._stalled = True
            self._post(JournalStalled(reason))
        self._withdraw(accepts)

    def _withdraw(self, accepts: list[fx.Accept]) -> None:
        """Refuse those who wait for these answers; what they posted is taken back, unless an earlier post stands."""
        refusal = Refusal(
            Outcome.JOURNAL_DOWN,
            f"the journal cannot be written ({self._stall_reason}), so the task was not accepted; try again soon",
            retry_after_ms=1_000,
        )
        for accept in accepts:
            self._ports.replies.resolve(accept.reply, refusal)
        withdrawn = tuple(accept.key for accept in accepts if not accept.repeated)
        if withdrawn:
            self._post(AcceptsWithdrawn(withdrawn))

    def healed(self) -> None:
        """Learn that commits succeed again."""
        self._stalled = False
        self._post(JournalHealed())

    def tick(self) -> None:
        """Let ends go that have waited too long for a stalled journal, marked as not durable.

        Where the stream's opening waits too, nobody can be reading.

        Req: ORCH-4190
        """
        if not self._stalled:
            return
        limit_ms = self._ports.clock.now_ms() - self._stall_ms
        waiting = (d.effect for d in self._deferred if d.since_ms <= limit_ms)
        late = {e.key: e for e in waiting if isinstance(e, fx.Finish) and e.key in self._ports.streams}
        if late:
            self._deferred = deque(d for d in self._deferred if not self._belongs_to(d.effect, late))
            for effect in late.values():
                self._ports.streams.finish(effect.key, effect.ended, durable=False)

    @staticmethod
    def _belongs_to(effect: fx.AnyEffect, late: dict[TaskKey, fx.Finish]) -> bool:
        return isinstance(effect, fx.Finish | fx.EmitStarted) and effect.key in late

    def _act(self, effect: fx.AnyEffect) -> None:
        ports = self._ports
        match effect:
            case fx.Accept():
                ports.replies.resolve(effect.reply, effect)
            case fx.Refuse():
                ports.replies.resolve(effect.reply, effect.refusal)
            case fx.Done():
                ports.replies.resolve(effect.reply, effect)
            case fx.OpenStream():
                self._unopened.discard(effect.key)
                ports.streams.open(effect.key, effect.correlation_id, effect.workload)
            case fx.EmitStarted():
                ports.streams.started(effect)
            case fx.Finish():
                ports.streams.finish(effect.key, effect.ended)
            case fx.Forget():
                ports.streams.forget(effect.key)
            case fx.StartAttempt():
                ports.attempts.start(effect)
            case fx.AbortAttempt():
                ports.attempts.abort(effect.attempt_id)

    def _pass(self, effect: fx.AnyEffect) -> None:
        ports = self._ports
        match effect:
            case fx.EmitMetrics():
                ports.streams.metrics(effect)
            case fx.SetTimer():
                ports.timers.set(effect.key, effect.at_ms)
            case fx.ClearTimer():
                ports.timers.clear(effect.key)
            case fx.Count():
                ports.telemetry.count(effect.name, effect.labels, effect.amount)
            case fx.Observe():
                ports.telemetry.observe(effect.name, effect.labels, effect.value)
            case fx.LogDecision():
                ports.decisions.append(effect.decision)
            case fx.Note():
                ports.telemetry.log(effect.level, effect.event, effect.fields)
            case fx.StartReplica():
                ports.replicas.start(effect.replica_id, effect.model_ref)
            case fx.StopReplica():
                ports.replicas.stop(effect.replica_id)
            case fx.ProbeReplica():
                ports.replicas.probe(effect.replica_id)
            case fx.VerifyModel():
                ports.replicas.verify_model(effect.pool_id, effect.model_ref)
            case fx.CountPrompt():
                ports.replicas.count_prompt(effect.key, effect.replica_id, effect.spec, effect.timeout_ms)
            case fx.EvictKv():
                ports.replicas.evict_session(effect.replica_id, effect.session)
