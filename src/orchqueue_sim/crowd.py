"""Simulated clients: they ask, ask again, change their minds, read, leave, and come back after a refusal or a crash."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from uuid import UUID

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplyId, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.request import PlacementWish, TaskSpec, with_seed
from orchqueue_sim.agenda import Agenda
from orchqueue_sim.bookkeeper import key_of
from orchqueue_sim.life import Life
from orchqueue_sim.plan import Plan

PATIENCE_MS = 3_000
TRIES_AT_MOST = 5


class Wish(msgspec.Struct):
    """One task that a client wants done."""

    task_id: TaskId
    tenant: Tenant
    spec: TaskSpec
    tries: int = 0
    answered: bool = False
    readers: int = 0

    @property
    def key(self) -> TaskKey:
        """Name the task across tenants."""
        return task_key(self.tenant, self.task_id)


class Crowd:
    """All clients of a run. `life` gives the daemon that is up now, if one is."""

    def __init__(self, plan: Plan, agenda: Agenda, rng: Random, life: Callable[[], Life | None]) -> None:
        self._plan, self._agenda, self._rng, self._life = plan, agenda, rng, life
        self._last_reply = 0
        self._waiting: dict[ReplyId, Wish] = {}
        self.wishes = [self._wish(number) for number in range(plan.tasks)]
        self.refused = 0

    def begin(self) -> None:
        """Plan everybody's first request; half of the runs see bursts."""
        bursts = self._rng.random() < 0.5
        for wish in self.wishes:
            at_ms = (
                self._plan.peak_ms if bursts and self._rng.random() < 0.7 else self._rng.randint(0, self._plan.span_ms)
            )
            self._agenda.after(at_ms, partial(self._submit, wish))
            self._plan_whims(wish, at_ms)

    def _plan_whims(self, wish: Wish, at_ms: int) -> None:
        rng = self._rng
        soon = partial(rng.randint, 0, rng.choice((5, 200, 3_000)))
        if rng.random() < 0.15:
            self._agenda.after(at_ms + soon(), partial(self._submit, wish))
        if rng.random() < 0.1:
            other = msgspec.structs.replace(wish.spec, prompt="another body")
            self._agenda.after(at_ms + soon(), partial(self._ask_otherwise, wish, other))
        for chance in (0.25, 0.1):
            if rng.random() < chance:
                self._agenda.after(at_ms + soon(), partial(self._cancel, wish))
        for _ in range(rng.choice((0, 0, 1, 2))):
            come_ms = at_ms + soon()
            self._agenda.after(come_ms, partial(self._read, wish))
            if rng.random() < 0.7:
                self._agenda.after(come_ms + soon(), partial(self._leave, wish))
        if wish.spec.session_id is not None and rng.random() < 0.15:
            self._agenda.after(at_ms + soon(), partial(self._end_session, wish))

    def _wish(self, number: int) -> Wish:
        rng, plan = self._rng, self._plan
        task_id = TaskId(str(UUID(int=rng.getrandbits(128), version=4)))
        models = sorted({p.model_ref for p in plan.settings.pools})
        size = rng.choice((0, 0, 0, 60, 260, 3_000))
        spec = TaskSpec(
            prompt=f"task {number} " + "x" * size,
            session_id=f"s{rng.randrange(plan.sessions)}" if plan.sessions and rng.random() < 0.5 else None,
            model_ref=rng.choice(models) if rng.random() < (0.9 if len(models) > 1 else 0.3) else None,
            priority=rng.choice(("interactive", "interactive", "batch")),
            determinism=rng.choice((None, None, "best_effort", "strict")),
            max_tokens=rng.choice((1, 4, 16, 64)),
            deadline_ms=rng.choice((None, None, None, None, None, 60, 500, 5_000)),
            expected_tokens=rng.choice((None, 8)),
            kv_hint=rng.choice(("reuse", "reuse", "cold")),
            on_disconnect=rng.choice((None, None, "cancel", "continue")),
            placement=self._placement(),
        )
        tenant = Tenant(f"t{rng.randrange(plan.tenants)}")
        return Wish(task_id, tenant, with_seed(spec, task_id))

    def _placement(self) -> PlacementWish:
        pools = [p.pool_id for p in self._plan.settings.pools]
        if len(pools) == 1 or self._rng.random() < 0.6:
            return PlacementWish()
        if self._rng.random() < 0.3:
            return PlacementWish(avoid=(self._rng.choice(pools),))
        return PlacementWish(self._rng.choice(("prefer", "pin")), (self._rng.choice(pools),))

    def _reply(self) -> ReplyId:
        self._last_reply += 1
        return ReplyId(self._last_reply)

    def _submit(self, wish: Wish) -> None:
        if wish.answered and wish.tries >= TRIES_AT_MOST:
            return
        reply = self._send(wish, wish.spec)
        self._waiting[reply] = wish
        wish.tries += 1
        wish.answered = False
        self._agenda.after(PATIENCE_MS, partial(self._lose_patience, reply))

    def _send(self, wish: Wish, spec: TaskSpec) -> ReplyId:
        reply = self._reply()
        life = self._life()
        if life is not None:
            life.handle(ev.TaskSubmitted(reply, wish.task_id, wish.tenant, spec, key_of(wish.task_id)))
        return reply

    def _ask_otherwise(self, wish: Wish, other: TaskSpec) -> None:
        self._send(wish, other)

    def _lose_patience(self, reply: ReplyId) -> None:
        wish = self._waiting.pop(reply, None)
        if wish is not None and not wish.answered and wish.tries < TRIES_AT_MOST:
            self._submit(wish)

    def on_reply(self, reply: ReplyId, effect: fx.AnyEffect) -> None:
        """Hear an answer; after a refusal that may be tried again, half of the clients do when they were told to."""
        if self._plan.has("lost_replies") and self._rng.random() < 0.2:
            return  # the connection broke; patience runs out and the same request is sent again
        wish = self._waiting.pop(reply, None)
        if wish is None:
            return
        wish.answered = True
        if not isinstance(effect, fx.Refuse):
            return
        self.refused += 1
        refusal = effect.refusal
        if refusal.meaning.status in (429, 503) and refusal.retry_after_ms is None:
            raise AssertionError(f"{refusal.outcome} without retry_after_ms")
        if refusal.meaning.retriable and wish.tries < TRIES_AT_MOST and self._rng.random() < 0.5:
            self._agenda.after(refusal.retry_after_ms or 1, partial(self._submit, wish))

    def _cancel(self, wish: Wish) -> None:
        life = self._life()
        if life is not None:
            life.handle(ev.CancelRequested(self._reply(), wish.key))

    def _read(self, wish: Wish) -> None:
        life = self._life()
        if life is not None and wish.key in life.texts:
            wish.readers += 1
            life.handle(ev.ReaderAttached(wish.key, wish.readers))

    def _leave(self, wish: Wish) -> None:
        life = self._life()
        if life is not None and wish.readers:
            wish.readers -= 1
            life.handle(ev.ReaderDetached(wish.key, wish.readers))

    def _end_session(self, wish: Wish) -> None:
        life = self._life()
        if life is not None and wish.spec.session_id is not None:
            life.handle(ev.SessionDeleteRequested(self._reply(), (wish.tenant, wish.spec.session_id)))

    def disconnected(self) -> None:
        """Lose every connection: the daemon died."""
        for wish in self.wishes:
            wish.readers = 0
