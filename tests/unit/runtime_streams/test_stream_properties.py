"""Whatever the chunking, the resume point and the reader's speed: the same bytes, no gap, no duplicate."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.runtime import stream_log
from orchqueue.runtime.stream_log import Reader, StreamLog
from orchqueue.runtime.streams import Streams
from tests.unit.runtime_streams.reading import KEY, STARTED, attach, check_transcript, ended, position_after

PIECES = st.lists(st.text(st.characters(codec="utf-8"), max_size=4), max_size=12)
BATCHES = st.lists(PIECES, max_size=6)


@st.composite
def resumptions(draw: st.DrawFn) -> tuple[list[list[str]], int, int, list[int]]:
    """Draw a task's text in batches, a resume point, the batch at which the reader comes, and its pauses."""
    batches = draw(BATCHES)
    whole = "".join("".join(batch) for batch in batches)
    begin = draw(st.integers(0, len(whole)))
    come_at = draw(st.integers(0, len(batches)))
    rooms = draw(st.lists(st.integers(1, 200), max_size=5))
    return batches, begin, come_at, rooms


def replay(batches: list[list[str]], begin: int, come_at: int, rooms: list[int], *, from_start: bool) -> None:
    """Play one drawn story and check what its reader saw."""
    whole = "".join("".join(batch) for batch in batches)
    had = "" if from_start else whole[:begin]
    streams = Streams()
    streams.open(KEY)
    sink = None
    for index, batch in enumerate([*batches, None]):
        if index == come_at:
            sink = attach(streams, None if from_start else position_after(had).event_id, resume=False)
            sink.room = rooms.pop() if rooms else None
            assert sink.reader is not None
            sink.reader.resume()
        if index == 0:
            streams.started(STARTED)
        if batch is not None:
            streams.tokens(KEY, tuple(batch))
        if sink is not None and sink.reader is not None and sink.reader.paused and rooms:
            sink.room = rooms.pop()
            sink.reader.resume()
    streams.finish(KEY, ended())
    assert sink is not None
    assert sink.reader is not None
    while sink.over is None:
        assert sink.reader.paused, "a reader that keeps up was left without an end"
        sink.room = rooms.pop() if rooms else None
        sink.reader.resume()
    check_transcript(sink, whole, had)
    assert ("started" in [item.event for item in sink.items]) is from_start
    assert streams.text(KEY) == whole


@pytest.mark.req("ORCH-4101")
@settings(max_examples=400)
@given(resumptions())
def test_resume_anywhere(story: tuple[list[list[str]], int, int, list[int]]) -> None:
    """A reader that resumes at any character, at any time, gets exactly the rest."""
    batches, begin, come_at, rooms = story
    replay(batches, begin, come_at, list(rooms), from_start=False)


@pytest.mark.req("ORCH-4092", "ORCH-4100")
@settings(max_examples=200)
@given(resumptions())
def test_read_from_start(story: tuple[list[list[str]], int, int, list[int]]) -> None:
    """A reader that comes at any time without an id gets everything, `started` included."""
    batches, begin, come_at, rooms = story
    replay(batches, begin, come_at, list(rooms), from_start=True)


def no_split(log: StreamLog, reader: Reader, position: object) -> bool:
    """Seek, but send a chunk whole when the reader had half of it."""
    found = SEEK(log, reader, position)  # type: ignore[arg-type]
    if reader.prefix:
        reader.prefix = b""
        chunk = list(log.frame_ends).index(reader.offset)
        reader.offset = log.frame_ends[chunk - 1] if chunk else log.started_bytes
    return found


def deaf_to_pause(reader: Reader) -> None:
    """Pause, but forget where."""
    log = reader.log
    PAUSE(reader)
    if log is not None:
        reader.offset = 0


SEEK = StreamLog._seek_inside
PAUSE = Reader.pause


def replay_everywhere() -> None:
    """Resume one task at every place with readers of different speed."""
    for begin in range(13):
        for room in (1, 60, 90, 1000):
            replay([["ab", "cdef"], ["gh", "ij"], ["kl"]], begin, 1, [room], from_start=False)


@pytest.mark.parametrize(
    ("owner", "name", "planted"),
    [(StreamLog, "_seek_inside", no_split), (Reader, "pause", deaf_to_pause)],
    ids=["chunk not split", "pause loses its place"],
)
def test_planted_bug_is_caught(owner: type, name: str, planted: Callable[..., object]) -> None:
    """The property fails when a reader's place is computed wrongly."""
    with patch.object(owner, name, planted), pytest.raises(AssertionError):
        replay_everywhere()


@pytest.mark.req("ORCH-4107")
def test_piece_size_bounds_each_write() -> None:
    """Catching up sends no more than one bounded piece at a time."""
    streams = Streams()
    streams.open(KEY)
    for _ in range(40):
        streams.tokens(KEY, ("x" * 10_000,))
    sink = attach(streams, resume=False)
    sink.room = 1
    assert sink.reader is not None
    sink.reader.resume()
    assert len(sink.raw) == stream_log.PIECE_BYTES
