"""What a client sends and what it wants to get: content types in both directions."""

from __future__ import annotations

from orchqueue.core.outcome import Fault
from orchqueue.http.messages import Request
from orchqueue.http.problems import Problem

STREAM = "text/event-stream"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def quality_of(accept: str, media_type: str) -> float | None:
    """Find the weight that an `Accept` header gives a media type by name; None when it is not named.

    >>> quality_of("text/event-stream;q=0.5, */*", "text/event-stream")
    0.5
    >>> quality_of("*/*", "text/event-stream") is None
    True
    """
    best: float | None = None
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name == media_type:
            weight = _weight(parameters)
            best = weight if best is None else max(best, weight)
    return best


def wants_stream(accept: str | None) -> bool:
    """Tell whether a client prefers the stream itself: it names it, and does not like JSON better.

    Req: ORCH-4052
    """
    if accept is None:
        return False
    stream = quality_of(accept, STREAM)
    return bool(stream) and stream is not None and stream >= (quality_of(accept, JSON) or 0.0)


def require_json(request: Request) -> None:
    """Refuse a body that does not say that it is JSON.

    A missing type or that of a form, as plain `curl -d` sends it, passes where no browser is behind it.

    Errors: Problem 415.
    Req: ORCH-2008, ORCH-4068
    """
    coding = request.value(b"content-encoding")
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        raise _unsupported("/header/Content-Encoding", "must be absent; send the body uncompressed")
    given = request.value(b"content-type")
    name, *parameters = (piece.strip().lower() for piece in (given or "").split(";"))
    if name in ("", FORM):
        if request.value(b"origin") is None and request.value(b"sec-fetch-site") is None:
            return
    elif name == JSON:
        charsets = [piece.partition("=")[2].strip('" ') for piece in parameters if piece.startswith("charset=")]
        if all(charset in ("utf-8", "utf8") for charset in charsets):
            return
        raise _unsupported("/header/Content-Type", "must be application/json in UTF-8")
    raise _unsupported("/header/Content-Type", "must be application/json")


def _unsupported(pointer: str, message: str) -> Problem:
    what = "content encoding" if pointer.endswith("Encoding") else "content type"
    return Problem(415, f"the {what} {message}", faults=(Fault(pointer, message),))


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0.0 <= weight <= 1.0 else 0.0
    return 1.0
