"""One life of the daemon in the simulation: the core, with an interpreter that knows the barrier, until it is killed.

Req: ORCH-4011, ORCH-4013
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import product
from random import Random
from typing import Protocol

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import quotas
from orchqueue.core.ids import ReplyId, TaskKey, TimerKey, task_key
from orchqueue.core.invariants import violations
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.records import AnyRecord, Ended
from orchqueue.core.running_text import TEXT_TIMER
from orchqueue_sim.agenda import Agenda
from orchqueue_sim.auditor import Auditor, Violation
from orchqueue_sim.bookkeeper import KEYS, TENANTS, Bookkeeper
from orchqueue_sim.disk import Disk, Writer
from orchqueue_sim.marks import Chronicle
from orchqueue_sim.plan import Plan

CHECK_EVERY = 16
FORGOTTEN = "forgotten"


class Engines(Protocol):
    """Who carries out what the core wants of engines."""

    def carry_out(self, effect: fx.AnyEffect) -> None:
        """Begin to do it; whatever comes of it is told by events later."""
        ...


class Life:
    """The daemon from boot to crash. Whatever fires while effects are carried out only schedules."""

    def __init__(
        self, plan: Plan, agenda: Agenda, rng: Random, disk: Disk, audit: Auditor, chronicle: Chronicle
    ) -> None:
        self._plan, self._agenda, self._rng, self._disk, self._audit = plan, agenda, rng, disk, audit
        self._chronicle = chronicle
        self.wall_offset_ms = 0
        self.core = Orchestrator(plan.settings)
        self.books = Bookkeeper(plan.settings)
        self.writer = Writer(disk, agenda, rng, plan.disk_ms if plan.has("slow_disk") else 1, chronicle)
        self.writer.on_committed, self.writer.on_stalled = self._release, self._stalled
        self.writer.on_healed = self._healed
        self.engines: Engines | None = None
        self.on_reply: Callable[[ReplyId, fx.AnyEffect], None] = lambda _reply, _effect: None
        self.on_stage: Callable[[TaskKey, str], None] = lambda _key, _stage: None
        self.alive = True
        self.texts: dict[TaskKey, list[str]] = {}
        self.finished: set[TaskKey] = set()
        self.timers: dict[TimerKey, object] = {}
        self._deferred: deque[tuple[int, fx.AnyEffect]] = deque()
        self._unopened: set[TaskKey] = set()
        self._told_all = False
        self._since_check = 0
        self.trace: Callable[[str, object], None] | None = None

    @property
    def now_ms(self) -> int:
        """Read this life's clock: the wall's at its start, monotonic from there on."""
        return self._agenda.now_ms + self.wall_offset_ms

    def boot(self) -> None:
        """Feed back what the disk kept, then start the replicas."""
        self.handle(ev.UsageBooked(self._disk.usage.since_ms, tuple(self._disk.usage.rows())))
        for accepted, ended in self._disk.finished():
            self.handle(ev.TaskRestored(accepted, ended))
        for task in self._disk.unfinished():
            if task.text and task.bound is not None:
                key = task_key(task.accepted.tenant, task.accepted.task_id)
                self.texts[key] = [task.text]
                self._audit.resumed(key)
            self.handle(ev.TaskRecovered(task.accepted, task.bound, task.text, task.tokens_out, task.followed))
        self._told_all = True
        self._carry_out(self.core.begin(self.now_ms))

    def post(self, event: ev.AnyEvent, delay_ms: int = 0) -> None:
        """Hand an event in later."""
        self._agenda.after(delay_ms, partial(self.handle, event))

    def handle(self, event: ev.AnyEvent) -> None:
        """Let the core handle an event and carry out what it wants."""
        if not self.alive:
            return
        if self.trace:
            self.trace("event", event)
        now_ms = self.now_ms
        effects = self.core.handle(now_ms, event)
        self._audit.decided(event, effects, now_ms)
        wrong = self.books.decided(now_ms, event, effects)
        if wrong:
            raise Violation(wrong)
        self._carry_out(effects)
        self._since_check += 1
        # Nobody can ask before the earlier life is told to its end.
        if self._since_check >= CHECK_EVERY and self._told_all:
            self.check()

    def check(self) -> None:
        """Check the core's own invariants."""
        self._since_check = 0
        found = violations(self.core.state)
        if found:
            raise Violation(f"invariant broken: {found[0]}")
        for tenant, key_id in product(TENANTS[: self._plan.tenants], KEYS):
            told = quotas.uses(self.core.state, tenant, key_id, self.now_ms)
            wrong = self.books.compare(tenant, key_id, told, self.now_ms)
            if wrong:
                raise Violation(wrong)

    def _carry_out(self, effects: list[fx.AnyEffect]) -> None:
        for effect in effects:
            if self.trace:
                self.trace("effect", effect)
            if isinstance(effect, fx.EmitTokens):
                self.texts[effect.key].extend(effect.texts)
                self.on_stage(effect.key, "between_tokens")
            elif isinstance(effect, fx.Record):
                self.writer.append(self._with_text(effect.record))
            elif isinstance(effect, fx.BEHIND_BARRIER):
                if isinstance(effect, fx.OpenStream):
                    self._unopened.add(effect.key)
                elif isinstance(effect, fx.Finish):
                    self.on_stage(effect.key, "before_end")
                if self._passes_stall(effect):
                    self._act(effect)
                else:
                    self._deferred.append((self.writer.appended, effect))
            else:
                self._pass(effect)
        self._release()

    def _passes_stall(self, effect: fx.AnyEffect) -> bool:
        stalled = self.writer.stalled and isinstance(effect, fx.Refuse)
        return stalled and isinstance(effect, fx.Refuse) and effect.refusal.outcome is Outcome.JOURNAL_DOWN

    def _with_text(self, record: AnyRecord) -> AnyRecord:
        if not isinstance(record, Ended):
            return record
        key = task_key(record.tenant, record.task_id)
        # A log that is not open yet is empty, even where an older task of that name still has one.
        text = "" if key in self._unopened else "".join(self.texts.get(key, ()))
        return msgspec.structs.replace(record, text=text)

    def _release(self) -> None:
        while self._deferred and self._deferred[0][0] <= self.writer.committed:
            self._act(self._deferred.popleft()[1])

    def _stalled(self, reason: str) -> None:
        waiting, self._deferred = self._deferred, deque()
        withdrawn: list[TaskKey] = []
        refusal = Refusal(Outcome.JOURNAL_DOWN, "the journal cannot be written", retry_after_ms=1_000)
        for seq, effect in waiting:
            if isinstance(effect, fx.Accept):
                self._tell(effect.reply, fx.Refuse(effect.reply, refusal))
                if not effect.repeated:
                    withdrawn.append(effect.key)
            else:
                self._deferred.append((seq, effect))
        self._agenda.after(0, partial(self._tell_stall, tuple(withdrawn), reason))

    def _tell_stall(self, withdrawn: tuple[TaskKey, ...], reason: str) -> None:
        if self.alive and self.core.state.journal_problem is None and self.writer.stalled:
            self.handle(ev.JournalStalled(reason))
        if withdrawn:
            self.handle(ev.AcceptsWithdrawn(withdrawn))

    def _healed(self) -> None:
        self.post(ev.JournalHealed())

    def _tell(self, reply: ReplyId, effect: fx.AnyEffect) -> None:
        if reply == 0:
            return
        self._audit.told(effect)
        self.on_reply(reply, effect)

    def _act(self, effect: fx.AnyEffect) -> None:
        if self.trace:
            self.trace("done", effect)
        match effect:
            case fx.Accept() | fx.Refuse() | fx.Done():
                self._tell(effect.reply, effect)
            case fx.OpenStream():
                self._unopened.discard(effect.key)
                if effect.key not in self.texts:
                    self.texts[effect.key] = []
                    self.finished.discard(effect.key)
                    self._audit.opened(effect.key)
            case fx.StartAttempt() | fx.AbortAttempt():
                self._audit.started(effect)
                self._engine(effect)
            case fx.Finish():
                self.finished.add(effect.key)
                self._audit.finished(effect, "".join(self.texts.get(effect.key, ())))
            case fx.Forget():
                self.texts.pop(effect.key, None)
                self._audit.forgotten(effect.key)
                self.on_stage(effect.key, FORGOTTEN)
            case fx.EmitStarted():
                self._audit.started(effect)
            case _:
                raise AssertionError(f"{effect} is not behind the barrier")

    def _pass(self, effect: fx.AnyEffect) -> None:
        match effect:
            case fx.SetTimer():
                self._set_timer(effect)
            case fx.ClearTimer():
                self.timers.pop(effect.key, None)
            case fx.Count() | fx.Observe() | fx.Note() | fx.LogDecision() | fx.EmitMetrics():
                pass
            case _:
                self._engine(effect)

    def _engine(self, effect: fx.AnyEffect) -> None:
        assert self.engines is not None
        self.engines.carry_out(effect)

    def _set_timer(self, effect: fx.SetTimer) -> None:
        token = object()
        self.timers[effect.key] = token
        self._agenda.at(effect.at_ms - self.wall_offset_ms, partial(self._due, effect.key, token))

    def _due(self, key: TimerKey, token: object) -> None:
        if not self.alive or self.timers.get(key) is not token:
            return
        del self.timers[key]
        if self._plan.has("late_timers") and self._rng.random() < 0.3:
            late_ms = self._rng.randint(1, 50)
            self._chronicle.struck("late_timers", f"{' '.join(key)} fires {late_ms} ms late")
            self.post(ev.TimerFired(key), late_ms)
        else:
            self.handle(ev.TimerFired(key))

    def crash(self) -> None:
        """Die at once: nothing that was not committed survives, nobody who waits is answered."""
        self.alive = False
        self.writer.crash()

    def stop(self) -> None:
        """End in order: what was said is recorded, everything recorded is committed, everything decided is told."""
        self.handle(ev.TimerFired(TEXT_TIMER))
        self._audit.stopped()
        self.alive = False
        self.writer.close()
        self.writer.committed = self.writer.appended
        while self._deferred:
            effect = self._deferred.popleft()[1]
            if not isinstance(effect, fx.StartAttempt | fx.AbortAttempt):
                self._act(effect)
