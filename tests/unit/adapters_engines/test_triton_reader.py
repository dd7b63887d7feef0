"""What the Triton reader makes of a stream, however the text was cut."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.adapters.engines.connection import Answer
from orchqueue.adapters.engines.reading import Broken, Ended, Reading
from orchqueue.adapters.engines.triton_reader import Expected, TritonReader, Watch
from orchqueue.adapters.engines.wire import SseEvent

EXPECTED = Expected(max_tokens=8, prompt_bytes=40)


class Bench:
    """A reader with a clock that is moved by hand, and what it told whom."""

    def __init__(self, expected: Expected = EXPECTED) -> None:
        self.now_s = 0.0
        self.told: list[str] = []
        watch = Watch(*(lambda word=word: self.told.append(word) for word in ("begun", "over", "died")))
        self.reader = TritonReader(expected, lambda: self.now_s, watch)

    def take(self, *responses: dict[str, object]) -> Reading:
        """Bring responses in one read."""
        return self.reader.take([SseEvent(json.dumps(response).encode()) for response in responses])


def said(text: str, tokens: int = 1) -> dict[str, object]:
    """Make a response of a model that counts."""
    return {"text_output": text, "num_input_tokens": 4, "num_output_tokens": tokens, "model_name": "ensemble"}


@pytest.mark.req("ORCH-4214", "ORCH-4222")
def test_counts_are_summed_and_the_end_is_the_streams() -> None:
    """Each response counts for itself, the stream's end is the model's, and the times are measured here."""
    bench = Bench()
    bench.now_s = 0.25
    assert bench.take(said(" a", 2)) == Reading((" a",), 2)
    assert bench.take(said("b"), said("", 0)) == Reading(("b",), 3)
    bench.now_s = 1.0
    end = bench.reader.finish().end
    assert isinstance(end, Ended)
    assert end.whole
    assert msgspec.to_builtins(end.completion) == {
        "finish_reason": "stop", "tokens_in": 4, "tokens_out": 3, "prefill_ms": 250, "decode_ms": 750, "cached_tokens": 0,
    }  # fmt: skip
    assert bench.told == ["begun", "over"]


@pytest.mark.req("ORCH-4214")
def test_a_model_that_does_not_count_is_counted_by_its_responses() -> None:
    """Each response with text is one token, up to the limit, and the prompt is estimated by its bytes."""
    bench = Bench(msgspec.structs.replace(EXPECTED, max_tokens=2, counts_in=False, counts_out=False))
    assert (
        bench.take({"text_output": "a"}, {"text_output": ""}, {"text_output": "b"}, {"text_output": "c"}).tokens_out
        == 2
    )
    end = bench.reader.finish().end
    assert isinstance(end, Ended)
    assert (end.completion.finish_reason, end.completion.tokens_in, end.whole) == ("length", 10, False)


@pytest.mark.req("ORCH-4062")
@pytest.mark.parametrize("told", [True, False])
def test_a_stop_string_is_cut_out_across_responses(told: bool) -> None:
    """What may begin a stop string waits; at the match the stream is over, and an engine that was not told has to be stopped."""
    bench = Bench(msgspec.structs.replace(EXPECTED, stops=("END",), stops_told=told))
    assert bench.take(said("one E")).texts == ("one ",)
    reading = bench.take(said("N"), said("D and more"), said("never"))
    assert reading.texts == ()
    assert isinstance(reading.end, Ended)
    assert (reading.end.completion.finish_reason, reading.end.completion.tokens_out) == ("stop", 3)
    assert (reading.end.whole, reading.end.goes_on) == (False, not told)
    assert bench.told == ["begun", "over"]


@pytest.mark.req("ORCH-4062")
def test_what_was_held_back_comes_at_the_end() -> None:
    """The beginning of a stop string that never became one is text."""
    bench = Bench(msgspec.structs.replace(EXPECTED, stops=("END",)))
    bench.take(said("one EN"))
    assert bench.reader.finish().texts == ("EN",)


@pytest.mark.req("ORCH-4215")
def test_all_text_so_far_gives_what_is_new_in_whole_characters() -> None:
    """U+FFFD at the end of all text so far is a character that is not whole; one that never gets whole is dropped."""
    bench = Bench(msgspec.structs.replace(EXPECTED, cumulative=True))
    assert bench.take(said("a"), said("a\ufffd"), said("a\ufffd\ufffd"), said("a😀")).texts == ("a", "😀")
    assert bench.take(said("a😀 b\ufffd")).texts == (" b",)
    assert bench.take(said("a😀")).texts == ()
    assert bench.reader.finish().texts == ()


@pytest.mark.req("ORCH-4217")
def test_text_that_was_sent_already_cannot_be_changed() -> None:
    """All text so far that contradicts what was shown fails the attempt."""
    bench = Bench(msgspec.structs.replace(EXPECTED, cumulative=True))
    bench.take(said("one"))
    end = bench.take(said("two")).end
    assert isinstance(end, Broken)
    assert (end.failure, bench.told[-1]) == ("engine_error", "over")


@given(st.text("ab", min_size=1, max_size=6), st.text("abc", max_size=8), st.integers(0, 12))
@pytest.mark.req("ORCH-4222")
def test_a_repeated_prompt_is_taken_off_once(prompt: str, text: str, cut: int) -> None:
    """The prompt before the text is left out however it was cut, and is text where it comes again."""
    bench = Bench(msgspec.structs.replace(EXPECTED, echo=prompt, max_tokens=100))
    whole = prompt + text
    reading = bench.take(*(said(part) for part in (whole[:cut], whole[cut:])))
    assert "".join((*reading.texts, *bench.reader.finish().texts)) == text


@pytest.mark.req("ORCH-4222")
def test_a_text_that_only_begins_like_the_prompt_is_whole() -> None:
    """What agrees with the prompt for a while and then ends or differs is the model's own text."""
    for parts in (("On",), ("On", "ly")):
        bench = Bench(msgspec.structs.replace(EXPECTED, echo="Once"))
        texts = bench.take(*(said(part) for part in parts)).texts
        assert "".join((*texts, *bench.reader.finish().texts)) == "".join(parts)


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ("it broke", "engine_error"),
        ("Prompt length (5000) exceeds maximum input length (4096).", "rejected"),
        ("in ensemble 'ensemble', max_tokens must be a single value > 0", "rejected"),
        ("Maximum queue size reached: Exceeds maximum queue size", "overloaded"),
        ("Stub process 'tensorrt_llm_bls_0_0' is not healthy.", "lost"),
        ("CUDA error: an illegal memory access was encountered", "engine_error"),
    ],
)
@pytest.mark.req("ORCH-4461")
def test_a_models_error_is_understood_by_its_words(message: str, failure: str) -> None:
    """In the stream and before it the words decide, for the status is 400 in any case."""
    end = Bench().take({"error": message}).end
    assert isinstance(end, Broken)
    assert (end.failure, message in end.detail) == (failure, True)
    bench = Bench()
    framed = b"data: " + json.dumps({"error": message}).encode() + b"\n\n"
    refusal = bench.reader.refusal(Answer(400, framed))
    assert (refusal.failure, message in refusal.detail) == (failure, True)
    assert bench.told == (["over", "died"] if failure == "lost" else ["over"])


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (400, b'{"error":"expected number of inputs between 2 and 17"}', "rejected"),
        (500, b'{"error":"Unable to parse \'data\': attempt to access JSON non-signed-integer"}', "rejected"),
        (500, b'{"error":"it broke"}', "engine_error"),
        (404, b'{"error":"Request for unknown model: \'nope\' is not found"}', "engine_error"),
        (503, b'{"error":"Request for unknown model: it must be loaded"}', "overloaded"),
        (200, b'{"error":"generate expects model to produce exactly 1 response"}', "engine_error"),
        (502, b"<html>gateway</html>", "engine_error"),
        (400, b"\xff\xfe", "rejected"),
    ],
)
@pytest.mark.req("ORCH-4216", "ORCH-4461")
def test_the_servers_own_refusals_mean_what_their_status_says(status: int, body: bytes, failure: str) -> None:
    """Only a request that could not be read is 500 and yet the caller's fault; an error with 200 is one all the same."""
    refusal = Bench().reader.refusal(Answer(status, body))
    assert (refusal.failure, str(status) in refusal.detail) == (failure, True)


@pytest.mark.req("ORCH-4217")
def test_an_event_that_is_no_json_ends_the_stream() -> None:
    """What came before it is kept."""
    bench = Bench()
    reading = bench.reader.take([SseEvent(json.dumps(said("a")).encode()), SseEvent(b'{"text_ou')])
    assert reading.texts == ("a",)
    assert isinstance(reading.end, Broken)
    assert reading.end.failure == "engine_error"
