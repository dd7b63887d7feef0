"""Reads a `/v1/completions` stream of vLLM.

Errors may come inside a stream that began well, in an answer with status 200: what a request asks is partly judged only then.

Req: ORCH-4214, ORCH-4220
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.reading import Broken, Ended, Reading, failure_of, not_of_its_kind
from orchqueue.adapters.engines.vllm_messages import (
    Choice,
    ErrorBody,
    StreamEvent,
    Timed,
    Usage,
    error_text,
    explain,
    is_dead,
    refused_text,
)
from orchqueue.adapters.engines.wire import SseEvent
from orchqueue.ports.engine import Completion

DONE = b"[DONE]"

_decode = msgspec.json.Decoder(StreamEvent).decode


class VllmReader:
    """Implements `reading.StreamReader`. Each event tells the count so far, so a piece that is held back is counted.

    `over`: the engine has ended it. `now_s`: a clock that never goes back; times are taken from it where the server does not tell its own.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began_s = now_s()
        self._first_s: float | None = None
        self._last_s = self._began_s
        self._usage = Usage()
        self._timed = Timed()
        self._final: Choice | None = None
        self.over = False

    @property
    def begun(self) -> bool:
        """Tell whether a token has come, so that the engine shows the request in its gauges."""
        return self._first_s is not None

    def take(self, events: list[SseEvent]) -> Reading:
        """Read events up to `[DONE]` or an error."""
        texts: list[str] = []
        end: Ended | Broken | None = None
        for sse in events:
            if sse.data == DONE:
                end = self._end()
                break
            try:
                event = _decode(sse.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                end = not_of_its_kind(error)
                break
            if event.error is not None:
                end = _broken(event.error)
                break
            self._note(event)
            texts += (choice.text for choice in event.choices if choice.text)
        self.over = self.over or end is not None
        return Reading(tuple(texts), self._usage.completion_tokens, end)

    def finish(self) -> Reading:
        """Read the end of a stream that lacks `[DONE]`."""
        end = self._end()
        self.over = isinstance(end, Ended)
        return Reading((), self._usage.completion_tokens, end)

    def refusal(self, answer: Answer) -> Broken:
        """Read a refusal."""
        if is_dead(refused_text(answer.body)):
            return Broken("lost", explain(answer.status, answer.body))
        failure = failure_of(answer.status) if answer.status != 200 else "engine_error"
        return Broken(failure, explain(answer.status, answer.body))

    def _note(self, event: StreamEvent) -> None:
        if event.usage is not None:
            self._usage = event.usage
        if event.metrics is not None:
            self._timed = event.metrics
        if event.choices:
            self._last_s = self._now_s()
            self._first_s = self._last_s if self._first_s is None else self._first_s
            if event.choices[-1].finish_reason is not None:
                self._final = event.choices[-1]

    def _end(self) -> Ended | Broken:
        final = self._final
        if final is None:
            return Broken("lost", "the stream ended without its last event")
        if final.finish_reason not in {"stop", "length"}:
            return Broken("engine_error", f"the engine ended the text with {final.finish_reason!r}")
        details, told = self._usage.prompt_tokens_details, self._timed
        first_s = self._began_s if self._first_s is None else self._first_s
        prefill_ms, decode_ms = 1000 * (first_s - self._began_s), 1000 * (self._last_s - first_s)
        if told.time_to_first_token_ms is not None:
            prefill_ms = told.time_to_first_token_ms - (told.queue_time_ms or 0.0)
        completion = Completion(
            finish_reason="length" if final.finish_reason == "length" else "stop",
            tokens_in=self._usage.prompt_tokens,
            tokens_out=self._usage.completion_tokens,
            prefill_ms=max(0, round(prefill_ms)),
            decode_ms=round(decode_ms if told.generation_time_ms is None else told.generation_time_ms),
            cached_tokens=details.cached_tokens if details is not None else 0,
        )
        return Ended(completion, final.finish_reason == "stop" and final.stop_reason is None)


def _broken(error: ErrorBody | str) -> Broken:
    message = error_text(error)
    if is_dead(message):
        return Broken("lost", f"the engine behind the server is gone: {message}")
    code = error.code if isinstance(error, ErrorBody) else None
    return Broken(failure_of(code if isinstance(code, int) else 500), f"engine reported in its stream: {message}")
