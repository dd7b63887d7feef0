"""Reads a `/completion` stream of llama.cpp.

Req: ORCH-4214, ORCH-4218
"""

from __future__ import annotations

import msgspec

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.llamacpp_messages import StreamEvent, error_status, explain, finish_reason_of
from orchqueue.adapters.engines.reading import Broken, Ended, Reading, failure_of, not_of_its_kind
from orchqueue.adapters.engines.wire import SseEvent
from orchqueue.ports.engine import Completion

_decode = msgspec.json.Decoder(StreamEvent).decode


class LlamacppReader:
    """Implements `reading.StreamReader`. A merged event holds the last token's id only, so tokens are counted by the engine's count."""

    def __init__(self) -> None:
        self._tokens_out = 0

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
            self._tokens_out = max(self._tokens_out, event.tokens_predicted)
            if event.content:
                texts.append(event.content)
            if event.stop or event.error is not None or sse.name == b"error":
                end = self._end(event)
                break
        return Reading(tuple(texts), self._tokens_out, end)

    def finish(self) -> Reading:
        """Read the end of a stream that lacks its last event."""
        return Reading((), self._tokens_out, Broken("lost", "the stream ended without its last event"))

    def refusal(self, answer: Answer) -> Broken:
        """Read a refusal."""
        failure = failure_of(answer.status) if answer.status != 200 else "engine_error"
        return Broken(failure, explain(answer.status, answer.body))

    def _end(self, last: StreamEvent) -> Ended | Broken:
        if last.error is not None:
            return _told(error_status(last.error), last.error.message)
        if not last.stop:
            return _told(500, "?")
        timings = last.timings
        completion = Completion(
            finish_reason=finish_reason_of(last),
            tokens_in=last.tokens_evaluated,
            tokens_out=self._tokens_out,
            prefill_ms=round(timings.prompt_ms) if timings else 0,
            decode_ms=round(timings.predicted_ms) if timings else 0,
            cached_tokens=timings.cache_n if timings else 0,
        )
        return Ended(completion, last.stop_type == "eos")


def _told(status: int, message: str) -> Broken:
    return Broken(failure_of(status), f"engine reported in its stream: {message[:500]}")
