"""Runs attempts: starts them on engines and turns what engines say into events.

Req: ORCH-3017, ORCH-4164
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchqueue.core.effects import StartAttempt
from orchqueue.core.events import (
    AnyEvent,
    AttemptClosed,
    AttemptCompleted,
    AttemptFailed,
    AttemptFailure,
    ChunksArrived,
)
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.ports.engine import AttemptHandle, Completion, Replica

Deliver = Callable[[AnyEvent], None]


class EngineDirectory(Protocol):
    """Who knows the connection of a replica."""

    def engine_of(self, replica_id: ReplicaId) -> Replica | None:
        """Give the engine of a replica that is up."""
        ...


class Reporter:
    """One attempt's sink: an event per call, nothing after `closed`."""

    __slots__ = ("_attempt_id", "_deliver", "_forget", "open")

    def __init__(self, attempt_id: AttemptId, deliver: Deliver, forget: Callable[[AttemptId], None]) -> None:
        self._attempt_id = attempt_id
        self._deliver = deliver
        self._forget = forget
        self.open = True

    def chunks(self, texts: tuple[str, ...], tokens_out: int) -> None:
        """Report text."""
        if self.open:
            self._deliver(ChunksArrived(self._attempt_id, texts, tokens_out))

    def completed(self, completion: Completion) -> None:
        """Report the engine's own end."""
        if self.open:
            self._deliver(
                AttemptCompleted(
                    self._attempt_id,
                    completion.finish_reason,
                    completion.tokens_in,
                    completion.tokens_out,
                    completion.prefill_ms,
                    completion.decode_ms,
                    completion.cached_tokens,
                )
            )

    def failed(self, failure: AttemptFailure, detail: str) -> None:
        """Report a failure."""
        if self.open:
            self._deliver(AttemptFailed(self._attempt_id, failure, detail))

    def closed(self) -> None:
        """Report that the slot is free."""
        if self.open:
            self.open = False
            self._forget(self._attempt_id)
            self._deliver(AttemptClosed(self._attempt_id))


class Attempts:
    """All running attempts."""

    def __init__(self, engines: EngineDirectory, deliver: Deliver) -> None:
        self._engines = engines
        self._deliver = deliver
        self._handles: dict[AttemptId, AttemptHandle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def start(self, effect: StartAttempt) -> None:
        """Begin an attempt; a replica that is gone by now counts as lost."""
        reporter = Reporter(effect.attempt_id, self._deliver, self._drop)
        engine = self._engines.engine_of(effect.replica_id)
        if engine is None:
            reporter.failed("lost", f"{effect.replica_id} is gone")
            reporter.closed()
            return
        self._handles[effect.attempt_id] = engine.start(
            effect.spec, effect.profile, effect.cache_prompt, reporter, effect.said
        )
        if not reporter.open:
            self._drop(effect.attempt_id)

    def abort(self, attempt_id: AttemptId) -> None:
        """Stop an attempt, unless it has closed by itself."""
        handle = self._handles.get(attempt_id)
        if handle is not None:
            handle.abort()

    def _drop(self, attempt_id: AttemptId) -> None:
        self._handles.pop(attempt_id, None)
