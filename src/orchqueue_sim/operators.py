"""Simulated operators: they drain, reload, roll back and change settings while everything runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import msgspec

from orchqueue.core import events as ev
from orchqueue.core import views
from orchqueue.core.ids import ReplicaId, ReplyId, Tenant
from orchqueue.core.settings import PoolSettings, Settings
from orchqueue_sim.agenda import Agenda
from orchqueue_sim.life import Life
from orchqueue_sim.marks import Chronicle
from orchqueue_sim.plan import Plan, classes

NOBODY = ReplyId(0)


class Operators:
    """Everybody with a control key, and the scrapers."""

    def __init__(
        self, plan: Plan, agenda: Agenda, rng: Random, life: Callable[[], Life | None], chronicle: Chronicle
    ) -> None:
        self._plan, self._agenda, self._rng, self._life = plan, agenda, rng, life
        self._chronicle = chronicle

    def begin(self) -> None:
        """Plan their deeds."""
        deeds: list[tuple[str, Callable[[], ev.AnyEvent]]] = [
            ("drain", self._drain),
            ("reload", self._reload),
            ("bad_reload", self._bad_reload),
            ("reload", self._rollback),
            ("settings", self._settings),
        ]
        for fault, deed in deeds:
            if self._plan.has(fault):
                for _ in range(self._rng.choice((1, 2, 4))):
                    self._at_some_time(partial(self._disturb, fault, deed))
        for _ in range(6):
            self._at_some_time(self._look)
            self._at_some_time(partial(self._do, self._scrape))

    def _at_some_time(self, act: Callable[[], None]) -> None:
        self._agenda.after(self._rng.randint(0, self._plan.span_ms), act)

    def _do(self, deed: Callable[[], ev.AnyEvent]) -> None:
        life = self._life()
        if life is not None:
            life.handle(deed())

    def _disturb(self, fault: str, deed: Callable[[], ev.AnyEvent]) -> None:
        if self._life() is not None:
            self._chronicle.struck(fault, deed.__name__.strip("_"))
            self._do(deed)

    def _look(self) -> None:
        """Tell readers their figures, and look at everything: looking changes nothing."""
        life = self._life()
        if life is None:
            return
        state, now_ms = life.core.state, life.now_ms
        sessions = len(state.sessions)
        views.pools(state)
        views.session(state, (Tenant("t0"), "s0"), now_ms)
        for key in list(state.tasks):
            views.task(state, key, now_ms)
        assert len(state.sessions) == sessions, "a look created a session"
        life.handle(ev.Ticked())

    def _pool(self) -> PoolSettings:
        return self._rng.choice(self._plan.settings.pools)

    def _scrape(self) -> ev.AnyEvent:
        replica = self._rng.choice(self._pool().replicas).replica_id
        figures = ev.DeviceFigures("cuda:0", 50, 1, self._rng.choice((None, 1, 2)))
        return ev.ReplicaScraped(ReplicaId(replica), 0.5, (figures,))

    def _drain(self) -> ev.AnyEvent:
        """Drain a pool; now and then its model is replaced before that is over."""
        pool = self._pool()
        if self._plan.has("reload") and self._rng.random() < 0.5:
            again = ev.ReloadRequested(NOBODY, pool.pool_id, pool.model_ref)
            self._agenda.after(self._rng.randint(0, 100), partial(self._do, lambda: again))
        return ev.DrainRequested(NOBODY, pool.pool_id, self._rng.choice((0, 100, 5_000)))

    def _reload(self) -> ev.AnyEvent:
        """Reload a pool, whole or for a share; now and then that share is made whole before it has proven itself."""
        pool = self._pool()
        model_ref = self._rng.choice((pool.model_ref, f"{pool.model_ref}-new"))
        percent = self._percent()
        if percent < 100 and self._rng.random() < 0.5:
            whole = ev.ReloadRequested(NOBODY, pool.pool_id, model_ref)
            self._agenda.after(self._rng.randint(0, 2_000), partial(self._do, lambda: whole))
        return ev.ReloadRequested(NOBODY, pool.pool_id, model_ref, percent)

    def _bad_reload(self) -> ev.AnyEvent:
        model_ref = self._rng.choice(("bad", "broken"))
        return ev.ReloadRequested(NOBODY, self._pool().pool_id, model_ref, self._percent())

    def _percent(self) -> int:
        return self._rng.choice((100, 100, 10, 50, 90))

    def _rollback(self) -> ev.AnyEvent:
        return ev.RollbackRequested(NOBODY, self._pool().pool_id)

    def _settings(self) -> ev.AnyEvent:
        old = self._plan.settings
        return ev.SettingsReplaced(NOBODY, self._changed(old))

    def _changed(self, old: Settings) -> Settings:
        pools = tuple(
            msgspec.structs.replace(p, capacity=self._rng.choice((2, 8, 64)), classes=classes(self._rng))
            for p in old.pools
        )
        return msgspec.structs.replace(old, pools=pools)
