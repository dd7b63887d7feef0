"""Judge any HTTP answer by what the contract declares for its operation.

Req: ORCH-4045
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache

from jsonschema_rs import Draft202012Validator

from orchqueue.schema.contract import DeclaredOperation, DeclaredResponse, Schema, declared_operations, packed_contract
from orchqueue.schema.validation import response_faults
from tests.contract.fuzz.transcripts import transcript_faults

STREAM = "text/event-stream"
BACKPRESSURE = (429, 503)
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
    declared = operation(operation_id).responses.get(str(status))
    if declared is None:
        return [f"{operation_id} does not declare {status}"]
    found = list(_header_faults(declared, headers))
    media_type = headers.get("content-type", "").partition(";")[0].strip()
    if media_type == STREAM and STREAM in declared.content:
        return [*found, *transcript_faults(body, began_at)]
    return [*found, *_body_faults(operation_id, declared, status, headers, body)]


def envelope_faults(status: int, headers: Mapping[str, str], body: bytes) -> list[str]:
    """List what is wrong with an error whose operation is not known: it must be one of the HTTP layer, in our own form."""
    if status not in EDGE_STATUSES:
        return [f"{status} is none of the HTTP layer's statuses"]
    # Every error response is a component that all operations share, so any operation that declares it will do.
    known = next(one for one in declared_operations() if str(status) in one.responses)
    return answer_faults(known.id, status, headers, body)


def _header_faults(declared: DeclaredResponse, headers: Mapping[str, str]) -> Iterator[str]:
    for name, schema in declared.headers.items():
        value = headers.get(name.lower())
        if value is None:
            yield f"the header {name} is missing"
        elif not any(_validator(json.dumps(schema)).is_valid(meaning) for meaning in _meanings(value)):
            yield f"the header {name} is {value!r}"


def _meanings(header: str) -> list[str | int]:
    return [header, int(header)] if header.isdecimal() else [header]


@cache
def _validator(schema: str) -> Draft202012Validator:
    loaded: Schema = json.loads(schema)
    return Draft202012Validator({"allOf": [loaded], "$defs": packed_contract().schemas})


def _body_faults(
    operation_id: str, declared: DeclaredResponse, status: int, headers: Mapping[str, str], body: bytes
) -> Iterator[str]:
    if not declared.content:
        if body:
            yield f"a body of {len(body)} bytes under {status}, which has none"
        return
    media_type = headers.get("content-type", "").partition(";")[0].strip()
    try:
        value = json.loads(body) if media_type == "application/json" else body.decode()
    except ValueError as error:
        yield f"the body is not what {media_type} means: {error}"
        return
    for fault in response_faults(operation_id, status, media_type, value):
        yield f"the body's {fault.pointer or 'whole'}: {fault.message}"
    if status >= 400 and isinstance(value, dict):
        yield from _agreement_faults(status, headers, value)


def _agreement_faults(status: int, headers: Mapping[str, str], told: Mapping[str, object]) -> Iterator[str]:
    """Compare what an error's body says with what its headers say."""
    if told.get("correlation_id") != headers.get("x-correlation-id"):
        yield "body and header name different correlation ids"
    if status in BACKPRESSURE:
        backoff_ms = int(headers.get("x-backoff-ms", "0"))
        if told.get("retry_after_ms") != backoff_ms:
            yield "X-Backoff-Ms and retry_after_ms differ"
        if headers.get("retry-after") != str(max(1, -(-backoff_ms // 1000))):
            yield "Retry-After is not X-Backoff-Ms in whole seconds, rounded up"
