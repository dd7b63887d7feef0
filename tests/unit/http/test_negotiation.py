"""Small rules of the edge, apart from any socket."""

import re
from functools import cache
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core.outcome import MEANINGS, Outcome, Refusal
from orchqueue.http.negotiation import quality_of, wants_stream
from orchqueue.http.problems import Problem, problem_of, problem_response
from orchqueue.http.routing import Handler, Router
from orchqueue.schema.contract import declared_operations
from orchqueue.schema.validation import parameters_of


@pytest.mark.parametrize(
    ("accept", "weight"),
    [
        ("text/event-stream", 1.0), ("text/event-stream;q=0.5", 0.5), (" Text/Event-Stream ;Q=0.25 , x/y", 0.25),
        ("text/event-stream;q=0.1, text/event-stream;q=0.7", 0.7), ("text/event-stream;q=7", 0.0),
        ("text/event-stream;q=", 0.0), ("text/event-stream;q=nan", 0.0), ("text/event-stream;charset=x;q=0.3", 0.3),
        ("*/*", None), ("", None), (",;,", None),
    ],
)  # fmt: skip
@pytest.mark.req("ORCH-4052")
def test_quality(accept: str, weight: float | None) -> None:
    """A weight is what the header says, 1 where it says nothing, 0 where it says nonsense."""
    assert quality_of(accept, "text/event-stream") == weight


@given(st.text())
@pytest.mark.req("ORCH-4052")
def test_any_accept_header_is_survived(accept: str) -> None:
    """No Accept header breaks the choice, and a stream is never chosen for one that does not name it."""
    assert isinstance(wants_stream(accept), bool)
    if "text/event-stream" not in accept.lower():
        assert not wants_stream(accept)


VARIABLE_PATHS = sorted({operation.path for operation in declared_operations() if "{" in operation.path})
HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TRICKS = st.binary() | st.sampled_from([b".", b"..", b"%2e%2e", b"%00", b"%0a", b"a%0a", b"%ff", b"%2f", b"..%2f.."])


@cache
def router() -> Router:
    """Make a router whose handlers are never called."""
    return Router(dict.fromkeys((operation.id for operation in declared_operations()), cast("Handler", None)))


@pytest.mark.req("ORCH-4021")
@given(st.sampled_from(VARIABLE_PATHS), TRICKS)
def test_no_trick_passes_as_a_parameter(template: str, raw: bytes) -> None:
    """Whatever bytes stand in a path, what passes as its parameter is a plain name: no dots, no control character."""
    path = re.sub(rb"\{\w+\}", lambda _: raw, template.encode())
    for method in ("GET", "POST", "DELETE"):
        try:
            route, given_parameters = router().find(method, path)
        except Problem:
            continue
        _, faults = parameters_of(route.operation.id, given_parameters)
        assert faults or all(HARMLESS.fullmatch(value) for value in given_parameters.values())


@pytest.mark.req("ORCH-2007")
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
