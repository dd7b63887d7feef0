"""Generate the request and response types from the schemas of the OpenAPI files."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.gen_contract import PLANES, SHARED_PREFIX, Json, Object, as_object, read_plane

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "src" / "orchqueue" / "schema"
HEADER = '"""Types of the {plane} plane, generated from contracts/openapi/{plane}.yaml by `make gen`; do not edit."""\n'
FLAGS = (
    "--input-file-type=openapi",
    "--output-model-type=msgspec.Struct",
    "--openapi-scopes=schemas",
    "--base-class=orchqueue.schema.wire.Wire",
    "--target-python-version=3.11",
    "--formatters=builtin",
    "--disable-timestamp",
    "--enum-field-as-literal=all",
    "--use-annotated",
    "--keyword-only",
    "--use-schema-description",
    "--use-standard-collections",
    "--use-union-operator",
    "--use-object-type",
    "--use-default",
    "--keep-model-order",
    "--use-type-alias",
    "--use-double-quotes",
    "--strict-refs",
    '--extra-template-data={"#all#": {"base_class_kwargs": {"frozen": true, "kw_only": true, "omit_defaults": true}}}',
)
# Formats that we check ourselves and want as plain strings in the types.
STRING_FORMATS = {"uuid", "uri-reference"}


def _plain(value: Json) -> Json:
    """Leave out what a type cannot say, and make fields with a default ones that always have a value."""
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    turned = {key: _plain(inner) for key, inner in value.items() if not key.startswith("x-")}
    if turned.get("format") in STRING_FORMATS:
        del turned["format"]
    if isinstance(turned.get("description"), str):
        turned["description"] = " ".join(str(turned["description"]).split())
    parts = turned.get("allOf")
    if isinstance(parts, list) and not any("$ref" in as_object(part, "allOf") for part in parts):
        del turned["allOf"]
    properties = turned.get("properties")
    if isinstance(properties, dict):
        required = turned.get("required", [])
        filled = [name for name, field in properties.items() if isinstance(field, dict) and "default" in field]
        names = [*(required if isinstance(required, list) else []), *filled]
        if names:
            turned["required"] = list(dict.fromkeys(names))
    return turned


def view_of(plane: str) -> Object:
    """Cut one OpenAPI file down to the schemas that become types.

    Left out: schemas that only narrow another one, and the envelopes of server-sent events.
    """
    document = read_plane(plane)
    components = as_object(document["components"], plane)
    schemas: Object = {
        name: _plain(schema)
        for name, schema in as_object(components["schemas"], plane).items()
        if "x-narrows" not in as_object(schema, name) and "x-untyped" not in as_object(schema, name)
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": plane, "version": "1"},
        "paths": {},
        "components": {"schemas": schemas},
    }


def generate() -> dict[Path, str]:
    """Write one module of types for each file.

    Errors: CalledProcessError when the generator refuses.
    """
    written: dict[Path, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for plane in PLANES:
            view = json.dumps(view_of(plane)).replace(SHARED_PREFIX, "data.json#")
            (folder / f"{plane}.json").write_text(view, encoding="utf-8")
        for plane in PLANES:
            written[SCHEMA / f"{plane}.py"] = _types(folder, plane)
    return written


def _types(folder: Path, plane: str) -> str:
    mapping = () if plane == "data" else ("--external-ref-mapping=data.json=orchqueue.schema.data",)
    command = [sys.executable, "-m", "datamodel_code_generator", f"--input={plane}.json", f"--output={plane}.py"]
    subprocess.run([*command, *FLAGS, *mapping], cwd=folder, check=True)
    text = (folder / f"{plane}.py").read_text(encoding="utf-8")
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=120", "-"],
        input=HEADER.format(plane=plane) + body,
        capture_output=True,
        text=True,
        check=True,
    )
    return formatted.stdout
