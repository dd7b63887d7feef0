"""Checks public promises from the outside: it sees events in, effects out and what was told, never the core's state.

Req: ORCH-2002, ORCH-2003, ORCH-3004, ORCH-3005, ORCH-3017, ORCH-4011, ORCH-4013
"""

from __future__ import annotations

from collections import Counter

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId, TaskKey, task_key, tenant_of
from orchqueue.core.outcome import MEANINGS, Outcome, Refusal
from orchqueue.core.records import Accepted, Ended, Followed, Spoken
from orchqueue.core.request import TaskSpec
from orchqueue_sim.chronicle import Chronicle
from orchqueue_sim.conduct import Conduct
from orchqueue_sim.disk import Disk
from orchqueue_sim.losses import Loss, loss_of
from orchqueue_sim.order import DROPPING, Order
from orchqueue_sim.speech import Heard, Speech
from orchqueue_sim.tallies import Tallies
from orchqueue_sim.trial import Trial
from orchqueue_sim.turns import Turns


class Violation(Exception):
    """A public promise was broken."""


class Track(msgspec.Struct):
    """What is known of one task in one life of the daemon."""

    key: TaskKey
    spec: TaskSpec
    attempt_id: AttemptId | None = None
    replica_id: ReplicaId | None = None
    ended: Ended | None = None


class Auditor:
    """Everything promised, checked as it happens. `disk` is looked at only for what is durable.

    Req: ORCH-4237
    """

    def __init__(self, disk: Disk, order: Order, turns: Turns, conduct: Conduct, trial: Trial) -> None:
        self._trial = trial
        self._disk = disk
        self._conduct = conduct
        self._decided: dict[TaskKey, list[tuple[Outcome, str]]] = {}
        self._taken: dict[TaskKey, list[Accepted]] = {}
        self._welcomes: dict[TaskKey, fx.Accept] = {}
        self._speech = Speech()
        self._order = order
        self._now_ms = 0
        self._turns = turns
        self._chronicle = Chronicle()
        self.tracks: dict[TaskKey, Track] = {}
        self.told_accepted: set[TaskKey] = set()
        self.told_ended: dict[TaskKey, Outcome] = {}
        self.canceled: set[TaskKey] = set()
        self.outcomes: Counter[str] = Counter()
        self._restored: dict[TaskKey, Outcome] = {}
        self._told_started: set[TaskKey] = set()
        self._counting: dict[TaskKey, TaskSpec] = {}
        self._cancel_replies: dict[int, tuple[TaskKey, Accepted | None]] = {}
        self._running: dict[ReplicaId, set[AttemptId]] = {}
        self._slots: dict[ReplicaId, int] = {}
        self._attempts: dict[AttemptId, TaskKey] = {}
        self._tallies = Tallies()

    # Decisions: what goes into the core and what comes out of it.

    def decided(self, event: ev.AnyEvent, effects: list[fx.AnyEffect], now_ms: int) -> None:
        """See one event and its effects."""
        self._now_ms = now_ms
        self._order.begin()
        self._demand(self._conduct.happened(event, effects, now_ms))
        self._happened(event, effects)
        loss = loss_of(event, effects)
        if loss is not None:
            self._lost(loss)
        heard = self._heard(event, effects)
        for effect in effects:
            self._decided_one(effect)
        if heard is not None:
            self._demand(self._speech.behind_by_much(heard.key))
        self._demand(self._conduct.decided(event, effects, now_ms) or self._trial.decided(effects))
        self._demand(self._speech.behind(now_ms))
        if isinstance(event, ev.ReaderAttached) and event.key in self.tracks and self.tracks[event.key].ended is None:
            self._demand(self._speech.followed(event.key))
        if isinstance(event, ev.AcceptsWithdrawn):
            self._withdrawn(event.keys)
        if isinstance(event, ev.TaskSubmitted | ev.PromptCounted):
            refused = next((e.refusal for e in effects if isinstance(e, fx.Refuse)), None)
            if refused is not None:
                self._refused(event, refused)
        self._demand(self._chronicle.decided(event, effects))

    @staticmethod
    def _demand(problem: str) -> None:
        if problem:
            raise Violation(problem)

    def _happened(self, event: ev.AnyEvent, effects: list[fx.AnyEffect]) -> None:
        match event:
            case ev.TaskRecovered():
                self._recovered(event)
            case ev.ReaderAttached() | ev.ReaderDetached():
                self._conduct.read(event, self._now_ms)
            case ev.JournalStalled() | ev.JournalHealed():
                self._speech.stalled(now=isinstance(event, ev.JournalStalled), now_ms=self._now_ms)
            case ev.TaskRestored():
                self._restored_as_decided(event)
                # It ended durably but the daemon died before telling: from now on it can be read.
                key = task_key(event.accepted.tenant, event.accepted.task_id)
                self._restored[key] = event.ended.outcome
                if key in self.told_accepted:
                    self.told_ended.setdefault(key, event.ended.outcome)
            case ev.CancelRequested():
                self._cancel_replies[event.reply] = event.key, self._latest(event.key)
            case ev.AcceptsWithdrawn():
                for key in event.keys:
                    session_id = self.tracks[key].spec.session_id if key in self.tracks else None
                    if session_id is not None:
                        self._turns.withdrawn((tenant_of(key), session_id))
            case ev.SessionDeleteRequested():
                self._turns.deleted(event.session)
            case ev.SettingsReplaced():
                if any(isinstance(e, fx.Done) for e in effects):
                    self._order.reconfigured(event.settings)
            case ev.DrainRequested() | ev.ReloadRequested() | ev.RollbackRequested():
                self._order.disturbed()

    def _restored_as_decided(self, event: ev.TaskRestored) -> None:
        key = task_key(event.accepted.tenant, event.accepted.task_id)
        if (event.ended.outcome, event.ended.text) not in self._decided.get(key, ()):
            raise Violation(f"{key} comes back with another end or text than was decided: {event.ended.text!r}")

    def paused(self, now_ms: int) -> None:
        """See that the machine stood still until now."""
        self._conduct.paused(now_ms)
        self._speech.paused(now_ms)

    def stopped(self) -> None:
        """See the daemon stop in order."""
        self._demand(self._speech.stopped())

    def _withdrawn(self, keys: tuple[TaskKey, ...]) -> None:
        for key in keys:
            if key in self.tracks and self.tracks[key].ended is None:
                raise Violation(f"{key} goes on although its client was told that it was not accepted")

    def _lost(self, loss: Loss) -> None:
        for track in list(self.tracks.values()):
            if track.ended is None and loss.hits(track.attempt_id, track.replica_id):
                track.attempt_id = track.replica_id = None
                self._speech.failed(track.key)
                self._conduct.failed(track.key, loss.failure, self._now_ms)
                self._order.requeued(track.key)

    def _heard(self, event: ev.AnyEvent, effects: list[fx.AnyEffect]) -> Heard | None:
        """Compare what an engine said with what readers are sent of it."""
        key = (
            self._attempts.get(event.attempt_id) if isinstance(event, ev.ChunksArrived | ev.AttemptCompleted) else None
        )
        heard = self._speech.heard(event, key)
        self._demand(self._speech.decided(heard, effects, self._now_ms))
        if heard is not None and isinstance(event, ev.ChunksArrived):
            self._demand(self._conduct.spoke(heard, self._speech.tokens(heard.key), self._now_ms))
        return heard

    def _decided_one(self, effect: fx.AnyEffect) -> None:
        match effect:
            case fx.EmitTokens():
                self._tokens(effect.key)
            case fx.Record():
                if isinstance(effect.record, Accepted):
                    self._accepted(effect.record)
                elif isinstance(effect.record, Spoken | Followed):
                    self._demand(self._speech.recorded(effect.record))
            case fx.CountPrompt():
                self._counting[effect.key] = effect.spec
            case fx.StartAttempt():
                self._bound(effect)
            case fx.Accept():
                self._welcomed(effect)
            case fx.Finish():
                self._ending(effect)
            case fx.Forget():
                self._forgetting(effect.key)
            case fx.Count():
                self._tallies.counted(effect)

    def _accepted(self, record: Accepted) -> None:
        key = task_key(record.tenant, record.task_id)
        if key in self.tracks:
            raise Violation(f"{key} was accepted twice")
        self.tracks[key] = Track(key, record.spec)
        self._tallies.happened("tasks_enqueued_total")
        self._taken.setdefault(key, []).append(record)
        self._restored.pop(key, None)
        self._welcomes.pop(key, None)
        self._speech.accepted(record)
        self._conduct.accepted(record, self._now_ms)
        self._demand(self._order.accepted(record) or self._turns.accepted(record))

    def _welcomed(self, effect: fx.Accept) -> None:
        """Demand that who asks again is told what was told at first, also by the next life of the daemon."""
        self._demand(self._conduct.welcomed(effect))
        first = self._welcomes.setdefault(effect.key, effect)
        if msgspec.structs.replace(effect, reply=first.reply, repeated=first.repeated) != first:
            raise Violation(f"{effect.key} was told {first} and is told {effect}")

    def _recovered(self, event: ev.TaskRecovered) -> None:
        record, key = event.accepted, task_key(event.accepted.tenant, event.accepted.task_id)
        self.tracks[key] = Track(key, record.spec)
        if record not in self._taken.get(key, ()):
            raise Violation(f"{key} comes back otherwise than it was accepted")
        self._demand(self._speech.recovered(event))
        self._conduct.recovered(event, self._now_ms)
        self._order.recovered(record, begun=bool(event.text))
        # The machine's clock may have been set back since: from then on it is as if it had been accepted now.
        self._turns.accepted(msgspec.structs.replace(record, accepted_at_ms=min(record.accepted_at_ms, self._now_ms)))

    def _bound(self, effect: fx.StartAttempt) -> None:
        track = self.tracks.get(effect.key)
        if track is None or track.ended is not None:
            raise Violation(f"{effect.key} is started although it is {'ended' if track else 'unknown'}")
        track.attempt_id, track.replica_id = effect.attempt_id, effect.replica_id
        self._attempts[effect.attempt_id] = effect.key
        self._tallies.happened("tasks_started_total")
        self._demand(self._order.bound(effect.key, effect.replica_id))
        self._demand(self._speech.started(effect) or self._conduct.started(effect, self._now_ms))

    def _tokens(self, key: TaskKey) -> None:
        track = self.tracks.get(key)
        if track is None or track.ended is not None:
            raise Violation(f"{key} got text after its terminal event was decided")
        if key in self.canceled:
            raise Violation(f"{key} got text after its cancel was answered with 204")
        if key not in self._told_started:
            raise Violation(f"{key} got text before `started`")

    def _ending(self, effect: fx.Finish) -> None:
        track = self.tracks.get(effect.key)
        if track is None or track.ended is not None:
            raise Violation(f"{effect.key} ends twice")
        track.ended = effect.ended
        outcome = effect.ended.outcome
        self._demand(self._speech.ended(effect.key, effect.ended))
        self._demand(self._order.ended(effect.key, outcome))
        self._demand(self._conduct.ended(effect.key, effect.ended, self._now_ms))
        self._decided.setdefault(effect.key, []).append((outcome, self._speech.text(effect.key)))
        meaning = MEANINGS[outcome]
        if meaning.cancel_reason:
            self._tallies.happened("tasks_canceled_total", meaning.cancel_reason)
        if outcome in DROPPING:
            self._tallies.happened("tasks_rejected_total", meaning.code or "")
        self._tallies.happened("tokens_out_total", amount=effect.ended.tokens_out)

    def _forgetting(self, key: TaskKey) -> None:
        track = self.tracks.pop(key, None)
        if track is not None and track.ended is None:
            raise Violation(f"{key} is forgotten before it ended")

    def _refused(self, event: ev.TaskSubmitted | ev.PromptCounted, refusal: Refusal) -> None:
        """Count one refusal, however many clients waited for that answer."""
        if refusal.meaning.code:
            self._tallies.happened("tasks_rejected_total", refusal.meaning.code)
        spec = event.spec if isinstance(event, ev.TaskSubmitted) else self._counting.get(event.key)
        problem = self._order.refused(refusal.outcome, refusal.pool_id, spec) or self._conduct.refused(refusal)
        if any(fault.pointer == "/session_id" for fault in refusal.faults) and spec is not None and spec.session_id:
            tenant = event.tenant if isinstance(event, ev.TaskSubmitted) else tenant_of(event.key)
            problem = self._turns.refused((tenant, spec.session_id))
        if problem:
            raise Violation(problem)

    # What was told, and what engines really do.

    def told(self, effect: fx.AnyEffect) -> None:
        """See an answer that a client has received."""
        if isinstance(effect, fx.Accept):
            if effect.key not in self._disk.ever_accepted:
                raise Violation(f"{effect.key} was told 202 before its acceptance was durable")
            self.told_accepted.add(effect.key)
            if effect.key in self._restored and effect.key not in self.tracks:
                self.told_ended.setdefault(effect.key, self._restored[effect.key])
        elif isinstance(effect, fx.Done):
            key, meant = self._cancel_replies.pop(effect.reply, (None, None))
            # A task that was forgotten meanwhile may have been accepted anew: that one is not canceled.
            if key is not None and meant is self._latest(key):
                if self._disk.accepted.get(key) is meant and key not in self._disk.ended:
                    raise Violation(f"{key} was told 204 before its end was durable")
                self.canceled.add(key)

    def _latest(self, key: TaskKey) -> Accepted | None:
        return self._taken[key][-1] if key in self._taken else None

    def opened(self, key: TaskKey) -> None:
        """See an empty stream log begin."""
        self._told_started.discard(key)

    def resumed(self, key: TaskKey) -> None:
        """See a log that begins with what an earlier life had recorded: `started` and text."""
        self._told_started.add(key)

    def started(self, effect: fx.AnyEffect) -> None:
        """See a start, an abort or a `started` event that passed the barrier."""
        if isinstance(effect, fx.EmitStarted):
            track = self.tracks.get(effect.key)
            if track is not None:
                if effect.key in self._told_started:
                    raise Violation(f"{effect.key} got `started` twice")
                self._told_started.add(effect.key)

    def finished(self, effect: fx.Finish, text: str) -> None:
        """See a terminal event that readers have received."""
        key = effect.key
        if key in self.told_ended:
            raise Violation(f"{key} got a second terminal event")
        if self._disk.ever_ended.get(key) != text:
            raise Violation(f"{key} got its terminal event before its end and text were durable")
        self.told_ended[key] = effect.ended.outcome
        self.outcomes[effect.ended.outcome.value] += 1

    def forgotten(self, key: TaskKey) -> None:
        """See that a task's retention is over."""
        if key in self.told_accepted and key not in self.told_ended:
            raise Violation(f"{key} was accepted and forgotten without a terminal event")
        self.told_accepted.discard(key)
        self.told_ended.pop(key, None)
        self.canceled.discard(key)

    def replica_up(self, replica_id: ReplicaId, slots: int) -> None:
        """See how many slots a replica has now."""
        self._slots[replica_id] = slots

    def engine_runs(self, effect: fx.StartAttempt, model_ref: str, text: str, *, crooked: bool) -> None:
        """See an engine begin an attempt that will give this text; a crooked one gives another than it should."""
        if effect.spec.model_ref not in (None, model_ref):
            raise Violation(f"{effect.key} asked for {effect.spec.model_ref} and runs on {model_ref}")
        running = self._running.setdefault(effect.replica_id, set())
        running.add(effect.attempt_id)
        if len(running) > self._slots.get(effect.replica_id, 0):
            raise Violation(
                f"{effect.replica_id} runs {sorted(running)} on {self._slots.get(effect.replica_id, 0)} slots"
            )
        self._demand(self._speech.engine_runs(effect, model_ref, text, crooked=crooked))

    def engine_freed(self, replica_id: ReplicaId, attempt_id: AttemptId) -> None:
        """See an engine really let go of an attempt."""
        self._running[replica_id].discard(attempt_id)

    # Ends of lives.

    def life_over(self) -> None:
        """Compare the life's counters with its history, and forget what only a life knows."""
        self._demand(self._tallies.life_over())
        for of_a_life in (
            self.tracks,
            self._running,
            self._slots,
            self._attempts,
            self._cancel_replies,
            self._counting,
        ):
            of_a_life.clear()
        self._told_started.clear()
        self._restored.clear()
        for watch in (self._chronicle, self._order, self._conduct, self._trial, self._speech, self._turns):
            watch.life_over()

    def after_crash(self) -> None:
        """Check that the disk still has whatever clients were told."""
        unfinished = {task_key(t.accepted.tenant, t.accepted.task_id) for t in self._disk.unfinished()}
        finished = set(self._disk.ended)
        gone_accepted = {k for k in self.told_accepted if k not in self._disk.accepted}
        for key in gone_accepted:
            if key not in self._disk.ever_ended:
                raise Violation(f"{key} was told 202 and is gone after the crash")
            self.told_accepted.discard(key)
            self.told_ended.pop(key, None)
        # Whose forgetting was durable is gone, though the daemon died before it said so.
        self.canceled &= self._disk.accepted.keys()
        self.told_ended = {key: end for key, end in self.told_ended.items() if key in self._disk.accepted}
        for key in self.told_ended:
            if key in unfinished or (key in self._disk.accepted and key not in finished):
                raise Violation(f"{key} was told its end and is unfinished after the crash")

    def settled(self) -> None:
        """Check that nothing is owed to anybody."""
        for key in sorted(self.told_accepted - self.told_ended.keys()):
            raise Violation(f"{key} was told 202 and never got a terminal event")
        for replica_id, running in self._running.items():
            if running:
                raise Violation(f"{replica_id} still runs {sorted(running)}")
