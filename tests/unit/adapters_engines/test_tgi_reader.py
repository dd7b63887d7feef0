"""What the reader makes of TGI's events, however they arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.reading import Broken, Ended, Reading
from orchqueue.adapters.engines.tgi_reader import TgiReader
from orchqueue.adapters.engines.wire import SseEvent, SseSplitter

DETAILS = {"finish_reason": "length", "generated_tokens": 9, "seed": 7, "input_length": 5}


def token(text: str, *, special: bool = False, **more: object) -> SseEvent:
    """Make an event of one token."""
    event = {"index": 1, "token": {"id": 5, "text": text, "logprob": -0.1, "special": special}, "generated_text": None}
    return SseEvent(json.dumps({**event, "details": None, **more}).encode())


def last(text: str, *, special: bool = False, **details: object) -> SseEvent:
    """Make the last event."""
    return token(text, special=special, generated_text="whole", details={**DETAILS, **details})


def read(reader: TgiReader, *events: SseEvent) -> Reading:
    """Let a reader take events in one read."""
    return reader.take(list(events))


def ended(reading: Reading) -> Ended:
    """Give the engine's own end."""
    assert isinstance(reading.end, Ended), reading
    return reading.end


def broken(reading: Reading) -> Broken:
    """Give the failure."""
    assert isinstance(reading.end, Broken), reading
    return reading.end


@pytest.mark.req("ORCH-4214", "ORCH-4221")
def test_tokens_are_counted_and_their_texts_are_passed_on() -> None:
    """Each event is a token; one without text counts and is not shown; the last one tells the engine's counts."""
    reader = TgiReader()
    first = read(reader, token(" one"), token(""), token("🌍"))
    assert first == Reading((" one", "🌍"), 3)
    end = ended(read(reader, last("!")))
    assert (end.completion.tokens_in, end.completion.tokens_out, end.completion.finish_reason) == (5, 9, "length")
    assert not end.whole
    assert not end.goes_on


@pytest.mark.req("ORCH-4221")
def test_special_tokens_are_left_out() -> None:
    """The text of a special token is not shown, wherever it stands, and its own end is a whole text."""
    reader = TgiReader()
    assert read(reader, token("<|tool|>", special=True), token("a")) == Reading(("a",), 2)
    reading = read(reader, last("</s>", special=True, finish_reason="eos_token"))
    assert reading.texts == ()
    assert ended(reading).completion.finish_reason == "stop"
    assert ended(reading).whole


@pytest.mark.req("ORCH-4062", "ORCH-4221")
def test_the_engines_own_stop_is_cut() -> None:
    """The engine leaves the stop string in its text; it is taken off, and the counts of its last event hold."""
    reader = TgiReader(["END"])
    assert read(reader, token("one E"), token("N")) == Reading(("one ",), 2)
    reading = read(reader, last("D", finish_reason="stop_sequence"))
    assert reading.texts == ()
    assert ended(reading).completion.tokens_out == 9
    assert ended(reading).completion.finish_reason == "stop"
    assert not ended(reading).whole
    assert not ended(reading).goes_on


@pytest.mark.req("ORCH-4062", "ORCH-4221")
def test_a_stop_that_the_engine_misses_ends_the_attempt() -> None:
    """A stop string inside of a token ends it there while the engine goes on; what was counted before stands in."""
    reader = TgiReader(["END"], tokens_in=4)
    reading = read(reader, token("one EN"), token("Ding"), token("never shown"))
    assert (reading.texts, reading.tokens_out) == (("one ",), 2)
    end = ended(reading)
    assert end.goes_on
    assert (end.completion.tokens_in, end.completion.tokens_out, end.completion.finish_reason) == (4, 2, "stop")


@pytest.mark.req("ORCH-4062")
def test_what_was_held_back_comes_with_the_end() -> None:
    """Text that was never followed by the rest of a stop string is shown when the engine ends."""
    reader = TgiReader(["END"])
    reading = read(reader, token("the E"), last("N"))
    assert "".join(reading.texts) == "the EN"
    assert ended(reading).completion.finish_reason == "length"


@pytest.mark.req("ORCH-4216", "ORCH-4221")
@pytest.mark.parametrize(
    ("kind", "failure"),
    [("validation", "rejected"), ("template_error", "rejected"), ("overloaded", "overloaded"),
     ("generation", "engine_error"), ("incomplete_generation", "engine_error"), ("something new", "engine_error")],
)  # fmt: skip
def test_an_error_event_is_known_by_its_kind(kind: str, failure: str) -> None:
    """The router refuses inside of the stream: the kind says what it means, and its words are kept."""
    event = SseEvent(json.dumps({"error": "no luck", "error_type": kind}).encode())
    told = broken(read(TgiReader(), event))
    assert told.failure == failure
    assert "no luck" in told.detail


@pytest.mark.req("ORCH-4217")
def test_an_error_in_the_middle_keeps_what_came_before() -> None:
    """Text of the same read is passed on before the failure, and nothing behind it counts."""
    error = SseEvent(b'{"error":"out of memory","error_type":"generation"}')
    reading = read(TgiReader(), token("one"), error, token("two"))
    assert reading.texts == ("one",)
    assert broken(reading).failure == "engine_error"


@pytest.mark.req("ORCH-4217")
@pytest.mark.parametrize("data", [b'{"token":{"te', b'{"token":{"text":"\xf0\x9f"}}', b"[]", b'{"index":3}', b"{}"])
def test_what_is_no_event_breaks_the_stream(data: bytes) -> None:
    """Cut JSON, broken UTF-8 and an event without a token are failures of the engine."""
    assert broken(read(TgiReader(), SseEvent(data))).failure == "engine_error"


@pytest.mark.req("ORCH-4217")
def test_a_stream_without_its_last_event_is_lost() -> None:
    """A proper end of the response is no end of the text."""
    reader = TgiReader()
    read(reader, token("one"))
    assert broken(reader.finish()).failure == "lost"


@pytest.mark.req("ORCH-4216")
@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [(429, b'{"error":"Model is overloaded","error_type":"overloaded"}', "overloaded"),
     (422, b'{"error":"Input validation error","error_type":"validation"}', "rejected"),
     (424, b'{"error":"Request failed","error_type":"generation"}', "engine_error"),
     (500, b'{"error":"Incomplete generation","error_type":"incomplete_generation"}', "engine_error"),
     (422, b"Failed to deserialize the JSON body", "rejected"), (401, b"", "engine_error"),
     (503, b"<html>no backend</html>", "overloaded"), (200, b"{}", "engine_error")],
)  # fmt: skip
def test_refusals_before_the_stream(status: int, body: bytes, failure: str) -> None:
    """An answer that is no stream means what its error says, else what its status says; both are told."""
    told = TgiReader().refusal(Answer(status, body))
    assert told.failure == failure
    assert str(status) in told.detail


def test_times_are_measured() -> None:
    """The router tells none: the first token ends the prompt's time, the last one the decode's."""
    clock: Iterator[float] = iter((0.0, 0.25, 1.5))
    reader = TgiReader(now_s=lambda: next(clock))
    completion = ended(read(reader, token("a"), last("b"))).completion
    assert (completion.prefill_ms, completion.decode_ms) == (250, 1250)


@pytest.mark.req("ORCH-4215")
@given(cuts=st.lists(st.integers(0, 400), max_size=30))
@settings(max_examples=200, deadline=None)
def test_frames_without_a_space_in_any_cut(cuts: list[int]) -> None:
    """The router's frames, comments between them, give the same text wherever the bytes were cut."""
    frames = (
        b"data:" + token("東").data + b"\n\n:\n\ndata:" + token(" é🌍").data + b"\n\ndata:" + last("!").data + b"\n\n"
    )
    splitter, reader = SseSplitter(), TgiReader()
    text, end = "", None
    bounds = sorted({0, len(frames), *(cut for cut in cuts if cut < len(frames))})
    for begin, stop in pairwise(bounds):
        if events := splitter.feed(frames[begin:stop]):
            reading = reader.take(events)
            text, end = text + "".join(reading.texts), reading.end
    assert text == "東 é🌍!"
    assert isinstance(end, Ended)
