"""The head of a GGUF file: enough of its metadata to know what its KV memory costs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

Scalar = int | float | bool | str

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING = 8
_ARRAY = 9
_KEYS_MAX = 4096
_STRING_MAX_BYTES = 64 * 1024 * 1024
F16_BYTES = 2


class GgufError(ValueError):
    """The file is no GGUF file that we can read."""


def read_metadata(path: Path) -> dict[str, Scalar]:
    """Read the scalar metadata; arrays (the vocabulary) are skipped.

    Errors: GgufError, OSError.
    Cost: reads the vocabulary, some megabytes; run it off the event loop.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise GgufError(f"{path.name} is not a GGUF file")
        version = _scalar(file, 4)
        if version not in {2, 3}:
            raise GgufError(f"{path.name} has GGUF version {version}; 2 and 3 are known")
        _scalar(file, 10)
        keys = int(_scalar(file, 10))
        if keys > _KEYS_MAX:
            raise GgufError(f"{path.name} claims {keys} metadata keys")
        found: dict[str, Scalar] = {}
        for _ in range(keys):
            key = _string(file)
            value = _value(file, int(_scalar(file, 4)))
            if value is not None:
                found[key] = value
        return found


def kv_bytes_per_token(metadata: dict[str, Scalar], element_bytes: int = F16_BYTES) -> int:
    """Compute what one token costs in KV memory: layers x KV heads x (key + value length) x element size.

    0 where the metadata does not tell (other kinds of model memory).

    >>> kv_bytes_per_token({"general.architecture": "llama", "llama.block_count": 30, "llama.attention.head_count": 9,
    ...                     "llama.attention.head_count_kv": 3, "llama.embedding_length": 576})
    23040
    """
    kind = metadata.get("general.architecture", "")

    def number(name: str, default: int = 0) -> int:
        value = metadata.get(f"{kind}.{name}", default)
        return value if isinstance(value, int) else default

    heads = number("attention.head_count")
    if not heads:
        return 0
    per_head = number("embedding_length") // heads
    lengths = number("attention.key_length", per_head) + number("attention.value_length", per_head)
    return number("block_count") * number("attention.head_count_kv", heads) * lengths * element_bytes


def _take(file: BinaryIO, size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise GgufError("the GGUF file ends in its metadata")
    return data


def _scalar(file: BinaryIO, kind: int) -> int | float | bool:
    layout = _SCALARS.get(kind)
    if layout is None:
        raise GgufError(f"unknown GGUF value type {kind}")
    value: int | float | bool = struct.unpack(layout, _take(file, struct.calcsize(layout)))[0]
    return value


def _string(file: BinaryIO) -> str:
    size_bytes = int(_scalar(file, 10))
    if size_bytes > _STRING_MAX_BYTES:
        raise GgufError(f"a GGUF string claims {size_bytes} bytes")
    return _take(file, size_bytes).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Scalar | None:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, kind)
    inner = int(_scalar(file, 4))
    length = int(_scalar(file, 10))
    if inner == _STRING:
        for _ in range(length):
            file.seek(int(_scalar(file, 10)), 1)
    elif inner in _SCALARS:
        file.seek(length * struct.calcsize(_SCALARS[inner]), 1)
    else:
        raise GgufError(f"unknown GGUF array type {inner}")
    return None
