"""Compare values with the contract's schemas and say in plain words what is wrong, all of it at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from jsonschema_rs import Draft202012Validator, ValidationError

from orchqueue.schema.contract import JsonValue, Schema, declared_operations, packed_contract
from orchqueue.schema.data import Fault
from orchqueue.schema.strict_json import FAULTS_MAX, decode_json, pointer

__all__ = ["decode_json", "faults_of", "parameters_of", "response_faults"]

# The largest maxItems of any request is 1024. Longer lists are cut for the report, so that a hostile one stays cheap.
LIST_ITEMS_MAX = 1025
TRIM_LEVELS = 5
_SHORT_VALUE_CHARS = 40
_NEVER_REFUSED = "/header/X-Correlation-Id"
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_TYPE_WORDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}


@cache
def _validator(name: str) -> Draft202012Validator:
    return _compile({"$ref": f"#/$defs/{name}"})


def _compile(schema: Schema) -> Draft202012Validator:
    root: Schema = schema if isinstance(schema, bool) else {**schema, "$defs": packed_contract().schemas}
    return Draft202012Validator(root, validate_formats=True)


def faults_of(name: str, value: JsonValue) -> list[Fault]:
    """Compare a value with a named schema of the contract.

    Shape: [] when it fits; else at most 32 faults, sorted by pointer.
    Errors: KeyError for a name that the contract does not know.
    Cost: 3 µs for a small task that fits; the first call for a name compiles it.
    Req: ORCH-2001, ORCH-4020

    >>> faults_of("DrainRequest", {"deadline_ms": -1})
    [Fault(pointer='/deadline_ms', message='must be >= 0, got -1')]
    """
    if name not in packed_contract().schemas:
        raise KeyError(f"the contract has no schema {name}")
    return _faults(_validator(name), value)


def _faults(validator: Draft202012Validator, value: JsonValue) -> list[Fault]:
    if validator.is_valid(value):
        return []
    wrong_type: dict[str, str] = {}
    told: dict[tuple[str, str], None] = {}
    for error in validator.iter_errors(_trimmed(value, TRIM_LEVELS)):
        where, message = _tell(error)
        told[where, message] = None
        if error.kind.name == "type":
            wrong_type[where] = message
    # What else is wrong with a value of the wrong type says nothing more.
    kept = [Fault(pointer=where, message=text) for where, text in told if wrong_type.get(where, text) == text]
    return sorted(kept, key=lambda fault: fault.pointer)[:FAULTS_MAX]


def _trimmed(value: JsonValue, levels: int) -> JsonValue:
    if levels == 0:
        return value
    if isinstance(value, list):
        return [_trimmed(inner, levels - 1) for inner in value[:LIST_ITEMS_MAX]]
    if isinstance(value, dict):
        return {key: _trimmed(inner, levels - 1) for key, inner in value.items()}
    return value


def _tell(error: ValidationError) -> tuple[str, str]:
    steps = list(error.instance_path)
    details = error.kind.as_dict()
    keyword = error.kind.name
    if keyword == "required":
        steps.append(str(details["property"]))
    own = _own_message(list(error.schema_path))
    return pointer(iter(steps)), own or _message(keyword, details, error.instance)


def _own_message(path: list[str | int]) -> str | None:
    """Find the `x-fault-message` nearest to the keyword that failed."""
    node: object = {"$defs": packed_contract().schemas}
    found: str | None = None
    for step in path:
        if isinstance(node, dict):
            node = node.get(str(step))
        elif isinstance(node, list) and isinstance(step, int):
            node = node[step]
        if isinstance(node, dict):
            found = node.get("x-fault-message", found)
    return found


def _message(keyword: str, details: Mapping[str, object], value: object) -> str:
    limit = details.get("limit")
    match keyword:
        case "required":
            return "is required"
        case "type":
            types = details["types"]
            words = [_TYPE_WORDS[str(one)] for one in types] if isinstance(types, list) else []
            return f"must be {' or '.join(words)}, got {_word_for(value)}"
        case "minimum":
            return f"must be >= {limit}, got {_short(value)}"
        case "maximum":
            return f"must be <= {limit}, got {_short(value)}"
        case "exclusiveMinimum":
            return f"must be > {limit}, got {_short(value)}"
        case "exclusiveMaximum":
            return f"must be < {limit}, got {_short(value)}"
        case "minLength" | "maxLength":
            bound = "least" if keyword == "minLength" else "most"
            got = len(value) if isinstance(value, str) else 0
            return f"must have at {bound} {limit} characters, got {got}"
        case "minItems" | "maxItems":
            return f"must have at {'least' if keyword == 'minItems' else 'most'} {limit} items"
        case "enum":
            options = details["options"]
            words = [str(one) for one in options] if isinstance(options, list) else []
            return f"must be one of {', '.join(words)}, got {_short(value)}"
        case "const":
            return f"must be {details.get('expected_value')}, got {_short(value)}"
        case "pattern":
            return f"must match {details['pattern']}"
        case "format":
            return f"must be a {details['format']}"
        case "falseSchema":
            return "must not be here"
        case _:
            return f"breaks the contract's rule {keyword}"


def _word_for(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _short(value)
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def _short(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= _SHORT_VALUE_CHARS and value.isprintable() else "a string"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return _word_for(value)


@cache
def _parameter_validators(operation_id: str) -> dict[str, tuple[str, Schema, Draft202012Validator]]:
    for operation in declared_operations():
        if operation.id == operation_id:
            return {
                _folded(name): (name, schema, _compile(schema))
                for name, schema in operation.parameters.items()
                if name != _NEVER_REFUSED
            }
    raise KeyError(f"the contract has no operation {operation_id}")


def _folded(name: str) -> str:
    return name.lower() if name.startswith("/header/") else name


def parameters_of(operation_id: str, given: Mapping[str, str]) -> tuple[dict[str, str | int], list[Fault]]:
    """Read an operation's parameters from their text, fill in defaults, and name every fault.

    Shape: `given` {`/path/NAME`, `/query/NAME` or `/header/NAME`: text}, header names in any case; the answer has the
    contract's spelling. Parameters that the contract does not know are ignored, and so is a bad correlation id.
    Errors: KeyError for an operation that the contract does not know.
    Req: ORCH-4020, ORCH-4055

    >>> parameters_of("listTasks", {"/query/limit": "0"})
    ({'/query/limit': 0}, [Fault(pointer='/query/limit', message='must be >= 1, got 0')])
    """
    known = _parameter_validators(operation_id)
    values: dict[str, str | int] = {}
    for name, schema, _ in known.values():
        default = schema.get("default") if isinstance(schema, dict) else None
        if isinstance(default, (str, int)):
            values[name] = default
    faults: list[Fault] = []
    for pointed, text in given.items():
        if _folded(pointed) not in known:
            continue
        name, schema, validator = known[_folded(pointed)]
        is_integer = isinstance(schema, dict) and schema.get("type") == "integer"
        value = int(text) if is_integer and _INTEGER.fullmatch(text) else text
        values[name] = value
        faults += [Fault(pointer=name, message=fault.message) for fault in _faults(validator, value)]
    return values, faults


@cache
def _response_validator(operation_id: str, status: str, media_type: str) -> Draft202012Validator | None:
    for operation in declared_operations():
        if operation.id == operation_id and status in operation.responses:
            schema = operation.responses[status].content.get(media_type)
            return None if schema is None else _compile(schema)
    return None


def response_faults(operation_id: str, status: int, media_type: str, value: JsonValue) -> list[Fault]:
    """Compare a response's body, or one event of a stream, with what the contract declares for that status.

    Shape: an undeclared operation, status or media type is one fault.
    Req: ORCH-4080
    """
    validator = _response_validator(operation_id, str(status), media_type)
    if validator is None:
        return [Fault(pointer="", message=f"{operation_id} declares no {media_type} for status {status}")]
    return _faults(validator, value)
