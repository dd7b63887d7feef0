"""The filter of stop strings: what comes through, what is held back, and that cuts make no difference."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchqueue.adapters.engines.stop_filter import StopFilter

LETTERS = "ab東🌍"
"""Few letters, so that stop strings are met, overlap and begin without ending."""
STOPS = st.lists(st.text(LETTERS, max_size=5), max_size=4)
TEXTS = st.text(LETTERS, max_size=24)
PLACES = st.lists(st.integers(0, 24), max_size=12)


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Say by the rule what comes through: look at every beginning of the text, from the shortest on."""
    for end in range(1, len(text) + 1):
        whole = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if whole:
            longest = max(whole, key=len)
            return text[: end - len(longest)], longest
    return text, None


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    """Put pieces through a filter."""
    stop_filter = StopFilter(stops)
    text = "".join([*(stop_filter.feed(piece) for piece in pieces), stop_filter.finish()])
    return text, stop_filter.matched


@pytest.mark.req("ORCH-4062")
@given(stops=STOPS, text=TEXTS, places=PLACES)
@settings(max_examples=500, deadline=None)
def test_cuts_make_no_difference(stops: list[str], text: str, places: list[int]) -> None:
    """Any cut of the text into pieces gives what the rule says of the whole, and names the same stop string."""
    bounds = sorted({0, len(text), *(min(place, len(text)) for place in places)})
    pieces = [text[a:b] for a, b in pairwise(bounds)]
    assert run(stops, pieces) == run(stops, [*text]) == run(stops, [text]) == expected(text, stops)


@pytest.mark.req("ORCH-4062")
@given(stops=STOPS, text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_no_more_is_held_back_than_must_be(stops: list[str], text: str) -> None:
    """What is held back can still become a stop string, and nothing else is."""
    stop_filter = StopFilter(stops)
    shown = ""
    for count, letter in enumerate(text, 1):
        shown += stop_filter.feed(letter)
        held = text[len(shown) : count]
        assert stop_filter.matched or not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.req("ORCH-4062")
def test_what_is_held_back_comes_at_the_end() -> None:
    """The beginning of a stop string that never became one is text like any other."""
    stop_filter = StopFilter(["END."])
    assert stop_filter.feed("the EN") == "the "
    assert stop_filter.feed("D") == ""
    assert stop_filter.finish() == "END"
    assert stop_filter.finish() == ""
    assert stop_filter.matched is None


@pytest.mark.req("ORCH-4062")
def test_nothing_comes_after_a_match() -> None:
    """The match, and all that stands after it, in its own piece or a later one, does not come through."""
    stop_filter = StopFilter(["\n\n", "stop"])
    assert stop_filter.feed("one\n") == "one"
    assert stop_filter.feed("\ntwo stop") == ""
    assert stop_filter.feed("three") == ""
    assert stop_filter.finish() == ""
    assert stop_filter.matched == "\n\n"


def test_without_stop_strings_text_goes_straight_through() -> None:
    """A filter with none, or with empty ones, holds nothing back."""
    assert StopFilter([]).feed("text") == "text"
    assert StopFilter(["", ""]).feed("text") == "text"
