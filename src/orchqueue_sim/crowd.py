"""Simulated clients: they ask, ask again, change their minds, read, leave, and come back after a refusal or a crash."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import ReplyId, TaskKey
from orchqueue.core.request import TaskSpec
from orchqueue_sim.agenda import Agenda
from orchqueue_sim.bookkeeper import key_of
from orchqueue_sim.life import FORGOTTEN, Life
from orchqueue_sim.marks import Chronicle
from orchqueue_sim.plan import Plan
from orchqueue_sim.wishes import Wish, draw_wish

PATIENCE_MS = 3_000
TRIES_AT_MOST = 5
DEEDS = ("asks again with the same body", "asks again with another body", "cancels", "cancels twice", "reads", "leaves")


class Crowd:
    """All clients of a run. `life` gives the daemon that is up now, if one is."""

    def __init__(
        self, plan: Plan, agenda: Agenda, rng: Random, life: Callable[[], Life | None], chronicle: Chronicle
    ) -> None:
        self._plan, self._agenda, self._rng, self._life = plan, agenda, rng, life
        self._chronicle = chronicle
        self._last_reply = 0
        self._waiting: dict[ReplyId, Wish] = {}
        self.wishes = [draw_wish(plan, rng, number) for number in range(plan.tasks)]
        self._of_key = {wish.key: wish for wish in self.wishes}
        self._canceled: set[TaskKey] = set()
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

    def _reply(self) -> ReplyId:
        self._last_reply += 1
        return ReplyId(self._last_reply)

    def _submit(self, wish: Wish) -> None:
        if wish.answered and wish.tries >= TRIES_AT_MOST:
            return
        reply = self._send(wish, wish.spec)
        wish.tries += 1
        if wish.vanishes == "before_reply":
            self._vanish(wish)
            return
        self._waiting[reply] = wish
        wish.answered = False
        self._agenda.after(PATIENCE_MS, partial(self._lose_patience, reply))

    def _send(self, wish: Wish, spec: TaskSpec) -> ReplyId:
        reply = self._reply()
        life = self._life()
        if life is not None:
            if wish.odd:
                self._chronicle.struck("odd_requests", wish.task_id)
            if wish.key in life.core.state.tasks:
                self._chronicle.client(DEEDS[0] if spec is wish.spec else DEEDS[1])
            life.handle(ev.TaskSubmitted(reply, wish.task_id, wish.tenant, spec, key_of(wish.task_id)))
        return reply

    def _vanish(self, wish: Wish) -> None:
        """Be gone for good: nobody waits for an answer or reads any more."""
        if not wish.vanishes:
            return
        self._chronicle.struck(f"vanishing_{wish.vanishes}", f"the client of {wish.task_id} is gone")
        wish.answered, wish.tries, wish.vanishes = True, TRIES_AT_MOST, ""
        if wish.readers:
            wish.readers = 1
            self._leave(wish)

    def on_stage(self, key: TaskKey, stage: str) -> None:
        """See how far a task has come: some clients read from here on, or are gone."""
        wish = self._of_key[key]
        if stage == FORGOTTEN:
            wish.readers = 0  # Their log is gone; a task of the same name has one of its own.
        if not wish.vanishes:
            return
        if stage == "before_started" and wish.vanishes != "before_reply":
            self._agenda.after(0, partial(self._read, wish))
        if stage == wish.vanishes:
            # What happens while effects are carried out only posts.
            self._agenda.after(0, partial(self._vanish, wish))

    def _ask_otherwise(self, wish: Wish, other: TaskSpec) -> None:
        self._send(wish, other)

    def _lose_patience(self, reply: ReplyId) -> None:
        wish = self._waiting.pop(reply, None)
        if wish is not None and not wish.answered and wish.tries < TRIES_AT_MOST:
            self._submit(wish)

    def on_reply(self, reply: ReplyId, effect: fx.AnyEffect) -> None:
        """Hear an answer; after a refusal that may be tried again, half of the clients do when they were told to."""
        if isinstance(effect, fx.Accept):
            self.on_stage(effect.key, "before_started")
        if self._plan.has("lost_replies") and self._rng.random() < 0.2:
            self._chronicle.struck("lost_replies", f"nobody hears {type(effect).__name__} {reply}")
            return  # the connection broke; patience runs out and the same request is sent again
        wish = self._waiting.pop(reply, None)
        if wish is None:
            return
        wish.answered = True
        if not isinstance(effect, fx.Refuse):
            return
        self.refused += 1
        refusal = effect.refusal
        if refusal.meaning.retriable and wish.tries < TRIES_AT_MOST and self._rng.random() < 0.5:
            self._agenda.after(refusal.retry_after_ms or 1, partial(self._submit, wish))

    def _cancel(self, wish: Wish) -> None:
        life = self._life()
        if life is not None:
            self._chronicle.client("cancels twice" if wish.key in self._canceled else "cancels")
            self._canceled.add(wish.key)
            life.handle(ev.CancelRequested(self._reply(), wish.key))

    def _read(self, wish: Wish) -> None:
        life = self._life()
        if life is not None and wish.key in life.texts:
            wish.readers += 1
            self._chronicle.client("reads")
            life.handle(ev.ReaderAttached(wish.key, wish.readers))

    def _leave(self, wish: Wish) -> None:
        life = self._life()
        if life is not None and wish.readers:
            wish.readers -= 1
            self._chronicle.client("leaves")
            if wish.key in life.finished:
                return  # Nobody is told who leaves a stream that has ended.
            life.handle(ev.ReaderDetached(wish.key, wish.readers))

    def _end_session(self, wish: Wish) -> None:
        life = self._life()
        if life is not None and wish.spec.session_id is not None:
            life.handle(ev.SessionDeleteRequested(self._reply(), (wish.tenant, wish.spec.session_id)))

    def disconnected(self) -> None:
        """Lose every connection: the daemon died. Most readers come back to it."""
        for wish in self.wishes:
            if wish.readers and self._rng.random() < 0.7:
                self._agenda.after(self._rng.choice((600, 900, 3_000)), partial(self._read, wish))
            wish.readers = 0
