"""An engine as a port: one connected replica.

Everything an attempt reports arrives through its `AttemptSink`, called from inside the connection's read callback: the
sink must not block, and the adapter must tolerate that the sink calls `abort()` from inside such a call.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from orchqueue.core.events import AttemptFailure, DeviceFigures, ReplicaFacts
from orchqueue.core.request import TaskSpec


class Completion(msgspec.Struct, frozen=True, gc=False):
    """What the engine said at the end.

    Units: counts are the engine's own.
    """

    finish_reason: Literal["stop", "length"]
    tokens_in: int
    tokens_out: int
    prefill_ms: int
    decode_ms: int
    cached_tokens: int = 0


class AttemptSink(Protocol):
    """Who listens to one attempt. After `closed` nothing more is called."""

    def chunks(self, texts: tuple[str, ...], tokens_out: int) -> None:
        """Take whole-character pieces, all that one read brought; `tokens_out` is the engine's count so far."""
        ...

    def completed(self, completion: Completion) -> None:
        """Take the engine's own end. `closed` follows."""
        ...

    def failed(self, failure: AttemptFailure, detail: str) -> None:
        """Take a failure. `closed` follows."""
        ...

    def closed(self) -> None:
        """Learn that the engine holds nothing of this attempt any more (after an abort: seen idle, not assumed)."""
        ...


class AttemptHandle(Protocol):
    """A running attempt."""

    def abort(self) -> None:
        """Stop it. Only `closed` follows, when the engine has really stopped or is known to be dead."""
        ...


class Scrape(msgspec.Struct, frozen=True):
    """The engine's own figures, and those of its devices; None where there are none.

    `cached_tokens`: what the only slot of an engine that has one holds; with more slots nobody knows whose context is where.
    """

    kv_usage_ratio: float | None = None
    devices: tuple[DeviceFigures, ...] = ()
    cached_tokens: int | None = None


class Replica(Protocol):
    """One engine endpoint.

    Errors: every coroutine raises EngineError.
    Req: ORCH-4212
    """

    async def health(self) -> bool:
        """Tell whether the engine is up and loaded; False while it loads."""
        ...

    async def self_test(self) -> ReplicaFacts:
        """Read properties and run the self-test of ORCH-3003; raise EngineError when it does not pass."""
        ...

    async def count_prompt(self, spec: TaskSpec) -> int | None:
        """Count the prompt's tokens, chat template included; None where the engine cannot."""
        ...

    async def scrape(self) -> Scrape:
        """Read the engine's own metrics."""
        ...

    def start(
        self, spec: TaskSpec, profile: str, cache_prompt: bool, sink: AttemptSink, said: str = ""
    ) -> AttemptHandle:
        """Begin an attempt; never raises for what the network does: that goes to the sink.

        `said`: go on from this text; asked only of a replica whose facts say that it can.
        """
        ...

    async def evict_session(self, session: str) -> None:
        """Forget a session's KV where the engine can; else do nothing."""
        ...

    async def close(self) -> None:
        """Close idle connections and end what runs."""
        ...
