"""Judge any HTTP answer by what the contract declares for its operation: the law that holds for the pact holds here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from orchqueue.schema.contract import DeclaredOperation, declared_operations
from tests.contract.fuzz.transcripts import framing_faults
from tests.contract.provider.answer_law import exchange_faults
from tests.contract.provider.recording_proxy import Answer, Exchange

STREAM = "text/event-stream"
# What the HTTP layer answers before it knows, or instead of knowing, which operation was meant.
EDGE_STATUSES = frozenset({400, 401, 403, 404, 405, 408, 413, 415, 429, 431})


@cache
def operation(operation_id: str) -> DeclaredOperation:
    """Find a declared call."""
    return next(one for one in declared_operations() if one.id == operation_id)


def answer_faults(
    operation_id: str, status: int, headers: Mapping[str, str], body: bytes, began_at: str | None = None
) -> list[str]:
    """List what an answer does against the contract: status, headers, media type, body, and how these fit together.

    Shape: `headers` by lower-case name. A stream must have been read to its end; `began_at` is where it was resumed.
    """
    declared = operation(operation_id)
    target = re.sub(r"\{\w+\}", "any", declared.path)
    resumed = (("last-event-id", began_at),) if began_at is not None else ()
    exchange = Exchange(declared.method, target, resumed, Answer(status, tuple(headers.items()), body))
    framing = framing_faults(body) if headers.get("content-type") == STREAM else []
    return framing or exchange_faults(exchange)


def envelope_faults(status: int, headers: Mapping[str, str], body: bytes) -> list[str]:
    """List what is wrong with an error whose operation is not known: it must be one of the HTTP layer, in our own form."""
    if status not in EDGE_STATUSES:
        return [f"{status} is none of the HTTP layer's statuses"]
    # Every error response is a component that all operations share, so any operation that declares it will do.
    known = next(one for one in declared_operations() if str(status) in one.responses)
    return answer_faults(known.id, status, headers, body)
