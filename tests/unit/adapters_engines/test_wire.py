"""The sans-IO response parser and event splitter, however the bytes are cut."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.adapters.engines.wire import ResponseReader, SseEvent, SseSplitter, WireError

BODY = (
    b'data: {"a":1}\n\n: ping\n\ndata: two\r\ndata: lines\r\n\r\n\n\n'
    b'event: odd\ndata:tight\n\nevent: even\ndata: loose\n\nid: 7\nretry: 5\n\n'
    b"data: \xf0\x9f\x98\x80 emoji\r\rerror: {\"code\":500}\n\ndata\n\nevent: name only\n\ndata: last\n\n"
)  # fmt: skip
EVENTS = [
    SseEvent(b'{"a":1}'),
    SseEvent(b"two\nlines"),
    SseEvent(b"tight", b"odd"),
    SseEvent(b"loose", b"even"),
    SseEvent(b"\xf0\x9f\x98\x80 emoji"),
    SseEvent(b'{"code":500}', b"error"),
    SseEvent(b""),
    SseEvent(b"last"),
]
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream; x=y\r\n\r\n"
    + (b"%x\r\n%b\r\n" % (40, BODY[:40]) + b"%x;ext=1\r\n%b\r\n" % (len(BODY) - 40, BODY[40:]) + b"0\r\n\r\n")
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at the places."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


places = st.lists(st.integers(min_value=0, max_value=10_000), max_size=60)


@given(places)
@pytest.mark.req("ORCH-4092", "ORCH-4215")
def test_any_cut_of_a_body_gives_the_same_events(at: list[int]) -> None:
    """Events do not depend on where reads end."""
    splitter = SseSplitter()
    events = [event for part in cut(BODY, at) for event in splitter.feed(part)]
    assert events == EVENTS


LINES = re.split(rb"(?<=\n)", BODY)
BYTES = [BODY[i : i + 1] for i in range(len(BODY))]
BEHIND_A_NAME = re.split(rb"(?<=even\n)|(?<=loose\n\n)", BODY)


@pytest.mark.parametrize("parts", [LINES, BYTES, BEHIND_A_NAME], ids=["lines", "bytes", "behind-a-name"])
def test_a_cut_at_every_line_and_every_byte(parts: list[bytes]) -> None:
    """Reads that end with each line, hold one byte each, or end behind an event's name give the same events."""
    splitter = SseSplitter()
    assert [event for part in parts for event in splitter.feed(part)] == EVENTS


@pytest.mark.req("ORCH-4215")
@given(st.lists(st.tuples(st.sampled_from([b"data:", b"data: ", b"data:  "]), st.binary(max_size=3)), max_size=4))
def test_a_space_behind_the_colon_is_taken_off_once(written: list[tuple[bytes, bytes]]) -> None:
    """With or without a space, mixed or not, a read of whole events gives what its bytes give one by one."""
    body = b"".join(lead + text + b"\n\n" for lead, text in written)
    at_once, by_byte = SseSplitter(), SseSplitter()
    events = at_once.feed(body)
    assert events == [event for i in range(len(body)) for event in by_byte.feed(body[i : i + 1])]


@given(places)
@pytest.mark.req("ORCH-4215")
def test_any_cut_of_a_response_gives_the_same_events(at: list[int]) -> None:
    """Chunked framing and an interim head come through in any pieces."""
    reader = ResponseReader()
    splitter = SseSplitter()
    events = [event for part in cut(CHUNKED, at) for event in splitter.feed(reader.feed(part))]
    assert events == EVENTS
    assert reader.complete
    assert reader.head is not None
    assert reader.head.status == 200
    assert reader.head.content_type == b"text/event-stream"


@given(st.binary(max_size=300), places)
def test_no_bytes_crash_the_reader(junk: bytes, at: list[int]) -> None:
    """Whatever comes, the reader gives bytes or a WireError."""
    reader = ResponseReader()
    try:
        for part in cut(b"HTTP/1.1 200 OK\r\n" + junk, at):
            reader.feed(part)
        reader.feed_eof()
    except WireError:
        return
    assert reader.complete


@given(st.lists(st.binary(max_size=50), max_size=30))
def test_no_bytes_crash_the_splitter(parts: list[bytes]) -> None:
    """Whatever comes, the splitter gives the same events as for all bytes at once."""
    one = SseSplitter()
    many = SseSplitter()
    assert [event for part in parts for event in many.feed(part)] == one.feed(b"".join(parts))


def test_bytes_at_once_are_one_answer_with_a_length() -> None:
    """A response with a length is complete when its bytes are there, and not before."""
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nab") == b"ab"
    with pytest.raises(WireError, match="middle"):
        reader.feed_eof()
    assert reader.feed(b"cd") == b"cd"
    assert reader.complete
    with pytest.raises(WireError, match="after the end"):
        reader.feed(b"x")


def test_the_end_of_the_connection_ends_a_response_without_length() -> None:
    """Without framing the body lasts until the peer closes."""
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") == b"abc"
    seen = [reader.complete]
    reader.feed_eof()
    assert [*seen, reader.complete] == [False, True]


def test_nothing_at_all_is_no_response() -> None:
    """A connection that closes before a head is an error."""
    with pytest.raises(WireError, match="before a response"):
        ResponseReader().feed_eof()


def test_a_second_response_is_refused() -> None:
    """Bytes of another response behind the first are an error."""
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(WireError):
        ResponseReader().feed(one + one)


def test_an_endless_head_is_refused() -> None:
    """A head over its bound ends the exchange."""
    reader = ResponseReader(head_max_bytes=1000)
    reader.feed(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(9):
        reader.feed(b"a" * 100)
    with pytest.raises(WireError, match="too long"):
        reader.feed(b"a" * 100)


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 60, b"data: x\ndata: y\n" * 6], ids=["one-line", "many-lines"])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    """An event over its bound ends the stream."""
    splitter = SseSplitter(event_max_bytes=100)
    splitter.feed(piece)
    with pytest.raises(WireError, match="longer"):
        splitter.feed(piece)
