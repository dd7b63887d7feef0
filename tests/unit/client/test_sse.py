from __future__ import annotations

from itertools import pairwise

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.client.sse import EventTooLarge, SseEvent, SseParser


def parse(*chunks: bytes) -> list[SseEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_all_three_line_endings_mean_the_same() -> None:
    """LF, CRLF and CR end lines alike."""
    stream = b"event: a\ndata: 1\ndata: 2\n\n"
    expected = [SseEvent("a", "1\n2", "", has_own_id=False)]
    assert parse(stream) == expected
    assert parse(stream.replace(b"\n", b"\r\n")) == expected
    assert parse(stream.replace(b"\n", b"\r")) == expected


def test_a_pair_cut_between_chunks_ends_one_line_only() -> None:
    """CR at the end of one chunk and LF at the start of the next are one line ending."""
    assert [e.data for e in parse(b"data: 1\r", b"\ndata: 2\r", b"", b"\n\r", b"\n")] == ["1\n2"]


def test_byte_order_mark_is_dropped_only_at_the_start() -> None:
    """A leading BOM is no part of the first field; a later one is."""
    assert [e.data for e in parse(b"\xef\xbb", b"\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n")] == ["1"]


def test_an_event_without_data_is_not_dispatched_but_keeps_its_id() -> None:
    """A block without data is dropped and only its id stays."""
    events = parse(b"id: 7\nevent: lost\n\ndata: x\n\n")
    assert events == [SseEvent("message", "x", "7", has_own_id=False)]


def test_an_empty_data_line_is_data() -> None:
    """`data` alone dispatches an event with an empty text."""
    assert parse(b"data\n\n") == [SseEvent("message", "", "", has_own_id=False)]


def test_comments_ids_with_nul_and_odd_retries_are_ignored() -> None:
    """Comments are counted, a NUL spoils an id, and retry takes digits only."""
    parser = SseParser()
    events = parser.feed(b": hb\nid: a\0b\nretry: 10\nretry: x\nretry: \nunknown: y\ndata:  two spaces\n\n")
    assert events == [SseEvent("message", " two spaces", "", has_own_id=False)]
    assert (parser.comments, parser.retry_ms) == (1, 10)


def test_an_endless_line_is_refused() -> None:
    """Memory for one event is bounded, in one line or in many."""
    for chunk in (b"data", b"data: x\n"):
        parser = SseParser(max_event_bytes=100)
        with pytest.raises(EventTooLarge, match="100 bytes"):
            feed_often(parser, chunk)


def feed_often(parser: SseParser, chunk: bytes) -> None:
    for _ in range(100):
        parser.feed(chunk)


LINES = st.lists(
    st.sampled_from(
        [
            "",
            "",
            "",
            "data: a",
            "data:b",
            "data",
            "data:  ",
            ": c",
            "id: 1",
            "id: é",
            "event: t",
            "event",
            "retry: 5",
            "x",
            "data: ü\u2028\x0b",
        ]
    ),
    max_size=30,
)


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200), max_size=12))
def test_any_chunking_equals_an_independent_parser(lines: list[str], ending: str, cuts: list[int]) -> None:
    """Whatever the cuts, the events are those of httpx-sse (which also reports blocks without data: left out here)."""
    text = "".join(line + ending for line in lines)
    raw = text.encode()
    bounds = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    ours = parse(*(raw[a:b] for a, b in pairwise(bounds)))
    line_decoder, decoder = SSELineDecoder(), SSEDecoder()
    theirs = []
    for line in [*line_decoder.decode(text), *line_decoder.flush()]:
        has_data = bool(decoder._data)
        event = decoder.decode(line)
        if event is not None and has_data:
            theirs.append((event.event, event.data, event.id))
    assert [(e.event, e.data, e.last_event_id) for e in ours] == theirs


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(raw: bytes) -> None:
    """No input raises, and byte by byte gives the same as at once."""
    assert parse(raw) == parse(*(raw[i : i + 1] for i in range(len(raw))))
