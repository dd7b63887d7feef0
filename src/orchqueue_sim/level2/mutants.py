"""Planted bugs in the runtime, the edge and the adapters: each breaks one promise while its `with` block runs.

What ships stays clean; a mutant replaces a function or a method from the outside and puts it back.

Req: ORCH-4238
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, MutableMapping
from typing import Any
from unittest import mock

from orchqueue.adapters import system
from orchqueue.adapters.engines.attempt import EngineAttempt
from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.adapters.engines.wire import SseEvent, SseSplitter
from orchqueue.adapters.system import SystemClock
from orchqueue.core import effects as fx
from orchqueue.core import submit_flow
from orchqueue.core.ids import AttemptId, TaskKey, Tenant, task_key
from orchqueue.core.records import Accepted, Bound, Ended
from orchqueue.http import sse
from orchqueue.http.auth import Access, Caller, OpScope
from orchqueue.http.messages import Request, Send
from orchqueue.runtime import stream_log
from orchqueue.runtime.attempts import Attempts
from orchqueue.runtime.interpreter import Interpreter
from orchqueue.runtime.lifecycle import Runtime
from orchqueue.runtime.loop import Loop
from orchqueue.runtime.stream_frames import Position
from orchqueue.runtime.stream_log import Reader, StreamLog
from orchqueue.runtime.streams import Streams
from orchqueue.runtime.supervision import Supervision
from orchqueue_sim.level2.daemon import VirtualTime
from orchqueue_sim.level2.journal import SimulatedJournal
from orchqueue_sim.level2.plan import KILLED, draw
from orchqueue_sim.level2.world import run
from orchqueue_sim.planting import Bed, Planted
from orchqueue_sim.world import Report

BED = Bed()
HEARD_RECORDS = 20


def _hurry(kind: type[fx.AnyEffect]) -> Planted:
    real = Interpreter._passes_stall  # noqa: SLF001 - a mutant works from the inside

    def passes(self: Interpreter, effect: fx.AnyEffect) -> bool:
        return isinstance(effect, kind) or real(self, effect)

    return mock.patch.object(Interpreter, "_passes_stall", passes)


@BED.within(60)
def reply_before_commit() -> Planted:
    """Tell clients of acceptances before the journal has them."""

    def carry_out(self: Interpreter, effects: Iterable[fx.AnyEffect]) -> None:
        listed = list(effects)
        real(self, listed)
        for effect in listed:
            if isinstance(effect, fx.Accept):
                self._act(effect)

    real = Interpreter.carry_out
    return mock.patch.object(Interpreter, "carry_out", carry_out)


@BED.within(60, "cancels", "busy_disk")
def cancel_before_commit() -> Planted:
    """Answer a cancel with 204 before its end is durable."""
    return _hurry(fx.Done)


@BED.within(60)
def end_before_commit() -> Planted:
    """Send the terminal event before the end is durable."""
    real = Interpreter._passes_stall  # noqa: SLF001

    def passes(self: Interpreter, effect: fx.AnyEffect) -> bool:
        opened = isinstance(effect, fx.Finish) and effect.key in self._ports.streams
        return opened or real(self, effect)

    return mock.patch.object(Interpreter, "_passes_stall", passes)


@BED.within(60, "failing_disk", "full_disk")
def late_end_called_durable() -> Planted:
    """Let an end that did not wait for a stalled journal say that it is durable."""
    real = Streams.finish

    def finish(self: Streams, key: TaskKey, ended: Ended, *, durable: bool = True) -> None:
        del durable
        real(self, key, ended)

    return mock.patch.object(Streams, "finish", finish)


@BED.within(60, "cancels", "ignored_abort")
def slot_free_at_once() -> Planted:
    """Call an aborted attempt closed without looking whether the engine has stopped."""

    async def settle(_self: LlamacppReplica, _marker: int, _answered: bool) -> None:
        return None

    return mock.patch.object(LlamacppReplica, "_until_idle", settle)


@BED.within(60, "cancels")
def abort_forgotten() -> Planted:
    """Let engines go on with what was canceled, and call it stopped."""

    def abort(self: Attempts, attempt_id: AttemptId) -> None:
        handle = self._handles.get(attempt_id)
        if isinstance(handle, EngineAttempt):
            handle._over = True  # noqa: SLF001
            handle._sink.closed()  # noqa: SLF001

    return mock.patch.object(Attempts, "abort", abort)


@BED.within(60, "vanishing_between_tokens", "resumes")
def resume_one_event_early() -> Planted:
    """Give a reader that comes back the event that it has read last once more."""
    return mock.patch.object(stream_log, "bisect_right", bisect_left)


@BED.within(60, "slow_reader")
def slow_reader_loses_its_place() -> Planted:
    """Let a reader that could not keep up go on with what comes next."""
    real = Reader.resume

    def resume(self: Reader) -> None:
        if self.log is not None and self.offset:
            self.offset = len(self.log.frames)
        real(self)

    return mock.patch.object(Reader, "resume", resume)


@BED.within(60, "slow_network")
def last_piece_dropped() -> Planted:
    """Lose the last of several pieces that one read brought."""
    real = StreamLog.append_tokens

    def append(self: StreamLog, texts: tuple[str, ...]) -> int:
        return real(self, texts[:-1] if len(texts) > 1 else texts)

    return mock.patch.object(StreamLog, "append_tokens", append)


@BED.within(60, "cut_writes")
def split_events_lost() -> Planted:
    """Forget the beginning of an event whose end comes with the next read."""
    real = SseSplitter.feed

    def feed(self: SseSplitter, body: bytes) -> list[SseEvent]:
        self._rest = b""
        return real(self, body)

    return mock.patch.object(SseSplitter, "feed", feed)


@BED.within(60, "daemon_killed")
def recovery_forgets_one() -> Planted:
    """Leave the youngest unfinished task in the journal and out of the queue."""
    real = SimulatedJournal.recover

    def recover(self: SimulatedJournal) -> object:
        kept = real(self)
        unfinished = list(kept.unfinished())[:-1]
        usage = {"usage": kept.usage, "usage_since_ms": kept.usage_since_ms}
        return mock.Mock(finished=kept.finished, unfinished=lambda: iter(unfinished), **usage)

    return mock.patch.object(SimulatedJournal, "recover", recover)


@BED.within(60, "shutdown")
def stopping_ends_tasks() -> Planted:
    """Let a stop of the daemon end the tasks that its engines were working on."""
    real = Runtime.stop

    async def stop(self: Runtime) -> None:
        await self.supervisor.close()
        await real(self)

    return mock.patch.object(Runtime, "stop", stop)


@BED.within(60)
def ticker_outlives_stop() -> Planted:
    """Leave the clock that pulses for live figures running."""
    real = Runtime.stop

    async def stop(self: Runtime) -> None:
        self._ticker = None
        await real(self)

    return mock.patch.object(Runtime, "stop", stop)


@BED.within(60)
def engine_outlives_stop() -> Planted:
    """Leave an engine's process behind."""
    real = Supervision._take_down  # noqa: SLF001

    async def take_down(self: Supervision, life: mock.Mock, earlier: asyncio.Task[None] | None) -> None:
        life.running = None
        await real(self, life, earlier)

    return mock.patch.object(Supervision, "_take_down", take_down)


@BED.within(60)
def one_tenant() -> Planted:
    """Take every key for the same tenant's."""
    real = Access.admit

    def admit(self: Access, request: Request, scope: OpScope) -> Caller:
        caller = real(self, request, scope)
        return Caller(Tenant("t0"), caller.client_id, anonymous=False)

    return mock.patch.object(Access, "admit", admit)


@BED.within(60)
def stream_cut_at_its_end() -> Planted:
    """Close the connection after the terminal event instead of completing the response."""

    async def run(self: sse.StreamAnswer, send: Send, correlation_id: str) -> None:
        async def cut(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.body":
                self._exchange.abort()
            else:
                await send(message)

        await real(self, cut, correlation_id)

    real = sse.StreamAnswer.run
    return mock.patch.object(sse.StreamAnswer, "run", run)


@BED.within(60)
def commits_unheard() -> Planted:
    """Miss the journal's word from some record on, so that somebody waits for ever."""
    real = Loop.committed

    def committed(self: Loop, seq: int) -> None:
        if seq < HEARD_RECORDS:
            real(self, seq)

    return mock.patch.object(Loop, "committed", committed)


@BED.within(150, "clock_pause", "wall_jump")
def clock_follows_the_wall() -> Planted:
    """Read the wall clock anew each time, so that whoever sets it ends tasks or makes timers wait."""

    def now_ms(_self: SystemClock) -> int:
        wall: VirtualTime = vars(system)["time"]
        return wall.time_ns() // 1_000_000

    return mock.patch.object(SystemClock, "now_ms", now_ms)


@BED.within(40, "duplicates")
def other_body_taken_for_the_same() -> Planted:
    """Take another request under a known name for a repeat."""
    return mock.patch.object(submit_flow, "canonical_digest", return_value="")


@BED.within(20)
def terminal_event_twice() -> Planted:
    """Say the end of every stream twice."""
    real = StreamLog.append_terminal

    def append(self: StreamLog, frame: bytes, *, failed: bool) -> int:
        return real(self, frame + frame, failed=failed)

    return mock.patch.object(StreamLog, "append_terminal", append)


@BED.within(20)
def started_told_again() -> Planted:
    """Say that a task has started twice."""
    real = StreamLog.append_started

    def append(self: StreamLog, frame: bytes) -> int:
        return real(self, frame + frame)

    return mock.patch.object(StreamLog, "append_started", append)


@BED.within(60, *KILLED)
def text_of_the_last_life_lost() -> Planted:
    """Begin a task's stream with nothing, though its text was recorded."""
    return mock.patch.object(Streams, "resume", return_value=None)


@BED.within(60, *KILLED)
def text_without_started() -> Planted:
    """Rebuild a stream from its text alone."""

    def resume(self: Streams, accepted: Accepted, _bound: Bound, text: str) -> None:
        key = task_key(accepted.tenant, accepted.task_id)
        self.open(key, accepted.correlation_id)
        self.tokens(key, (text,))

    return mock.patch.object(Streams, "resume", resume)


@BED.within(60, *KILLED)
def last_letter_not_rebuilt() -> Planted:
    """Rebuild a stream without the last letter that was recorded."""
    real = Streams.resume

    def resume(self: Streams, accepted: Accepted, bound: Bound, text: str) -> None:
        real(self, accepted, bound, text[:-1])

    return mock.patch.object(Streams, "resume", resume)


@BED.within(60, *KILLED)
def reader_ahead_hears_it_again() -> Planted:
    """Send a reader that has more than the log holds what it has already."""
    real = StreamLog.seek

    def seek(self: StreamLog, reader: Reader, position: Position | None) -> bool:
        found = real(self, reader, position)
        if reader.ahead is not None:
            reader.ahead, reader.offset = None, len(self.frames)
        return found

    return mock.patch.object(StreamLog, "seek", seek)


MUTANTS = BED.mutants


def hunt(name: str) -> Report | None:
    """Plant a bug and run its seeds until one breaks a promise."""
    with MUTANTS[name]():
        reports = (run(seed, None, draw(seed, BED.focus.get(name))) for seed in range(BED.seeds[name]))
        return next((report for report in reports if report.problem), None)
