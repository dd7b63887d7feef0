"""The auditor's own count of a canary's share: no model on trial gets more of the starts than it was promised.

It follows effects only: which replica was started with which model, what the log of decisions says is tried, and where
tasks go. A start that has text to go on from is no part of the share.

Req: ORCH-4329
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core.decisions import PoolChanged
from orchqueue.core.ids import PoolId, ReplicaId, TaskKey
from orchqueue.core.settings import Settings


class Share(msgspec.Struct):
    """What one canary has had so far."""

    model_ref: str
    percent: int
    starts: int = 0
    tried: int = 0


class Trial:
    """Every canary of one life of the daemon."""

    def __init__(self, settings: Settings) -> None:
        self._pool_of = {r.replica_id: p.pool_id for p in settings.pools for r in p.replicas}
        self.life_over()

    def life_over(self) -> None:
        """Forget what only a life of the daemon knows."""
        self._shares: dict[PoolId, Share] = {}
        self._models: dict[ReplicaId, str] = {}
        self._said: set[TaskKey] = set()

    def decided(self, effects: Sequence[fx.AnyEffect]) -> str:
        """See the effects of one event; tell which share was exceeded, empty when none was."""
        for effect in effects:
            match effect:
                case fx.StartReplica():
                    self._models[effect.replica_id] = effect.model_ref
                case fx.LogDecision(decision=PoolChanged() as change):
                    self._changed(change)
                case fx.EmitTokens():
                    self._said.add(effect.key)
                case fx.Finish():
                    self._said.discard(effect.key)
                case fx.StartAttempt() if effect.spec.model_ref is None and effect.key not in self._said:
                    problem = self._started(effect.replica_id)
                    if problem:
                        return problem
        return ""

    def _changed(self, change: PoolChanged) -> None:
        pool_id = PoolId(change.key)
        if change.canary_model_ref is None or change.canary_percent is None:
            self._shares.pop(pool_id, None)
        elif pool_id not in self._shares:
            self._shares[pool_id] = Share(change.canary_model_ref, change.canary_percent)

    def _started(self, replica_id: ReplicaId) -> str:
        share = self._shares.get(self._pool_of[replica_id])
        if share is None:
            return ""
        share.starts += 1
        share.tried += self._models.get(replica_id) == share.model_ref
        if share.tried * 100 > share.percent * share.starts:
            return (
                f"{share.model_ref} got {share.tried} of {share.starts} starts, {share.percent} percent are its share"
            )
        return ""
