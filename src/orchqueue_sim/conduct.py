"""The auditor's own idea of replicas, tries and limits: what may be started where, how often, and until when.

It follows events and effects only. Like `order`, it does not judge idle slots after a drain or reload, because from then
on nobody outside knows in which pool a task waits.

Req: ORCH-3016, ORCH-4136, ORCH-4143, ORCH-4154, ORCH-4173, ORCH-4175, ORCH-4343, ORCH-4368, ORCH-4369
"""

from __future__ import annotations

from collections import Counter

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, PoolId, ReplicaId, TaskKey
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import Accepted, Ended
from orchqueue.core.settings import PoolSettings, Settings
from orchqueue_sim.losses import loss_of
from orchqueue_sim.order import Order
from orchqueue_sim.speech import Heard

LETS_GO_MS = 10_000
SLACK_MS = 100
"""How late a limit may be kept when nothing stands still: timers of a run come up to half of it late."""
BLAMES = {
    Outcome.ENGINE_REFUSED: ("rejected",),
    Outcome.POISON: ("lost",),
    Outcome.REPLICAS_EXHAUSTED: ("lost", "overloaded", "engine_error"),
    Outcome.IDLE_TIMEOUT: ("hung",),
}
EARLY = frozenset(
    {
        Outcome.DEADLINE_PASSED,
        Outcome.WALL_TIMEOUT,
        Outcome.FIRST_TOKEN_TIMEOUT,
        Outcome.IDLE_TIMEOUT,
        Outcome.CANCELED_ON_DISCONNECT,
    }
)
QUIET = (ev.ChunksArrived, ev.Ticked, ev.ReplicaScraped, ev.ReaderAttached, ev.ReaderDetached)


class Limits(msgspec.Struct):
    """What binds one task in one life of the daemon.

    `losses` since its last new text. `maker`: engine version and model digest of what began its text, where it has any.

    Units: instants of the daemon's clock; `clock_from_ms` since when new text is decoded, None while none is; `spent_ms` before that.
    """

    record: Accepted
    deadline_ms: int | None
    tries: int = 0
    losses: int = 0
    started_at_ms: int = 0
    clock_from_ms: int | None = None
    spent_ms: int = 0
    token_at_ms: int | None = None
    unread_since_ms: int | None = None
    pool_id: PoolId | None = None
    replica_id: ReplicaId | None = None
    failure: str = ""
    sent: bool = False
    tokens_out: int = 0
    maker: tuple[str, str] | None = None

    def wall_due_ms(self, wall_ms: int) -> int:
        """Tell when decoding has taken too long; a replay has the whole limit for itself."""
        if self.clock_from_ms is None:
            return self.started_at_ms + wall_ms
        return self.clock_from_ms + wall_ms - self.spent_ms


class Conduct:
    """Replicas that are up, and every task's tries and limits."""

    def __init__(self, settings: Settings, order: Order) -> None:
        self._settings = settings
        self._order = order
        self._pools: dict[PoolId, PoolSettings] = {p.pool_id: p for p in settings.pools}
        self._pool_of = {r.replica_id: p.pool_id for p in settings.pools for r in p.replicas}
        self.life_over()

    def life_over(self) -> None:
        """Forget what only a life of the daemon knows."""
        self._pause_over_ms = 0
        self._up: dict[ReplicaId, str] = {}
        self._facts: dict[ReplicaId, ev.ReplicaFacts] = {}
        self._resting: dict[ReplicaId, set[str]] = {}
        self._slots: dict[ReplicaId, int] = {}
        self._taken: Counter[ReplicaId] = Counter()
        self._held: dict[AttemptId, ReplicaId] = {}
        self._limits: dict[TaskKey, Limits] = {}
        self._deaf: dict[AttemptId, int] = {}
        self._quiet = False
        self._stalled = False
        self._wanted = {p.pool_id for p in self._settings.pools if p.preload}

    def paused(self, now_ms: int) -> None:
        """See that the machine stood still until now: whatever was due is late."""
        self._pause_over_ms = now_ms

    # Replicas.

    def decided(self, event: ev.AnyEvent, effects: list[fx.AnyEffect], now_ms: int) -> str:
        """See that all effects of an event are known; tell what stands idle, empty when nothing does."""
        for effect in effects:
            if isinstance(effect, fx.StopReplica):
                self._gone(effect.replica_id)
            elif isinstance(effect, fx.StartAttempt):
                self._held[effect.attempt_id] = effect.replica_id
                self._taken[effect.replica_id] += 1
            elif isinstance(effect, fx.StartReplica) and self._pool_of[effect.replica_id] not in self._wanted:
                return f"{effect.replica_id} is started though nobody has asked anything of its pool"
        for attempt_id, due_ms in self._deaf.items():
            if now_ms > max(due_ms, self._pause_over_ms) + SLACK_MS:
                return f"attempt {attempt_id} fell silent and was not let go of, and {self._held[attempt_id]} is kept"
        return "" if isinstance(event, QUIET) else self._idle()

    def _gone(self, replica_id: ReplicaId) -> None:
        self._up.pop(replica_id, None)
        self._deaf = {a: due_ms for a, due_ms in self._deaf.items() if self._held[a] != replica_id}

    def happened(self, event: ev.AnyEvent, effects: list[fx.AnyEffect], now_ms: int) -> str:
        """See an event; tell what is wrong with a replica that was let in, empty when nothing is."""
        match event:
            case ev.ReloadRequested() | ev.RollbackRequested():
                self._wanted.add(event.pool_id)
            case ev.ReplicaReady():
                if any(isinstance(e, fx.Count) and e.labels[-1] == "ready" for e in effects):
                    return self._ready(event)
            case ev.ReplicaLost() | ev.ReplicaStopped():
                self._gone(event.replica_id)
            case ev.ReplicaHealthy():
                self._rested(event.replica_id, "suspect")
            case ev.TimerFired() if event.key[0] == "cool":
                self._rested(ReplicaId(event.key[1]), "cooling")
            case ev.TimerFired():
                self._silent(event, effects, now_ms)
            case ev.AttemptFailed():
                replica_id = self._held.get(event.attempt_id)
                if replica_id is not None and event.failure in ("lost", "overloaded"):
                    self._resting[replica_id].add("suspect" if event.failure == "lost" else "cooling")
            case ev.AttemptClosed():
                self._deaf.pop(event.attempt_id, None)
                replica_id = self._held.pop(event.attempt_id, None)
                if replica_id is not None:
                    self._taken[replica_id] -= 1
            case ev.ShutdownBegan():
                self._quiet = True
            case ev.JournalStalled() | ev.JournalHealed():
                self._stalled = isinstance(event, ev.JournalStalled)
        return ""

    def _rested(self, replica_id: ReplicaId, why: str) -> None:
        self._resting.get(replica_id, set()).discard(why)

    def _silent(self, event: ev.TimerFired, effects: list[fx.AnyEffect], now_ms: int) -> None:
        """See an engine lose its task for its silence, or given up because it does not let go."""
        loss = loss_of(event, effects)
        if loss is None:
            return
        if loss.replica_id is not None:
            self._gone(loss.replica_id)
        elif loss.attempt_id in self._held:
            replica_id = self._held[loss.attempt_id]
            self._resting[replica_id].add("suspect")
            if replica_id in self._up:
                self._deaf[loss.attempt_id] = now_ms + LETS_GO_MS

    def _ready(self, event: ev.ReplicaReady) -> str:
        replica_id, pool = event.replica_id, self._pools[self._pool_of[event.replica_id]]
        self._resting[replica_id] = set()
        self._facts[replica_id] = event.facts
        self._slots[replica_id] = min(pool.slots, event.facts.slots_total)
        self._up[replica_id] = version = event.facts.engine_version
        for other in pool.replicas:
            if self._up.get(other.replica_id, version) != version:
                return f"{replica_id} of version {version} was let in beside {other.replica_id}, which is another one"
        return ""

    def _idle(self) -> str:
        if self._quiet or self._stalled or self._order.is_disturbed:
            return ""
        for place in self._order.waiting.values():
            if not self._order.eligible(place, place.pool_id):
                continue
            for replica in self._pools[place.pool_id].replicas:
                name = replica.replica_id
                if name in self._up and not self._resting[name] and self._taken[name] < self._slots[name]:
                    return f"{place.key} waits although {name} has a free slot"
        return ""

    # Tasks.

    def accepted(self, record: Accepted, now_ms: int) -> None:
        """Begin to watch a task, of this life or an earlier one."""
        self._wanted.add(record.pool_id)
        deadline_ms = record.spec.deadline_ms
        at_ms = None if deadline_ms is None else max(now_ms, min(record.accepted_at_ms, now_ms) + deadline_ms)
        self._limits[self._order.key_of(record)] = Limits(record, at_ms)

    def recovered(self, event: ev.TaskRecovered, now_ms: int) -> None:
        """Begin to watch a task of an earlier life; who had read it has the whole grace to come back."""
        self.accepted(event.accepted, now_ms)
        limits, bound = self._limits[self._order.key_of(event.accepted)], event.bound
        limits.unread_since_ms = now_ms if event.followed else None
        if event.text and bound is not None:
            limits.sent, limits.tokens_out = True, event.tokens_out
            limits.maker = (bound.engine_version, bound.model_digest)

    def welcomed(self, effect: fx.Accept) -> str:
        """Judge what a newcomer is told of its place."""
        others = sum(p.pool_id == effect.pool_id for p in self._order.waiting.values()) - 1
        if effect.repeated or (self._order.is_disturbed and effect.queue_position >= 0):
            return ""
        if not 0 <= effect.queue_position <= max(0, others) or effect.predicted_start_ms < 0:
            return f"{effect.key} was told position {effect.queue_position}, {others} others wait in {effect.pool_id}"
        return ""

    @staticmethod
    def refused(refusal: Refusal) -> str:
        """Judge whether a client that may come back is told when."""
        if refusal.meaning.status in (429, 503) and (refusal.retry_after_ms or 0) < 1:
            return f"a refusal as {refusal.outcome.value} says to come back in {refusal.retry_after_ms} ms"
        return ""

    def started(self, effect: fx.StartAttempt, now_ms: int) -> str:
        """Judge whether a task may be tried once more."""
        limits, replica_id = self._limits[effect.key], effect.replica_id
        if replica_id not in self._up or self._resting[replica_id]:
            return f"{effect.key} is started on {replica_id}, which is {self._resting.get(replica_id) or 'not up'}"
        most = self._pools[limits.pool_id].max_attempts if limits.pool_id else 1
        if limits.failure == "rejected":
            return f"{effect.key} is tried again although an engine refused the request itself"
        if limits.losses >= self._settings.poison_kills:
            return f"{effect.key} is tried again after it has lost {limits.losses} replicas"
        if limits.tries and limits.tries >= most:
            return f"{effect.key} is tried for the {limits.tries + 1}th time, {most} are allowed"
        kind = _kind(self._facts[replica_id])
        if limits.sent and limits.maker != kind:
            return f"{effect.key} was begun by {limits.maker} and goes on with {kind} of {replica_id}"
        if limits.sent and not limits.record.strict and not self._facts[replica_id].can_continue:
            return f"{effect.key} is to go on in the middle on {replica_id}, which cannot"
        limits.tries += 1
        limits.started_at_ms, limits.token_at_ms, limits.failure = now_ms, None, ""
        if not limits.sent:
            limits.spent_ms, limits.maker = 0, kind
        limits.clock_from_ms = None if limits.sent and limits.record.strict else now_ms
        limits.pool_id, limits.replica_id = self._pool_of[replica_id], replica_id
        return ""

    def failed(self, key: TaskKey, failure: str, now_ms: int) -> None:
        """See the attempt that owned a task fail."""
        limits = self._limits[key]
        limits.failure = failure
        limits.losses += failure in ("lost", "hung")
        self._stop_clock(limits, now_ms)

    @staticmethod
    def _stop_clock(limits: Limits, now_ms: int) -> None:
        limits.spent_ms += 0 if limits.clock_from_ms is None else now_ms - limits.clock_from_ms
        limits.clock_from_ms = None

    def spoke(self, heard: Heard, tokens_out: int, now_ms: int) -> str:
        """See an engine say something; tell when that was not to be waited for."""
        limits = self._limits[heard.key]
        idle_ms = self._pools[limits.pool_id].timeouts.idle_ms if limits.pool_id else 0
        silent_since_ms = max(limits.token_at_ms or now_ms, self._pause_over_ms)
        if now_ms > silent_since_ms + idle_ms + SLACK_MS:
            return f"{heard.key} was left to an engine that was silent for {now_ms - silent_since_ms} ms"
        limits.token_at_ms = now_ms
        if heard.caught_up:
            limits.clock_from_ms = now_ms
        if heard.new:
            limits.losses, limits.sent, limits.tokens_out = 0, True, tokens_out
        return ""

    def read(self, event: ev.ReaderAttached | ev.ReaderDetached, now_ms: int) -> None:
        """See a reader come or go."""
        limits = self._limits.get(event.key)
        if limits is not None:
            limits.unread_since_ms = None if event.readers else now_ms

    def ended(self, key: TaskKey, ended: Ended, now_ms: int) -> str:
        """Judge whether a task's time was really over, or over for long, and whether who is blamed did it."""
        limits = self._limits.pop(key)
        outcome = ended.outcome
        running = bool(limits.tries) and not limits.failure
        timeouts = self._pools[limits.pool_id].timeouts if limits.pool_id else None
        due: dict[Outcome, int | None] = {Outcome.DEADLINE_PASSED: limits.deadline_ms}
        if timeouts is not None:
            token_ms = limits.token_at_ms
            due[Outcome.WALL_TIMEOUT] = limits.wall_due_ms(timeouts.wall_ms)
            due[Outcome.FIRST_TOKEN_TIMEOUT] = limits.started_at_ms + (timeouts.first_token_ms or 0)
            due[Outcome.IDLE_TIMEOUT] = None if token_ms is None else token_ms + timeouts.idle_ms
        if limits.unread_since_ms is not None:
            due[Outcome.CANCELED_ON_DISCONNECT] = limits.unread_since_ms + self._settings.disconnect_grace_ms
        if outcome in EARLY and (due.get(outcome) is None or now_ms < (due[outcome] or 0)):
            return f"{key} ended as {outcome.value} at {now_ms}, its time is over at {due.get(outcome)}"
        late = [limits.deadline_ms]
        if running:
            # What was spent before may have used up the whole limit, which shows when new text is decoded again.
            wall_ms = due.get(Outcome.WALL_TIMEOUT)
            late += [wall_ms and max(wall_ms, limits.clock_from_ms or 0), due.get(Outcome.IDLE_TIMEOUT)]
        if limits.record.spec.cancels_on_disconnect:
            late.append(due.get(Outcome.CANCELED_ON_DISCONNECT))
        for bound_ms in late:
            if bound_ms is not None and now_ms > max(bound_ms, self._pause_over_ms) + SLACK_MS:
                return f"{key} ended as {outcome.value} {now_ms - bound_ms} ms after its time was over"
        self._stop_clock(limits, now_ms)
        # Whoever waits again without text has decoded nothing that counts.
        if ended.decode_ms != limits.spent_ms and (limits.sent or running or ended.decode_ms):
            return f"{key} says that it decoded for {ended.decode_ms} ms, it did for {limits.spent_ms}"
        return self._blamed(key, outcome, limits)

    def _blamed(self, key: TaskKey, outcome: Outcome, limits: Limits) -> str:
        """Judge whether who is blamed for an end did it, and whether nobody could have gone on."""
        wanted = BLAMES.get(outcome)
        if wanted is not None and limits.failure not in wanted:
            return f"{key} ended as {outcome.value} although its last attempt {limits.failure or 'did not fail'}"
        if outcome is Outcome.POISON and limits.losses < self._settings.poison_kills:
            return f"{key} ended as poison after {limits.losses} lost replicas"
        most = self._pools[limits.pool_id].max_attempts if limits.pool_id else 1
        over = limits.tries >= most or limits.losses >= self._settings.poison_kills
        if outcome is Outcome.REPLICAS_EXHAUSTED and limits.failure != "engine_error" and limits.tries < most:
            return f"{key} gives up after {limits.tries} of {most} tries"
        given_up = outcome is Outcome.ENGINE_LOST or (outcome is Outcome.IDLE_TIMEOUT and not over)
        if not given_up or limits.failure == "rejected":
            return ""
        if not limits.sent:
            return f"{key} ended as {outcome.value} before it had sent anything"
        if self._cannot_go_on(limits) or self._order.is_disturbed or self._nobody_left(key, limits):
            return ""
        return f"{key} ended as {outcome.value}, though an engine like {limits.maker} could go on with it"

    def _cannot_go_on(self, limits: Limits) -> bool:
        """Tell whether a text can neither be computed again nor continued."""
        if limits.record.strict:
            return False
        spec = limits.record.spec
        bound = spec.sampling.grammar is not None or spec.sampling.json_schema is not None
        could = limits.replica_id is None or self._facts[limits.replica_id].can_continue
        return bound or not could or limits.tokens_out >= spec.max_tokens

    def _nobody_left(self, key: TaskKey, limits: Limits) -> bool:
        """Tell whether no replica of its pool, as far as it was ever seen, is one that could go on."""
        waits = self._order.waiting.get(key)
        pool_id = limits.pool_id or (waits.pool_id if waits else limits.record.pool_id)
        seen = [self._facts[r.replica_id] for r in self._pools[pool_id].replicas if r.replica_id in self._facts]
        return not any(_kind(f) == limits.maker and (limits.record.strict or f.can_continue) for f in seen)


def _kind(facts: ev.ReplicaFacts) -> tuple[str, str]:
    return facts.engine_version, facts.model_digest
