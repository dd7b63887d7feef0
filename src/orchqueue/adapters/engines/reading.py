"""What an engine's stream says, as values: the part of an adapter that knows its wire format and does no I/O.

Req: ORCH-4431
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.wire import SseEvent
from orchqueue.core.events import AttemptFailure
from orchqueue.ports.engine import Completion


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The end of the text. `whole`: the model ended by itself, neither at a limit nor at a stop string.

    `goes_on`: the text ended at a stop string that the engine did not see, so it has to be stopped.
    """

    completion: Completion
    whole: bool
    goes_on: bool = False


class Broken(msgspec.Struct, frozen=True, gc=False):
    """The stream failed, or the request was refused."""

    failure: AttemptFailure
    detail: str


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What one read brought.

    Shape: `texts` are whole characters and never empty; `tokens_out` is the engine's count so far; nothing counts after `end`.
    """

    texts: tuple[str, ...] = ()
    tokens_out: int = 0
    end: Ended | Broken | None = None


class StreamReader(Protocol):
    """Reads one stream of one engine; it keeps what it needs between reads."""

    def take(self, events: list[SseEvent]) -> Reading:
        """Read events.

        Cost: runs for every read of every stream; one typed decode for each event.
        """
        ...

    def finish(self) -> Reading:
        """Read the proper end of the stream, where no event was the end."""
        ...

    def refusal(self, answer: Answer) -> Broken:
        """Read an answer that is no event stream."""
        ...


def not_of_its_kind(error: Exception) -> Broken:
    """Tell of an event that could not be read."""
    return Broken("engine_error", f"the engine sent an event that is no JSON of its kind: {error}")


def failure_of(status: int) -> AttemptFailure:
    """Say what an engine's status means for the attempt.

    Req: ORCH-4216
    """
    if status in {400, 413, 422}:
        return "rejected"
    if status in {409, 425, 429, 503}:
        return "overloaded"
    return "engine_error"
