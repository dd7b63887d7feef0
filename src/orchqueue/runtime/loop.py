"""The single writer: takes events in batches, reads the clock once, lets the core handle each, carries out effects."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from orchqueue.core.events import AnyEvent, TimerFired
from orchqueue.core.ids import TimerKey
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.ports.clock import Clock
from orchqueue.runtime.interpreter import Interpreter

BATCH_AT_MOST = 64
MAILBOX_AT_MOST = 8_192


class Mailbox:
    """Events that wait for the writer. Only what clients send can be refused; what the world reports never is.

    Req: ORCH-4122
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._events: deque[AnyEvent] = deque()
        self._wake = wake

    def __len__(self) -> int:
        return len(self._events)

    def post(self, event: AnyEvent) -> None:
        """Queue an event and have the writer woken."""
        self._events.append(event)
        self._wake()

    def post_or_refuse(self, event: AnyEvent) -> bool:
        """Queue a client's event, or tell that there is no room."""
        if len(self._events) >= MAILBOX_AT_MOST:
            return False
        self.post(event)
        return True

    def take(self) -> AnyEvent | None:
        """Take the oldest event."""
        return self._events.popleft() if self._events else None


class Loop:
    """Owns the core. Everything runs on the event loop's thread.

    A turn handles a bounded batch, so that a burst of submissions cannot hold tokens up for long. An exception out of
    the core is a bug: nothing is decided any more and `on_bug` must end the process; the journal is the truth from
    which the next one starts.

    Req: ORCH-4211
    """

    def __init__(self, core: Orchestrator, clock: Clock, on_bug: Callable[[Exception], None]) -> None:
        self.core = core
        self._on_bug = on_bug
        self._closed = False
        self.mailbox = Mailbox(self._wake)
        self._clock = clock
        self._interpreter: Interpreter | None = None
        self._busy = False
        self._scheduled = False

    def bind(self, interpreter: Interpreter) -> None:
        """Give the loop its hands; called once, while everything is put together."""
        self._interpreter = interpreter

    @property
    def interpreter(self) -> Interpreter:
        """Give the interpreter."""
        assert self._interpreter is not None, "the loop was used before it was bound"
        return self._interpreter

    def begin(self) -> None:
        """Have the core start its replicas."""
        self._guarded(lambda: self.interpreter.carry_out(self.core.begin(self._clock.now_ms())))

    def close(self) -> None:
        """Handle nothing any more: what the world reports from now on is an effect of our own stopping."""
        self._closed = True
        self._busy = True

    def deliver(self, event: AnyEvent) -> None:
        """Handle an event to completion now; while another is being handled, queue it.

        Cost: hot path: called from inside the engine connection's read callback.
        """
        if self._busy:
            self.mailbox.post(event)
            return
        self._busy = True
        interpreter = self.interpreter
        try:
            interpreter.carry_out(self.core.handle(self._clock.now_ms(), event))
            interpreter.flush()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a bug, and state can no longer be trusted
            self._fail(error)
        finally:
            self._busy = self._closed

    def fire(self, key: TimerKey) -> None:
        """Turn a due timer into an event."""
        self.mailbox.post(TimerFired(key))

    def committed(self, seq: int) -> None:
        """Hear from the journal."""
        self._guarded(lambda: self.interpreter.committed(seq))

    def stalled(self, reason: str) -> None:
        """Hear from the journal."""
        self._guarded(lambda: self.interpreter.stalled(reason))

    def healed(self) -> None:
        """Hear from the journal."""
        self._guarded(self.interpreter.healed)

    def tick(self) -> None:
        """Let go what has waited too long for a stalled journal."""
        self._guarded(self.interpreter.tick)

    def _guarded(self, act: Callable[[], None]) -> None:
        """Act while whatever fires meanwhile is only queued."""
        if self._closed:
            return
        assert not self._busy, "the journal called back from inside a turn"
        self._busy = True
        try:
            act()
            self.interpreter.flush()
        except Exception as error:  # noqa: BLE001 - see deliver
            self._fail(error)
        finally:
            self._busy = self._closed

    def _fail(self, error: Exception) -> None:
        self._closed = True
        self._on_bug(error)

    def _wake(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        assert not self._busy, "a turn began inside another"
        self._busy = True
        try:
            now_ms = self._clock.now_ms()
            for _ in range(BATCH_AT_MOST):
                event = self.mailbox.take()
                if event is None:
                    break
                self.interpreter.carry_out(self.core.handle(now_ms, event))
            self.interpreter.flush()
        except Exception as error:  # noqa: BLE001 - see deliver
            self._fail(error)
        finally:
            self._busy = self._closed
            if len(self.mailbox):
                self._wake()
