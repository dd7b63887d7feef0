"""Small rules of the edge, apart from any socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core.outcome import MEANINGS, Outcome, Refusal
from orchqueue.http.negotiation import quality_of, wants_stream
from orchqueue.http.problems import problem_of, problem_response
from orchqueue.http.routing import split_path


@pytest.mark.parametrize(
    ("accept", "weight"),
    [
        ("text/event-stream", 1.0), ("text/event-stream;q=0.5", 0.5), (" Text/Event-Stream ;Q=0.25 , x/y", 0.25),
        ("text/event-stream;q=0.1, text/event-stream;q=0.7", 0.7), ("text/event-stream;q=7", 0.0),
        ("text/event-stream;q=", 0.0), ("text/event-stream;q=nan", 0.0), ("text/event-stream;charset=x;q=0.3", 0.3),
        ("*/*", None), ("", None), (",;,", None),
    ],
)  # fmt: skip
def test_quality(accept: str, weight: float | None) -> None:
    """A weight is what the header says, 1 where it says nothing, 0 where it says nonsense."""
    assert quality_of(accept, "text/event-stream") == weight


@given(st.text())
def test_any_accept_header_is_survived(accept: str) -> None:
    """No Accept header breaks the choice, and a stream is never chosen for one that does not name it."""
    assert isinstance(wants_stream(accept), bool)
    if "text/event-stream" not in accept.lower():
        assert not wants_stream(accept)


@pytest.mark.req("ORCH-4021")
@given(st.binary())
def test_no_path_leads_up_or_nowhere(raw: bytes) -> None:
    """Whatever the path's bytes, its segments are never empty, never dots and never hold a control character."""
    for segment in split_path(b"/" + raw) or ():
        assert segment not in ("", ".", "..")
        assert segment.isprintable()


@pytest.mark.req("ORCH-2006", "ORCH-2007")
@pytest.mark.parametrize("outcome", list(Outcome), ids=lambda outcome: outcome.value)
@pytest.mark.parametrize("retry_after_ms", [None, 0, 1, 999, 1_000, 1_001, 10**12])
def test_back_off_is_told_exactly_where_it_must(outcome: Outcome, retry_after_ms: int | None) -> None:
    """Every 429 and 503, and nothing else, carries both headers, whole seconds being the milliseconds rounded up."""
    response = problem_response(problem_of(Refusal(outcome, "why", retry_after_ms=retry_after_ms)), "c")
    told = dict(response.headers)
    if MEANINGS[outcome].status not in (429, 503):
        assert b"retry-after" not in told
        assert b"x-backoff-ms" not in told
        return
    seconds, backoff_ms = int(told[b"retry-after"]), int(told[b"x-backoff-ms"])
    assert 1 <= backoff_ms <= 86_400_000
    assert seconds >= 1
    assert (seconds - 1) * 1000 < backoff_ms <= seconds * 1000
