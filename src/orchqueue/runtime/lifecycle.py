"""From an opened journal to a serving runtime, and back to nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from orchqueue.core.events import AnyEvent, ShutdownBegan, Ticked, TimerFired
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.running_text import TEXT_TIMER
from orchqueue.core.settings import Settings
from orchqueue.core.task_states import TaskState
from orchqueue.ports.clock import Clock
from orchqueue.ports.journal import Journal
from orchqueue.ports.telemetry import Telemetry
from orchqueue.runtime.attempts import Attempts, EngineDirectory
from orchqueue.runtime.decision_log import DecisionLog
from orchqueue.runtime.gate import Gate, SettingsSource
from orchqueue.runtime.interpreter import Interpreter, Ports, ReplicaControl
from orchqueue.runtime.loop import Loop
from orchqueue.runtime.recovery import Recovery
from orchqueue.runtime.replies import Replies
from orchqueue.runtime.streams import Streams
from orchqueue.runtime.timers import Timers

RUNNING = (TaskState.BOUND, TaskState.STREAMING)


class Supervisor(ReplicaControl, EngineDirectory, Protocol):
    """Who brings replicas up and down, and knows their connections."""

    async def close(self) -> None:
        """Take every replica down."""
        ...


class Resources(msgspec.Struct):
    """What a runtime is made of besides its settings. `make_supervisor` gets the function that posts events."""

    clock: Clock
    journal: Journal
    telemetry: Telemetry
    make_supervisor: Callable[[Callable[[AnyEvent], None]], Supervisor]
    settings_source: SettingsSource
    on_bug: Callable[[Exception], None]
    stall_ms: int = 10_000
    readers_per_task: int = 16
    stalled_reader_ms: int = 30_000
    heartbeat_ms: int = 15_000
    journal_max_bytes: int = 0
    decisions: DecisionLog = msgspec.field(default_factory=DecisionLog)


class Runtime:
    """Everything between HTTP and the adapters. Made by `start`, ended by `stop`."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self._resources = resources
        self._settings = settings
        self.streams = Streams(
            readers_per_task=resources.readers_per_task,
            stalled_reader_ms=resources.stalled_reader_ms,
            heartbeat_ms=resources.heartbeat_ms,
        )
        self.loop = Loop(Orchestrator(settings), resources.clock, resources.on_bug)
        self.supervisor = resources.make_supervisor(self.loop.mailbox.post)
        self._timers = Timers(resources.clock, self.loop.fire)
        replies = Replies()
        ports = Ports(
            journal=resources.journal,
            streams=self.streams,
            replies=replies,
            timers=self._timers,
            attempts=Attempts(self.supervisor, self.loop.deliver),
            replicas=self.supervisor,
            telemetry=resources.telemetry,
            clock=resources.clock,
            decisions=resources.decisions,
        )
        self.loop.bind(Interpreter(ports, self.loop.mailbox.post, resources.stall_ms))
        self._recovery = Recovery(resources.journal, self.loop, self.streams, resources.telemetry, resources.clock)
        self.gate = Gate(
            self.loop,
            replies,
            self.streams,
            resources.clock,
            resources.settings_source,
            resources.decisions,
            self._recovery.progress,
        )
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over what the journal holds, then bring the replicas up; the loop turns meanwhile.

        A shutdown that begins meanwhile ends it early.

        Errors: JournalError.
        Req: ORCH-4011, ORCH-4377
        """
        if await self._recovery.run():
            self.loop.begin()
            self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        """Pulse once an interval: live figures for readers, heartbeats, late ends of a stalled journal."""
        interval_ms = self._settings.metrics_interval_ms
        since_streams_ms = 0
        while True:
            await asyncio.sleep(interval_ms / 1000)
            self.loop.mailbox.post(Ticked(self._resources.journal.used_bytes(), self._resources.journal_max_bytes))
            self.loop.tick()
            since_streams_ms += interval_ms
            if since_streams_ms >= self.streams.tick_ms:
                since_streams_ms = 0
                self.streams.tick()

    def begin_shutdown(self) -> None:
        """Admit and start nothing more; what runs may finish.

        Req: ORCH-4012
        """
        self._recovery.abandon()
        self.loop.mailbox.post(ShutdownBegan())

    def running(self) -> int:
        """Count the tasks that run on a replica."""
        return sum(task.state in RUNNING for task in self.loop.core.state.active.values())

    def is_at_work(self) -> bool:
        """Tell whether a stop has something to wait for: a task runs, or its readers were not told yet how it ended."""
        return self.running() > 0 or self.loop.interpreter.owes_ends

    async def stop(self) -> None:
        """End everything: readers are let go, replicas stopped, the journal closed with all that was decided.

        What running tasks have said is recorded, for the next start. The loop is closed before engines are stopped, so that it
        does not end their tasks: they stay accepted in the journal.

        Req: ORCH-4208
        """
        self.loop.deliver(TimerFired(TEXT_TIMER))
        self.loop.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        self._timers.close()
        self.streams.release_readers()
        await self.supervisor.close()
        await asyncio.to_thread(self._resources.journal.close)
