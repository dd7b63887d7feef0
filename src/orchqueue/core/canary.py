"""A new model on trial: which share of the starts it gets, and whether it keeps its service levels.

Nothing here is random: starts are counted, so the same tasks in the same order go the same ways.

Req: ORCH-4131, ORCH-4329, ORCH-4332
"""

from __future__ import annotations

import msgspec

from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.settings import CanaryLevels
from orchqueue.core.task import Task

ERRORS = frozenset(
    {
        Outcome.DIVERGED,
        Outcome.ENGINE_LOST,
        Outcome.POISON,
        Outcome.REPLICAS_EXHAUSTED,
        Outcome.WALL_TIMEOUT,
        Outcome.IDLE_TIMEOUT,
        Outcome.FIRST_TOKEN_TIMEOUT,
    }
)


class Canary(msgspec.Struct):
    """What is tried, where, and how it goes. Nothing is tried or counted before all its replicas are up: `trying`.

    Shape: `starts` counts tasks that might have gone either way, `tried` those of them that got the new model; `ended` those that
    the engine ended, well or not, `errors` the latter; `late` of the `first_tokens` came too late.
    """

    model_ref: str
    percent: int
    replica_ids: frozenset[ReplicaId]
    trying: bool = False
    starts: int = 0
    tried: int = 0
    ended: int = 0
    errors: int = 0
    first_tokens: int = 0
    late: int = 0

    @property
    def owed(self) -> bool:
        """Tell whether the next start may be the new model's without its getting more than its share.

        >>> Canary("m", 50, frozenset(), trying=True).owed, Canary("m", 50, frozenset(), trying=True, starts=1).owed
        (False, True)
        """
        return self.trying and (self.tried + 1) * 100 <= self.percent * (self.starts + 1)

    def open_to(self, task: Task) -> bool:
        """Tell whether a task may go either way: it names no model, has no text yet, and was not tried here in vain.

        Req: ORCH-4330
        """
        return task.spec.model_ref is None and not task.emitted_bytes and not task.tried & self.replica_ids

    def note_start(self, task: Task, replica_id: ReplicaId) -> None:
        """Count a start."""
        if self.trying and self.open_to(task):
            self.starts += 1
            self.tried += replica_id in self.replica_ids

    def note_failure(self, task: Task) -> None:
        """Count an attempt that failed and is made again, where it was the new model's."""
        if task.ran_model_ref == self.model_ref:
            self.ended += 1
            self.errors += 1

    def note_end(self, task: Task, outcome: Outcome, levels: CanaryLevels) -> None:
        """Count the end of a task that the new model ran. What its caller did to it says nothing about the model."""
        if task.ran_model_ref != self.model_ref or task.bound_at_ms is None:
            return
        if outcome in ERRORS:
            self.ended += 1
            self.errors += 1
        elif outcome is Outcome.COMPLETED:
            self.ended += 1
        if task.first_token_at_ms is not None and task.spec.priority == "interactive":
            self.first_tokens += 1
            self.late += task.first_token_at_ms - task.bound_at_ms > levels.first_token_ms

    def broken(self, levels: CanaryLevels) -> str:
        """Say which level is broken, empty when all are kept.

        It is broken as soon as `tasks` tasks could not keep it any more, so nobody waits for the last of them.

        Req: ORCH-4332
        """
        of = max(levels.tasks, self.ended)
        if self.errors * 1000 > levels.errors_per_mille * of:
            return f"{self.errors} of {self.ended} tasks failed, {levels.errors_per_mille} in 1000 may"
        if self.late * 100 > levels.late_percent * of:
            return (
                f"{self.late} of {self.first_tokens} first tokens took more than {levels.first_token_ms} ms,"
                f" {levels.late_percent} percent may"
            )
        return ""

    def kept(self, levels: CanaryLevels) -> bool:
        """Tell whether enough tasks have kept all levels."""
        return self.ended >= levels.tasks and not self.broken(levels)
