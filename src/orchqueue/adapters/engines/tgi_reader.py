"""Reads a `/generate_stream` stream of TGI.

Req: ORCH-4214, ORCH-4221
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

import msgspec

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.reading import Broken, Ended, Reading, not_of_its_kind
from orchqueue.adapters.engines.stop_filter import StopFilter
from orchqueue.adapters.engines.tgi_messages import (
    Details,
    StreamEvent,
    explain,
    failure_of_answer,
    failure_of_type,
)
from orchqueue.adapters.engines.wire import SseEvent
from orchqueue.ports.engine import Completion

_decode = msgspec.json.Decoder(StreamEvent).decode


class TgiReader:
    """Implements `reading.StreamReader`.

    1. One event is one token. Its text is empty while a character is not whole, and no part of the answer where it is special.
    2. TGI leaves a stop string in the text, and misses one that does not end with a token, so they are looked for here. Where the
       engine goes on behind one the attempt ends without its last event; `tokens_in` stands in for the engine's count then.
    3. A router tells refusals and failures as events, at any place of the stream.
    4. It tells no times, so they are measured.
    """

    def __init__(self, stops: Iterable[str] = (), tokens_in: int = 0, now_s: Callable[[], float] = monotonic) -> None:
        self._stops = StopFilter(stops)
        self._tokens_in = tokens_in
        self._tokens_out = 0
        self._now_s = now_s
        self._began_s = now_s()
        self._first_s: float | None = None

    def take(self, events: list[SseEvent]) -> Reading:
        """Read events up to the last one of the stream."""
        texts: list[str] = []
        end: Ended | Broken | None = None
        for sse in events:
            try:
                event = _decode(sse.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                end = not_of_its_kind(error)
                break
            if event.token is None or event.error is not None:
                told = event.error if event.error is not None else "an event without a token"
                end = Broken(failure_of_type(event.error_type), f"engine reported in its stream: {told[:500]}")
                break
            self._tokens_out += 1
            if self._first_s is None:
                self._first_s = self._now_s()
            if not event.token.special and (text := self._stops.feed(event.token.text)):
                texts.append(text)
            if event.details is not None or self._stops.matched is not None:
                end = self._end(event.details)
                if rest := self._stops.finish():
                    texts.append(rest)
                break
        return Reading(tuple(texts), self._tokens_out, end)

    def finish(self) -> Reading:
        """Read the end of a stream that lacks its last event."""
        return Reading((), self._tokens_out, Broken("lost", "the stream ended without its last event"))

    def refusal(self, answer: Answer) -> Broken:
        """Read a refusal."""
        return Broken(failure_of_answer(answer.status, answer.body), explain(answer.status, answer.body))

    def _end(self, details: Details | None) -> Ended:
        stopped, told = self._stops.matched is not None, details or Details()
        first_s = self._began_s if self._first_s is None else self._first_s
        completion = Completion(
            finish_reason="length" if told.finish_reason == "length" and not stopped else "stop",
            tokens_in=told.input_length or self._tokens_in,
            tokens_out=told.generated_tokens or self._tokens_out,
            prefill_ms=round(1000 * (first_s - self._began_s)),
            decode_ms=round(1000 * (self._now_s() - first_s)),
        )
        whole = told.finish_reason == "eos_token" and not stopped
        return Ended(completion, whole, goes_on=details is None)
