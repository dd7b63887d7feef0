"""Read the OpenAPI files, and pack what the program needs of them at run time into one JSON file.

Req: ORCH-4284
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, cast

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
OPENAPI = ROOT / "contracts" / "openapi"
PACKED = ROOT / "src" / "orchqueue" / "schema" / "contract.json"
PLANES = ("data", "control")
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
SHARED_PREFIX = "data.yaml#"

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
Object: TypeAlias = dict[str, Json]


class ContractError(Exception):
    """A contract file says something that cannot be."""


def read_plane(plane: str, folder: Path = OPENAPI) -> Object:
    """Read one OpenAPI file."""
    loaded: object = YAML(typ="safe", pure=True).load((folder / f"{plane}.yaml").read_text(encoding="utf-8"))
    return cast("Object", loaded)


def _with_file(value: Json, plane: str) -> Json:
    if isinstance(value, list):
        return [_with_file(inner, plane) for inner in value]
    if not isinstance(value, dict):
        return value
    turned = {key: _with_file(inner, plane) for key, inner in value.items()}
    ref = turned.get("$ref")
    if isinstance(ref, str) and ref.startswith("#"):
        turned["$ref"] = f"{plane}.yaml{ref}"
    return turned


def read_planes(folder: Path = OPENAPI) -> dict[str, Object]:
    """Read all OpenAPI files; every reference in them then names its file.

    Errors: ContractError.
    """
    return {plane: as_object(_with_file(read_plane(plane, folder), plane), plane) for plane in PLANES}


def as_object(value: Json, where: str) -> Object:
    """Take a value for an object.

    Errors: ContractError.
    """
    if not isinstance(value, dict):
        raise ContractError(f"{where}: must be an object")
    return value


def resolve(value: Json, planes: Mapping[str, Object]) -> Object:
    """Follow `$ref`s until an object stands there; fields beside a `$ref` win over the target's.

    Errors: ContractError.
    """
    node = as_object(value, "a reference's target")
    if "$ref" not in node:
        return node
    ref = str(node["$ref"])
    file, _, pointer = ref.partition("#")
    target: Json = planes[file.removesuffix(".yaml")]
    for part in pointer.strip("/").split("/"):
        step = part.replace("~1", "/").replace("~0", "~")
        parent = as_object(target, ref)
        if step not in parent:
            raise ContractError(f"{ref}: there is no {step}")
        target = parent[step]
    beside = {key: inner for key, inner in node.items() if key != "$ref"}
    return {**resolve(target, planes), **beside}


def requirement_ids(node: Object, where: str) -> list[str]:
    """Read `x-req-id`, one id or a list.

    Errors: ContractError.
    """
    found = node.get("x-req-id", [])
    ids = found if isinstance(found, list) else [found]
    if not ids or not all(isinstance(one, str) for one in ids):
        raise ContractError(f"{where}: needs x-req-id, a requirement's id or a list of them")
    return [str(one) for one in ids]


def operations(plane: str, planes: Mapping[str, Object]) -> Iterator[tuple[str, str, Object]]:
    """Walk over (method, path, operation) of one file; parameters of the path are joined to the operation's."""
    for path, item in as_object(planes[plane]["paths"], f"{plane}.yaml#/paths").items():
        shared = as_object(item, path).get("parameters", [])
        for method in METHODS:
            if method in as_object(item, path):
                operation = dict(as_object(as_object(item, path)[method], f"{method} {path}"))
                own = operation.get("parameters", [])
                if not isinstance(shared, list) or not isinstance(own, list):
                    raise ContractError(f"{method} {path}: parameters must be a list")
                operation["parameters"] = [*shared, *own]
                yield method.upper(), path, operation


def local_refs(value: Json) -> Json:
    """Turn every reference to a schema, of whichever file, into one into the packed file."""
    if isinstance(value, list):
        return [local_refs(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    turned = {
        key: local_refs(inner) for key, inner in value.items() if key not in {"description", "examples", "x-narrows"}
    }
    if isinstance(turned.get("$ref"), str):
        turned["$ref"] = "#/$defs/" + str(turned["$ref"]).rpartition("/")[2]
    return turned


def _schemas(planes: Mapping[str, Object]) -> Object:
    packed: Object = {}
    for plane, document in planes.items():
        components = as_object(document["components"], plane)
        for name, schema in as_object(components["schemas"], plane).items():
            if name in packed:
                raise ContractError(f"{plane}.yaml: schema {name} stands in two files; refer to it instead")
            packed[name] = {
                key: local_refs(inner)
                for key, inner in as_object(schema, name).items()
                if key not in {"description", "x-narrows"}
            }
    return packed


def _parameters(operation: Object, planes: Mapping[str, Object]) -> Object:
    found: Object = {}
    listed = operation["parameters"]
    for entry in listed if isinstance(listed, list) else []:
        parameter = resolve(entry, planes)
        found[f"/{parameter['in']}/{parameter['name']}"] = local_refs(parameter["schema"])
    return found


def _header_schemas(headers: Mapping[str, Object], *, required: bool) -> Object:
    return {name: local_refs(one["schema"]) for name, one in headers.items() if one.get("required", False) is required}


def _responses(operation: Object, planes: Mapping[str, Object]) -> Object:
    found: Object = {}
    for status, entry in as_object(operation["responses"], "responses").items():
        response = resolve(entry, planes)
        headers = {name: resolve(one, planes) for name, one in as_object(response.get("headers", {}), status).items()}
        content = as_object(response.get("content", {}), status)
        found[status] = {
            "req_ids": cast("list[Json]", requirement_ids(response, f"response {status}")),
            "headers": _header_schemas(headers, required=True),
            "optional_headers": _header_schemas(headers, required=False),
            "content": {
                kind: local_refs(as_object(media, kind).get("schema", as_object(media, kind).get("itemSchema", {})))
                for kind, media in content.items()
            },
        }
    return found


def pack(folder: Path = OPENAPI) -> Object:
    """Pack schemas and operations of all files.

    Shape: {"$defs": {name: schema}, "operations": [{id, plane, method, path, scope, req_ids, parameters, body, responses}]}.
    Errors: ContractError.
    """
    planes = read_planes(folder)
    listed: list[Json] = []
    for plane in PLANES:
        for method, path, operation in operations(plane, planes):
            body = resolve(operation.get("requestBody", {}), planes)
            content = as_object(body.get("content", {}), path)
            schema = as_object(content.get("application/json", {}), path).get("schema")
            listed.append(
                {
                    "id": operation["operationId"],
                    "plane": plane,
                    "method": method,
                    "path": path,
                    "scope": operation.get("x-scope"),
                    "req_ids": cast("list[Json]", requirement_ids(operation, f"{method} {path}")),
                    "parameters": _parameters(operation, planes),
                    "body": None if schema is None else str(as_object(schema, path)["$ref"]).rpartition("/")[2],
                    "responses": _responses(operation, planes),
                }
            )
    return {"$defs": _schemas(planes), "operations": listed}


def generate() -> dict[Path, str]:
    """Write the packed contract."""
    return {PACKED: json.dumps(pack(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"}
