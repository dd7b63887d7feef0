"""The configuration's reference for people, from its types: every section, field, bound and default.

Req: ORCH-4291
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import inspect

from orchqueue.config.loader import embedded_text
from orchqueue.config.rules import ENGINE_ARGS
from orchqueue.config.types import Config

PATH = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

_INTRODUCTION = """\
# Configuration

<!-- Generated from src/orchqueue/config/types.py by `make gen`; do not edit. -->

One YAML file, named with `orchestratord serve --config FILE`. A field that is not known is refused, and every problem
of a file is told at once with its line:

```console
$ orchestratord check orchqueue.yaml
$ orchestratord config --config orchqueue.yaml    # what is in effect, defaults filled in, secrets masked
```

A running daemon reads the file again at `orchq config-reload`, or at SIGHUP with the answer in its log: as a whole, or not
at all where it has a problem. Tenants and quotas, retention, sessions, and of pools the queue, admission, timeouts,
supervision, retries, canary levels and sampler profile change at once; the answer names what waits for a restart. `orchq config-rollback`
puts what was in force before the last reload back in force; the file stays as it is.

A complete example is [examples/orchqueue.yaml](../examples/orchqueue.yaml); editors that know JSON Schema can use
[contracts/schemas/config.schema.json](../contracts/schemas/config.schema.json). Relative paths count from the file's
own directory. Aliases (`*name`) work, merging (`<<`) and tags do not.

Some rules join several fields: a pool needs `devices` or `allow_cpu: true`; `determinism: strict` needs `slots: 1`;
`tensor_split` has one ratio for each device and sums to 1; a class's `queue_capacity` is at most `queue.capacity`; an
external pool has one of `urls` for each replica; any `server.host` that others can reach needs `auth.keys_file`;
`burst` needs `requests_per_s`.

Without a file the daemon serves the embedded default:

```yaml
"""


def generate() -> Mapping[Path, str]:
    """Write the reference.

    Shape: {path: text}.
    """
    lines = [_INTRODUCTION + embedded_text().rstrip(), "```", ""]
    for path, section in _sections(_struct(inspect.type_info(Config)), ""):
        lines += [f"## {f'`{path}`' if path else 'Top level'}", "", _first_line(section), ""]
        lines += ["| Field | Value | Default | |", "|---|---|---|---|"]
        lines += [_row(field) for field in section.fields]
        if path == "pools[].launch":
            flags = (f"{engine}: " + ", ".join(f"`{name}`" for name in args) for engine, args in ENGINE_ARGS.items())
            lines += ["", f"`args` by engine: {'; '.join(flags)}."]
        lines.append("")
    return {PATH: "\n".join(lines).rstrip() + "\n"}


def _sections(section: inspect.StructType, path: str) -> Iterator[tuple[str, inspect.StructType]]:
    yield path, section
    for field in section.fields:
        inner, many = _inner(field.type)
        if inner is not None:
            yield from _sections(inner, f"{path}.{field.name}{'[]' if many else ''}".removeprefix("."))


def _inner(kind: inspect.Type) -> tuple[inspect.StructType | None, bool]:
    """Find the section that a field holds, alone, as a list, or perhaps."""
    match _bare(kind):
        case inspect.StructType() as section:
            return section, False
        case inspect.VarTupleType(item_type=item):
            return _inner(item)[0], True
        case inspect.UnionType(types=options):
            return next((found for found, _ in map(_inner, options) if found is not None), None), False
    return None, False


def _row(field: inspect.Field) -> str:
    default = "required" if field.required else _shown(field.default)
    return f"| `{field.name}` | {_value(field.type)} | {default} | {_description(field.type)} |"


def _shown(value: object) -> str:
    if isinstance(value, msgspec.Struct):
        return ""
    if value is None or value is msgspec.NODEFAULT:
        return "none"
    text = msgspec.json.encode(value).decode().strip('"')
    return "none" if text in ("[]", "{}", "null") else f"`{text}`"


def _value(kind: inspect.Type) -> str:
    match _bare(kind):
        case inspect.StructType():
            return "section, below"
        case inspect.VarTupleType(item_type=item):
            return f"list of {_value(item)}" if _inner(item)[0] is None else "list, below"
        case inspect.DictType(key_type=key, value_type=value):
            return f"mapping of {_value(key)} to {_value(value)}"
        case inspect.UnionType(types=options):
            return " or ".join(_value(option) for option in options if not isinstance(option, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in sorted(map(str, values)))
        case inspect.IntType() as number:
            return "whole number" + _bounds(number)
        case inspect.FloatType() as number:
            return "number" + _bounds(number)
        case inspect.BoolType():
            return "`true`, `false`"
    return "text"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f"{kind.ge:,}".replace(",", " ") if kind.ge is not None else "" if kind.gt is None else f"more than {kind.gt}"
    high = f"{kind.le:,}".replace(",", " ") if kind.le is not None else ""
    return f", {low} to {high}" if low and high else ""


def _description(kind: inspect.Type) -> str:
    """Take the outermost description: what the field means rather than what its kind of value is."""
    while isinstance(kind, inspect.Metadata):
        found = (kind.extra_json_schema or {}).get("description")
        if isinstance(found, str):
            return found.replace("|", "\\|")
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        return next(filter(None, map(_description, kind.types)), "")
    inner, _ = _inner(kind)
    return _first_line(inner) if inner is not None else ""


def _first_line(section: inspect.StructType) -> str:
    return (section.cls.__doc__ or "").partition("\n")[0]


def _struct(kind: inspect.Type) -> inspect.StructType:
    assert isinstance(kind, inspect.StructType)
    return kind


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind
