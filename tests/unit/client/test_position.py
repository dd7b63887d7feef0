from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.client.errors import ReceiptMismatch, StreamMismatch
from orchqueue.client.position import Position, Transcript

pytestmark = pytest.mark.req("ORCH-4039")


def at(text: str) -> Position:
    raw = text.encode()
    return Position(len(raw), zlib.crc32(raw))


@given(st.integers(0, 10**15), st.integers(0, 2**32 - 1), st.booleans())
@pytest.mark.req("ORCH-4093")
def test_a_position_reads_back_as_written(text_bytes: int, crc32: int, ended: bool) -> None:
    """Writing and reading a position are inverse."""
    position = Position(text_bytes, crc32, ended)
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text", ["", "12", "1:AB", "01:00000000", "1:0000000", "1:00000000:END", "-1:00000000", " 1:00000000"]
)
def test_another_form_is_refused_with_the_right_one(text: str) -> None:
    """Anything but the contract's form is a ValueError that shows the form."""
    with pytest.raises(ValueError, match="BYTES:CRC32"):
        Position.parse(text)


def test_an_overlap_is_cut_and_a_repetition_dropped() -> None:
    """What is already here is not passed on again."""
    transcript = Transcript()
    assert transcript.append("ab", at("ab")) == "ab"
    assert transcript.append("ab", at("ab")) == ""
    assert transcript.append("bcd", at("abcd")) == "cd"
    assert transcript.text == "abcd"


@pytest.mark.parametrize(
    ("piece", "end", "why"),
    [
        ("xd", at("abcd"), "jumped from byte 2 to byte 3"),
        ("xcd", Position(4, 0), "not the same"),
        ("cd", Position(4, 1), "checksum"),
        ("abc", Position(2, 0), "jumped"),
    ],
)
def test_a_hole_a_difference_and_a_wrong_sum_are_told_apart(piece: str, end: Position, why: str) -> None:
    """Nothing that does not continue our text is accepted."""
    transcript = Transcript()
    transcript.append("ab", at("ab"))
    if why.startswith("jumped from"):
        end = Position(5, 0)
    with pytest.raises(StreamMismatch, match=why):
        transcript.append(piece, end)
    assert transcript.text == "ab"


def test_a_piece_cut_inside_a_character_is_a_mismatch() -> None:
    """An overlap that ends inside a character cannot be right."""
    begin = Position(1, zlib.crc32(b"\xc3"))
    with pytest.raises(StreamMismatch, match="inside a character"):
        Transcript(begin).append("é", at("é"))


@pytest.mark.req("ORCH-4229")
def test_the_receipt_must_be_of_this_text() -> None:
    """The digest is compared only where the text is whole."""
    transcript = Transcript()
    transcript.append("ab", at("ab"))
    with pytest.raises(ReceiptMismatch):
        transcript.check_end(at("ab"), "0" * 64)
    with pytest.raises(StreamMismatch, match="ended at"):
        transcript.check_end(at("abc"), "0" * 64)
    tail = Transcript(at("ab"))
    assert tail.append("bc", at("abc")) == "c"
    tail.check_end(at("abc"), "0" * 64)


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=9))
def test_pieces_that_overlap_in_any_way_give_the_text_once(text: str, steps: list[tuple[int, int]]) -> None:
    """Pieces that go back and repeat what is known add up to the text without gap or duplicate."""
    transcript = Transcript()
    passed_on = ""
    step = 0
    while len(passed_on) < len(text):
        back, forward = steps[step % len(steps)]
        first, last = max(0, len(passed_on) - back), min(len(text), len(passed_on) + forward)
        passed_on += transcript.append(text[first:last], at(text[:last]))
        assert passed_on == text[:last]
        assert transcript.append(text[first:last], at(text[:last])) == ""
        step += 1
    assert transcript.text == text
