"""Reads a `generate_stream` answer of TensorRT-LLM's models behind Triton.

No event says that it is the last one: the stream's proper end does.

Req: ORCH-4214, ORCH-4222
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.reading import Broken, Ended, Reading, not_of_its_kind
from orchqueue.adapters.engines.stop_filter import StopFilter
from orchqueue.adapters.engines.triton_messages import StreamEvent, model_failed, refused
from orchqueue.adapters.engines.wire import SseEvent
from orchqueue.ports.engine import Completion

_decode = msgspec.json.Decoder(StreamEvent).decode

BYTES_PER_TOKEN = 4
UNFINISHED = "\ufffd"


class Expected(msgspec.Struct, frozen=True):
    """What is known of a stream before it begins.

    `stops_told`: the engine knows the stop strings, so that it ends by itself, as a rule. `cumulative`: each response holds all text so
    far. `echo`: the prompt, where the model may repeat it first. `counts_in`, `counts_out`: the model counts tokens. `prompt_bytes`:
    what the tokens of the prompt are estimated from where it does not.
    """

    max_tokens: int
    prompt_bytes: int
    stops: tuple[str, ...] = ()
    stops_told: bool = True
    cumulative: bool = False
    echo: str = ""
    counts_in: bool = True
    counts_out: bool = True


class Watch(msgspec.Struct, frozen=True):
    """Whom to tell: that the engine began to answer, that its stream is over, that the model's process is dead."""

    on_begun: Callable[[], None]
    on_over: Callable[[], None]
    on_died: Callable[[], None]


class TritonReader:
    """Implements `reading.StreamReader`.

    1. Where the model counts, its counts of each response are summed; else every response with text is one token.
    2. A character that is not whole yet shows as U+FFFD at the end of all text so far, and is held back.
    3. A stop string and what follows are cut here: the engine leaves it in.

    `now_s`: the times told at the end are measured with it, for Triton tells none.
    """

    def __init__(self, expected: Expected, now_s: Callable[[], float], watch: Watch) -> None:
        self._expected = expected
        self._now_s = now_s
        self._watch = watch
        self._began_at_s = now_s()
        self._first_at_s: float | None = None
        self._stops = StopFilter(expected.stops)
        self._echo = expected.echo
        self._echoed = ""
        self._shown = ""
        self._tokens_in = 0
        self._tokens_out = 0

    def take(self, events: list[SseEvent]) -> Reading:
        """Read events up to an error or a stop string."""
        texts: list[str] = []
        end: Ended | Broken | None = None
        for sse in events:
            try:
                event = _decode(sse.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                end = not_of_its_kind(error)
                break
            if event.error is not None:
                end = model_failed(event.error)
                break
            fresh = self._fresh(event)
            if fresh is None:
                end = Broken("engine_error", "the engine changed text that it had sent already")
                break
            if text := self._stops.feed(fresh):
                texts.append(text)
            if self._stops.matched is not None:
                end = self._ended("stop", whole=False, goes_on=not self._expected.stops_told)
                break
        if end is not None:
            self._watch.on_over()
        return Reading(tuple(texts), self._tokens_out, end)

    def finish(self) -> Reading:
        """Read the end of the stream: what was held back is text after all, except a character that never got whole."""
        self._watch.on_over()
        rest = self._stops.feed(self._echoed) + self._stops.finish()
        limited = self._tokens_out >= self._expected.max_tokens
        end = self._ended("length" if limited else "stop", whole=not limited)
        return Reading((rest,) if rest else (), self._tokens_out, end)

    def refusal(self, answer: Answer) -> Broken:
        """Read a refusal."""
        self._watch.on_over()
        broken = refused(answer)
        if broken.failure == "lost":
            self._watch.on_died()
        return broken

    def _fresh(self, event: StreamEvent) -> str | None:
        """Count a response and give its new text; None where it contradicts what came before."""
        expected = self._expected
        if self._first_at_s is None:
            self._first_at_s = self._now_s()
            self._watch.on_begun()
        self._tokens_in = max(self._tokens_in, event.num_input_tokens)
        counted = event.num_output_tokens if expected.counts_out else bool(event.text_output)
        self._tokens_out = min(expected.max_tokens, self._tokens_out + counted)
        if not expected.cumulative:
            return self._without_echo(event.text_output)
        whole = event.text_output.rstrip(UNFINISHED)
        if not whole.startswith(self._shown):
            # A response may hold less than was shown, never anything else.
            return "" if self._shown.startswith(whole) else None
        fresh, self._shown = whole[len(self._shown) :], whole
        return self._without_echo(fresh)

    def _without_echo(self, fresh: str) -> str:
        if not self._echo:
            return fresh
        begun = self._echoed + fresh
        if len(begun) < len(self._echo) and self._echo.startswith(begun):
            self._echoed = begun
            return ""
        echo, self._echo, self._echoed = self._echo, "", ""
        return begun.removeprefix(echo)

    def _ended(self, reason: Literal["stop", "length"], *, whole: bool, goes_on: bool = False) -> Ended:
        expected, now_s = self._expected, self._now_s()
        first_at_s = now_s if self._first_at_s is None else self._first_at_s
        estimated = -(-expected.prompt_bytes // BYTES_PER_TOKEN)
        completion = Completion(
            finish_reason=reason,
            tokens_in=self._tokens_in if expected.counts_in else max(1, estimated),
            tokens_out=self._tokens_out,
            prefill_ms=round(1000 * (first_at_s - self._began_at_s)),
            decode_ms=round(1000 * (now_s - first_at_s)),
        )
        return Ended(completion, whole, goes_on)
