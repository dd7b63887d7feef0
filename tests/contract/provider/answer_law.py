"""Hold one real exchange against the OpenAPI files: path, method, status, each header, the body, and what ties them.

Req: ORCH-4029, ORCH-4234
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from urllib.parse import urlsplit

from jsonschema_rs import Draft202012Validator

from orchqueue.client.sse import SseParser
from orchqueue.schema.contract import (
    DeclaredOperation,
    DeclaredResponse,
    JsonValue,
    Schema,
    declared_operations,
    packed_contract,
)
from orchqueue.schema.validation import decode_json, response_faults
from tests.contract.provider.recording_proxy import Answer, Exchange, values_of
from tests.contract.provider.stream_law import as_item, stream_faults

# HTTP's own; every other header of an answer must be declared.
OF_HTTP = frozenset({"content-type", "content-length", "transfer-encoding", "connection", "date"})
TOLD_TWICE = {"X-Task-Id": "task_id", "X-Queue-Position": "queue_position", "X-Queue-ETA-Ms": "predicted_start_ms"}


@cache
def _template(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", path))


def declared_for(method: str, path: str) -> DeclaredOperation | None:
    """Find the operation that the contract declares for a request."""
    for operation in declared_operations():
        if operation.method.upper() == method and _template(operation.path).fullmatch(path):
            return operation
    return None


def exchange_faults(exchange: Exchange) -> list[str]:
    """Name everything about an exchange that the contract does not allow."""
    answer = exchange.answer
    operation = declared_for(exchange.method, urlsplit(exchange.target).path)
    if operation is None:
        return [f"{exchange.method} {exchange.target} is not declared"]
    declared = operation.responses.get(str(answer.status))
    if declared is None:
        return [f"{operation.id} declares no status {answer.status}"]
    found = [] if answer.whole else ["the answer was cut off before its end"]
    found += _header_faults(declared, answer)
    found += _body_faults(operation, declared, exchange)
    return [f"{operation.id} {answer.status}: {fault}" for fault in found]


def _header_faults(declared: DeclaredResponse, answer: Answer) -> list[str]:
    found = undeclared_headers(declared, (name for name, _ in answer.headers))
    for name, schema in (declared.headers | declared.optional_headers).items():
        given = values_of(answer.headers, name)
        if not given and name in declared.optional_headers:
            continue
        if len(given) != 1:
            found.append(f"{name} is promised once and comes {len(given)} times")
            continue
        validator = _compile(schema)
        found += [f"{name}: {error.message}" for error in validator.iter_errors(_typed(schema, given[0]))]
    return found


def undeclared_headers(declared: DeclaredResponse, names: Iterable[str]) -> list[str]:
    """Name the headers that neither HTTP nor the contract knows for this answer."""
    known = OF_HTTP | {name.lower() for name in declared.headers | declared.optional_headers}
    return [f"{name} is not declared" for name in names if name.lower() not in known]


def _compile(schema: Schema) -> Draft202012Validator:
    root: Schema = schema if isinstance(schema, bool) else {**schema, "$defs": packed_contract().schemas}
    return Draft202012Validator(root, validate_formats=True)


def _typed(schema: Schema, text: str) -> JsonValue:
    is_integer = isinstance(schema, dict) and schema.get("type") == "integer"
    return int(text) if is_integer and re.fullmatch("-?[0-9]+", text) else text


def _body_faults(operation: DeclaredOperation, declared: DeclaredResponse, exchange: Exchange) -> list[str]:
    answer = exchange.answer
    kind = ";".join(values_of(answer.headers, "content-type")).partition(";")[0].strip()
    if not declared.content:
        return ["a body where none is declared"] if answer.body else []
    if kind == "text/event-stream" and kind in declared.content:
        items = [as_item(event) for event in SseParser().feed(answer.body)]
        after = values_of(exchange.headers, "last-event-id")
        return [
            *(str(f) for item in items for f in response_faults(operation.id, answer.status, kind, item)),
            *stream_faults(answer.body, after[0] if after else None),
        ]
    if kind != "application/json":
        return [str(fault) for fault in response_faults(operation.id, answer.status, kind, _text(answer.body))]
    value, broken = decode_json(answer.body)
    faults = broken or response_faults(operation.id, answer.status, kind, value)
    if faults:
        return [str(fault) for fault in faults]
    return _tie_faults(answer, value) if isinstance(value, dict) else []


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _tie_faults(answer: Answer, body: Mapping[str, JsonValue]) -> list[str]:
    """Compare what an answer says in its headers and again in its body."""
    found = []
    correlation_id = values_of(answer.headers, "x-correlation-id")
    if "correlation_id" in body and [body["correlation_id"]] != correlation_id:
        found.append(f"correlation_id is {body['correlation_id']} in the body and {correlation_id} in the header")
    for header, name in TOLD_TWICE.items():
        told = values_of(answer.headers, header)
        if told and name in body and told != [str(body[name])]:
            found.append(f"{header} is {told}, {name} is {body[name]}")
    if answer.status in (429, 503):
        found += _backoff_faults(answer, body)
    return found


def _backoff_faults(answer: Answer, body: Mapping[str, JsonValue]) -> list[str]:
    """Whole seconds, rounded up; milliseconds equal to the body's."""
    backoff_ms = body.get("retry_after_ms")
    if not isinstance(backoff_ms, int):
        return ["retry_after_ms is missing in the body"]
    wanted = {"X-Backoff-Ms": backoff_ms, "Retry-After": max(1, -(-backoff_ms // 1000))}
    return [
        f"{name} is {values_of(answer.headers, name)}, retry_after_ms {backoff_ms} makes it {value}"
        for name, value in wanted.items()
        if values_of(answer.headers, name) != [str(value)]
    ]
