"""What must hold of the OpenAPI files; each check returns the problems that it found."""

import json
from collections.abc import Iterator, Mapping
from typing import cast

from openapi_spec_validator import OpenAPIV32SpecValidator

from orchqueue.schema.contract import JsonValue
from orchqueue.schema.data import Fault
from orchqueue.schema.validation import decode_json, faults_of, parameters_of, response_faults
from tools.gen_contract import Object, as_object, operations, read_planes, resolve

Planes = Mapping[str, Object]

EVENT_DATA = {
    "started": "StartedEvent",
    "token": "TokenEvent",
    "metrics": "MetricsEvent",
    "end": "EndEvent",
    "error": "ErrorEnvelope",
}
ERROR_HEADERS = {
    "401": {"WWW-Authenticate"},
    "405": {"Allow"},
    "429": {"Retry-After", "X-Backoff-Ms"},
    "503": {"Retry-After", "X-Backoff-Ms"},
}
EDGE_STATUSES = {"400", "405", "408", "413", "429", "431", "500", "503"}
REQUEST_ITEMS_MAX = 1024


def all_operations(planes: Planes) -> Iterator[tuple[str, Object]]:
    """Walk over (operation id, operation) of all files."""
    for plane in planes:
        for _, _, operation in operations(plane, planes):
            yield str(operation["operationId"]), operation


def responses_of(operation: Object, planes: Planes) -> Iterator[tuple[str, Object]]:
    """Walk over (status, response) of an operation."""
    for status, entry in as_object(operation["responses"], "responses").items():
        yield status, resolve(entry, planes)


def absolute(planes: Planes) -> Object:
    """Join all files into one document, for a validator that reads no files."""
    text = json.dumps(planes["control"])
    for plane in planes:
        text = text.replace(f'"{plane}.yaml#', '"#')
    joined = as_object(json.loads(text), "control")
    data = as_object(json.loads(json.dumps(planes["data"]).replace('"data.yaml#', '"#')), "data")
    for section, content in as_object(data["components"], "components").items():
        mine = as_object(as_object(joined["components"], "components").setdefault(section, {}), section)
        mine.update(as_object(content, section))
    as_object(joined["paths"], "paths").update(as_object(data["paths"], "paths"))
    return joined


def openapi_problems(planes: Planes) -> list[str]:
    """Compare the files with the rules of OpenAPI 3.2."""
    return [str(error) for error in OpenAPIV32SpecValidator(cast("dict[str, object]", absolute(planes))).iter_errors()]


def response_problems(planes: Planes) -> list[str]:
    """Find operations that do not declare what can always happen, and answers without the headers they must carry."""
    found: list[str] = []
    for name, operation in all_operations(planes):
        declared = dict(responses_of(operation, planes))
        wanted = set(EDGE_STATUSES)
        if "x-scope" in operation:
            wanted |= {"401", "403"}
        if operation.get("requestBody"):
            wanted.add("415")
        found += [f"{name}: {status} is not declared" for status in sorted(wanted - set(declared))]
        for status, response in declared.items():
            headers = set(as_object(response.get("headers", {}), status))
            missing = ({"X-Correlation-Id"} | ERROR_HEADERS.get(status, set())) - headers
            found += [f"{name} {status}: no {header}" for header in sorted(missing)]
            if int(status) >= 400 and "application/json" not in as_object(response.get("content", {}), status):
                found.append(f"{name} {status}: an error needs a body")
    return found


def _media(response: Object) -> Iterator[tuple[str, Object]]:
    for kind, media in as_object(response.get("content", {}), "content").items():
        yield kind, as_object(media, kind)


def good_values(media: Object, planes: Planes) -> Iterator[tuple[str, JsonValue]]:
    """Walk over (name, value) of a body's examples."""
    for name, entry in as_object(media.get("examples", {}), "examples").items():
        yield name, resolve(entry, planes)["value"]


def event_faults(item: JsonValue) -> list[Fault]:
    """Check one server-sent event, {event, id?, data}: its form, and the JSON in its data."""
    if not isinstance(item, dict) or item.get("event") not in EVENT_DATA:
        return [Fault(pointer="/event", message="unknown event")]
    event = str(item["event"])
    found = faults_of(f"{event.capitalize()}Item", item)
    value, broken = decode_json(str(item.get("data", "")).encode())
    inner = broken or faults_of(EVENT_DATA[event], value)
    return found + [Fault(pointer=f"/data{one.pointer}", message=one.message) for one in inner]


def _good_response_faults(name: str, status: str, kind: str, value: JsonValue) -> list[Fault]:
    if kind == "text/event-stream":
        return [fault for item in (value if isinstance(value, list) else [value]) for fault in event_faults(item)]
    return response_faults(name, int(status), kind, value)


def good_example_problems(planes: Planes) -> list[str]:
    """Find bodies and parameters without an example, and examples that break their schema."""
    found: list[str] = []
    for name, operation in all_operations(planes):
        if operation.get("requestBody"):
            media = dict(_media(resolve(operation["requestBody"], planes)))["application/json"]
            schema = str(as_object(media["schema"], name)["$ref"]).rpartition("/")[2]
            values = list(good_values(media, planes))
            if not values:
                found.append(f"{name}: the request has no example")
            found += [f"{name} {label}: {fault}" for label, value in values for fault in faults_of(schema, value)]
        found += _parameter_problems(name, operation, planes)
        for status, response in responses_of(operation, planes):
            for kind, media in _media(response):
                values = list(good_values(media, planes))
                if not values:
                    found.append(f"{name} {status}: no example")
                for label, value in values:
                    faults = _good_response_faults(name, status, kind, value)
                    found += [f"{name} {status} {label}: {fault}" for fault in faults]
    return found


def _parameter_problems(name: str, operation: Object, planes: Planes) -> list[str]:
    found: list[str] = []
    listed = operation["parameters"]
    for entry in listed if isinstance(listed, list) else []:
        parameter = resolve(entry, planes)
        where = f"/{parameter['in']}/{parameter['name']}"
        values = list(good_values(parameter, planes))
        if not values:
            found.append(f"{name} {where}: no example")
        for label, value in values:
            _, faults = parameters_of(name, {where: str(value)})
            found += [f"{name} {where} {label}: {fault}" for fault in faults]
    return found


def bad_example_problems(planes: Planes) -> list[str]:
    """Find operations without a bad example, and bad examples that pass or whose faults lie elsewhere than they say."""
    found: list[str] = []
    for name, operation in all_operations(planes):
        examples = as_object(operation.get("x-bad-examples", {}), name)
        if not examples:
            found.append(f"{name}: no bad example")
        for label, entry in examples.items():
            example = as_object(entry, label)
            wanted, got = _bad_pointers(name, operation, example, planes)
            if wanted != got:
                found.append(f"{name} {label}: faults at {sorted(got)}, wanted {sorted(wanted)}")
    return found


def _bad_pointers(name: str, operation: Object, example: Object, planes: Planes) -> tuple[set[str], set[str]]:
    place = str(example["in"])
    if place in {"path", "query", "header"}:
        where = f"/{place}/{example['name']}"
        return {where}, {fault.pointer for fault in parameters_of(name, {where: str(example["value"])})[1]}
    listed = example["pointers"]
    wanted = {str(one) for one in listed} if isinstance(listed, list) else set()
    if place == "request":
        media = dict(_media(resolve(operation["requestBody"], planes)))["application/json"]
        schema = str(as_object(media["schema"], name)["$ref"]).rpartition("/")[2]
        faults = faults_of(schema, example["value"])
    else:
        kind = next(iter(dict(_media(dict(responses_of(operation, planes))[place]))))
        faults = _good_response_faults(name, place, kind, example["value"])
    return wanted, {fault.pointer for fault in faults}


def limit_problems(planes: Planes) -> list[str]:
    """Find fields without a description or a bound."""
    found: list[str] = []
    for plane in planes:
        schemas = as_object(as_object(planes[plane]["components"], plane)["schemas"], plane)
        for name, schema in schemas.items():
            if "x-narrows" in as_object(schema, name):
                continue
            if "description" not in as_object(schema, name):
                found.append(f"{name}: no description")
            for part in _parts(as_object(schema, name)):
                for field, inner in as_object(part.get("properties", {}), name).items():
                    if isinstance(inner, dict) and "x-untyped" not in as_object(schema, name):
                        found += _field_problems(f"{name}.{field}", inner, planes)
    return found


def _parts(schema: Object) -> Iterator[Object]:
    yield schema
    joined = schema.get("allOf", [])
    for part in joined if isinstance(joined, list) else []:
        if isinstance(part, dict) and "properties" in part and "if" not in part:
            yield part


def _field_problems(where: str, field: Object, planes: Planes) -> Iterator[str]:
    schema = resolve(field, planes)
    kinds = schema.get("type")
    kind = next(one for one in kinds if one != "null") if isinstance(kinds, list) else kinds
    if "description" not in schema:
        yield f"{where}: no description"
    needed = {"integer": {"minimum", "maximum"}, "array": {"maxItems", "items"}}.get(str(kind), set())
    if not needed <= set(schema):
        yield f"{where}: needs {sorted(needed)}"
    if kind == "string" and not {"maxLength", "enum", "pattern", "const"} & set(schema):
        yield f"{where}: needs a bound on its length"


def request_list_problems(planes: Planes) -> list[str]:
    """Find lists in requests that are longer than the report of faults looks at."""
    found: list[str] = []
    for name, operation in all_operations(planes):
        if operation.get("requestBody"):
            media = dict(_media(resolve(operation["requestBody"], planes)))["application/json"]
            found += [f"{name}: {where}" for where in _long_lists(resolve(media["schema"], planes), planes, "")]
    return found


def _long_lists(schema: Object, planes: Planes, where: str) -> Iterator[str]:
    size = schema.get("maxItems")
    if schema.get("type") == "array" and (not isinstance(size, int) or size > REQUEST_ITEMS_MAX):
        yield f"{where} has no maxItems up to {REQUEST_ITEMS_MAX}"
    for field, inner in as_object(schema.get("properties", {}), where).items():
        if isinstance(inner, dict):
            yield from _long_lists(resolve(inner, planes), planes, f"{where}/{field}")


def planes_on_disk() -> dict[str, Object]:
    """Read the files as they are."""
    return read_planes()
