"""The packed contract: what the OpenAPI files say, as the program needs it at run time."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias

import msgspec

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
# A JSON Schema is true, false or an object.
Schema: TypeAlias = bool | dict[str, object]


class DeclaredResponse(msgspec.Struct, frozen=True):
    """One status that an operation may answer with.

    Shape: `headers` {name: schema} of those that it always carries, `optional_headers` of those that it may carry;
    `content` {media type: schema}, empty for no body. The schema of `text/event-stream` is that of one event.
    """

    headers: dict[str, Schema]
    optional_headers: dict[str, Schema]
    content: dict[str, Schema]
    req_ids: tuple[str, ...]


class DeclaredOperation(msgspec.Struct, frozen=True):
    """One call that the contract declares.

    Shape: `path` as a template (`/v1/tasks/{task_id}`); `scope` what a key needs, None for no key; `parameters`
    {`/path/NAME`, `/query/NAME` or `/header/NAME`: schema}; `body` the name of the request body's schema; `responses` {status}.
    """

    id: str
    plane: Literal["data", "control"]
    method: str
    path: str
    scope: Literal["tasks", "control"] | None
    req_ids: tuple[str, ...]
    parameters: dict[str, Schema]
    body: str | None
    responses: dict[str, DeclaredResponse]


class PackedContract(msgspec.Struct, frozen=True):
    """Both OpenAPI files."""

    schemas: dict[str, Schema] = msgspec.field(name="$defs")
    operations: tuple[DeclaredOperation, ...]


@cache
def packed_contract() -> PackedContract:
    """Read the packed contract, once."""
    return msgspec.json.decode(files(__package__).joinpath("contract.json").read_bytes(), type=PackedContract)


def declared_operations() -> tuple[DeclaredOperation, ...]:
    """List every call that the contract declares: the data plane's first, each file in its own order.

    Req: ORCH-4029
    """
    return packed_contract().operations
