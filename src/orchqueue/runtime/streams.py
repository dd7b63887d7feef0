"""All tasks' streams: what the interpreter appends to and readers attach to.

Everything runs on the event loop's thread and nothing here waits: appending writes to every reader's socket at once.

Req: ORCH-2002
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from orchqueue.core.effects import EmitMetrics, EmitStarted
from orchqueue.core.ids import PoolId, ReplicaId, TaskKey, task_id_of, task_key
from orchqueue.core.records import Accepted, Bound, Ended
from orchqueue.core.request import Workload
from orchqueue.runtime.stream_frames import (
    Position,
    ReceiptView,
    is_error,
    metrics_frame,
    receipt_view,
    started_frame,
    terminal_frame,
)
from orchqueue.runtime.stream_log import Reader, Sink, StreamLog

HEARTBEAT_MS = 15_000
HEARTBEAT_TICKS = 3
TICK_STEP_MS = 1_000
STALLED_READER_MS = 30_000

ReadersChanged = Callable[[TaskKey, int], None]


class AttachRefusal(Enum):
    """Why a reader cannot follow a task. `MISMATCH`: its bytes are not ours; `ALREADY_ENDED`: it has everything."""

    UNKNOWN = "unknown"
    MISMATCH = "mismatch"
    ALREADY_ENDED = "already_ended"
    TOO_MANY = "too_many"


def _ignore(_key: TaskKey, _readers: int) -> None:
    return None


class Streams:
    """The stream logs of all remembered tasks.

    `attached` and `detached` are told the task and how many readers follow it now.
    """

    def __init__(
        self,
        *,
        readers_per_task: int = 16,
        stalled_reader_ms: int = STALLED_READER_MS,
        heartbeat_ms: int = HEARTBEAT_MS,
        attached: ReadersChanged = _ignore,
        detached: ReadersChanged = _ignore,
    ) -> None:
        self.readers_per_task = readers_per_task
        self.attached = attached
        self.detached = detached
        self.retained_bytes = 0
        self.readers = 0
        self.tick_ms = max(1, heartbeat_ms // (HEARTBEAT_TICKS * TICK_STEP_MS)) * TICK_STEP_MS
        self._stall_ticks = -(-stalled_reader_ms // self.tick_ms) + 1
        self._logs: dict[TaskKey, StreamLog] = {}
        self._followed: dict[StreamLog, None] = {}

    def __contains__(self, key: TaskKey) -> bool:
        return key in self._logs

    def open(self, key: TaskKey, correlation_id: str = "", workload: Workload = "completion") -> None:
        """Start an empty log. `correlation_id` stands in a later `error` event; without it the task's id does."""
        if key not in self._logs:
            log = StreamLog(key, correlation_id or task_id_of(key), self._on_leave)
            log.is_result = workload != "completion"
            self._logs[key] = log

    def started(self, effect: EmitStarted) -> None:
        """Append the `started` event; a second one is ignored."""
        self.retained_bytes += self._logs[effect.key].append_started(started_frame(effect))

    def tokens(self, key: TaskKey, texts: tuple[str, ...]) -> None:
        """Append a `token` event for each non-empty piece of whole characters.

        Cost: hot path; no allocation beyond the frames themselves.
        Req: ORCH-4293
        """
        self.retained_bytes += self._logs[key].append_tokens(texts)

    def metrics(self, effect: EmitMetrics) -> None:
        """Send a `metrics` event to readers that keep up; it is not kept."""
        log = self._logs.get(effect.key)
        if log is not None and log.live:
            log.send_unkept(metrics_frame(effect))

    def finish(self, key: TaskKey, ended: Ended, *, durable: bool = True) -> None:
        """Append the one terminal event; readers that have everything are let go."""
        log = self._logs[key]
        if ended.receipt is not None:
            log.receipt = receipt_view(ended.receipt, log.text, durable=durable)
        at = Position(len(log.text), log.position.crc, ended=True)
        result = bytes(log.text) if log.is_result else b""
        frame = terminal_frame(ended, at, log.receipt, log.correlation_id, result)
        self.retained_bytes += log.append_terminal(frame, failed=is_error(ended.outcome))

    def forget(self, key: TaskKey) -> None:
        """Drop a log. Readers of an ended task still get all of it; those of an unended one are let go."""
        log = self._logs.pop(key, None)
        if log is None:
            return
        self.retained_bytes -= log.retained_bytes
        if log.terminal is None:
            log.release()

    def restore(self, accepted: Accepted, ended: Ended) -> None:
        """Rebuild the log of a task that ended in an earlier life: its text comes back as one event.

        Req: ORCH-4182
        """
        key = task_key(accepted.tenant, accepted.task_id)
        self.open(key, accepted.correlation_id, accepted.spec.workload)
        if ended.started_at_ms is not None and ended.replica_id is not None:
            by = ended.receipt
            engine = (by.engine_version, by.model_digest) if by else ("", "")
            self.started(_started_before(accepted, ended.pool_id, ended.replica_id, engine, ended.started_at_ms))
        if ended.text:
            self.tokens(key, (ended.text,))
        self.finish(key, ended)

    def resume(self, accepted: Accepted, bound: Bound, text: str) -> None:
        """Rebuild the log of a task that was running in an earlier life, as far as its text was recorded.

        Req: ORCH-4183
        """
        key = task_key(accepted.tenant, accepted.task_id)
        self.open(key, accepted.correlation_id, accepted.spec.workload)
        engine = (bound.engine_version, bound.model_digest)
        self.started(_started_before(accepted, bound.pool_id or None, bound.replica_id, engine, bound.bound_at_ms))
        self.tokens(key, (text,))

    def text(self, key: TaskKey) -> str:
        """Give the text so far; empty for an unknown task."""
        log = self._logs.get(key)
        return log.text.decode() if log is not None else ""

    def ended_without_text(self, key: TaskKey) -> bool:
        """Tell whether a task is over and streamed nothing."""
        log = self._logs.get(key)
        return log is not None and log.terminal is not None and not log.text

    def receipt(self, key: TaskKey) -> ReceiptView | None:
        """Give the receipt of an ended task."""
        log = self._logs.get(key)
        return log.receipt if log is not None else None

    def correlation_id(self, key: TaskKey) -> str:
        """Give the correlation id under which the task was posted."""
        log = self._logs.get(key)
        return log.correlation_id if log is not None else task_id_of(key)

    def attach(self, key: TaskKey, position: Position | None, sink: Sink) -> Reader | AttachRefusal:
        """Let a reader follow a task from a position, or from the start.

        The reader is paused: nothing is written before its owner calls `resume`.

        Req: ORCH-4076, ORCH-4103
        """
        log = self._logs.get(key)
        if log is None:
            return AttachRefusal.UNKNOWN
        if position is not None and position.ended:
            return AttachRefusal.ALREADY_ENDED if position == log.terminal else AttachRefusal.MISMATCH
        if len(log.readers) >= self.readers_per_task:
            return AttachRefusal.TOO_MANY
        reader = Reader(log, sink)
        if not log.seek(reader, position):
            reader.log = None
            return AttachRefusal.MISMATCH
        log.readers.append(reader)
        self._followed[log] = None
        self.readers += 1
        self.attached(key, len(log.readers))
        return reader

    def tick(self) -> None:
        """Send heartbeats and drop stalled readers; to be called every `tick_ms`.

        A reader hears something at least every `heartbeat_ms`, 3000 or more; one that took nothing for `stalled_reader_ms`, to
        the next tick, is dropped.

        Req: ORCH-4105, ORCH-4108
        """
        for log in tuple(self._followed):
            log.quiet_ticks += 1
            log.ahead_ticks += 1
            if log.quiet_ticks >= HEARTBEAT_TICKS:
                log.quiet_ticks = 0
                log.heartbeat()
            if log.ahead_ticks >= HEARTBEAT_TICKS:
                log.ahead_ticks = 0
                log.heartbeat_ahead()
            if len(log.live) != len(log.readers):
                self._drop_stalled(log)

    def release_readers(self) -> None:
        """Let every reader go, for shutdown: they may resume at the next start.

        Req: ORCH-4209
        """
        for log in tuple(self._followed):
            log.release()

    def _drop_stalled(self, log: StreamLog) -> None:
        for reader in tuple(log.readers):
            if reader.paused:
                reader.paused_ticks += 1
                if reader.paused_ticks >= self._stall_ticks:
                    reader.drop()

    def _on_leave(self, log: StreamLog, _reader: Reader) -> None:
        self.readers -= 1
        if not log.readers:
            self._followed.pop(log, None)
        # Readers of a forgotten log say nothing of a newer task of the same name.
        if self._logs.get(log.key) is log:
            self.detached(log.key, len(log.readers))


def _started_before(
    accepted: Accepted, pool_id: PoolId | None, replica_id: ReplicaId, engine: tuple[str, str], started_at_ms: int
) -> EmitStarted:
    """Tell the start of an earlier life again. Shape: `engine` its version and its model's digest."""
    version, digest = engine
    return EmitStarted(
        key=task_key(accepted.tenant, accepted.task_id),
        queue_position=accepted.queue_position,
        predicted_start_ms=accepted.predicted_start_ms,
        seed=accepted.spec.seed or 0,
        pool_id=pool_id or accepted.pool_id,
        replica_id=replica_id,
        engine_version=version,
        model_digest=digest,
        determinism="strict" if accepted.strict else "best_effort",
        queue_time_ms=max(0, started_at_ms - accepted.accepted_at_ms),
    )
