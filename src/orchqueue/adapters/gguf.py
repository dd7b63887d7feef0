"""The head of a GGUF file: its metadata, and where its table of tensors says that the file ends."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

Scalar = int | float | bool | str

VERSIONS = (2, 3)
F16_BYTES = 2
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_U32, _STRING, _ARRAY, _U64 = 4, 8, 9, 10
_KEYS_MAX = 4096
_TENSORS_MAX = 1 << 20
_DIMENSIONS_MAX = 4
_TEXT_MAX_BYTES = 64 * 1024 * 1024
_ALIGNMENT = 32

# Elements and bytes of one block, by the tensor's type, from ggml.h.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip

# Names of `general.file_type`, from llama.h.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


class GgufError(ValueError):
    """The file is no GGUF file that we can read."""


class GgufHead(msgspec.Struct, frozen=True):
    """What a GGUF file says of itself. `ends_at_bytes`: how long it must be at least, by its own table of tensors."""

    metadata: dict[str, Scalar]
    ends_at_bytes: int


class _Reader:
    """Reads on; a file that ends meanwhile, or claims more than it holds, is told with the part that it ends in."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._at = 0
        self.part = "header"

    def take(self, size_bytes: int) -> bytes:
        self._advance(size_bytes)
        data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            raise self._cut()
        return data

    def skip(self, size_bytes: int) -> None:
        self._advance(size_bytes)
        self._file.seek(size_bytes, 1)

    def scalar(self, kind: int) -> int | float | bool:
        layout = _SCALARS.get(kind)
        if layout is None:
            raise GgufError(f"its {self.part} holds the unknown value type {kind}")
        value: int | float | bool = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def number(self, kind: int = _U64) -> int:
        return int(self.scalar(kind))

    def text(self) -> str:
        size_bytes = self.number()
        if size_bytes > _TEXT_MAX_BYTES:
            raise GgufError(f"its {self.part} claims a text of {size_bytes} bytes")
        return self.take(size_bytes).decode("utf-8", "replace")

    def aligned(self, alignment: int) -> int:
        return -(-self._at // alignment) * alignment

    def _advance(self, size_bytes: int) -> None:
        self._at += size_bytes
        if self._at > self._size_bytes:
            raise self._cut()

    def _cut(self) -> GgufError:
        return GgufError(f"it ends within its {self.part}, after {self._size_bytes} bytes")


def read_head(path: Path) -> GgufHead:
    """Read the scalar metadata and the table of tensors; arrays (the vocabulary) are skipped.

    A tensor of a type that is not known here counts with no bytes: newer engines may know it.

    Errors: GgufError, OSError.
    Cost: reads the vocabulary, some megabytes; run it off the event loop.
    Req: ORCH-4421
    """
    with path.open("rb") as file:
        reader = _Reader(file, path.stat().st_size)
        if reader.take(4) != b"GGUF":
            raise GgufError("it is not a GGUF file")
        _check_version(reader.number(_U32))
        tensors, keys = reader.number(), reader.number()
        if keys > _KEYS_MAX or tensors > _TENSORS_MAX:
            raise GgufError(f"its header claims {keys} keys and {tensors} tensors")
        reader.part = "metadata"
        metadata: dict[str, Scalar] = {}
        for _ in range(keys):
            key = reader.text()
            value = _value(reader, reader.number(_U32))
            if value is not None:
                metadata[key] = value
        reader.part = "table of tensors"
        data_bytes = max((_tensor_end(reader) for _ in range(tensors)), default=0)
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise GgufError(f"its metadata claims an alignment of {alignment}")
        return GgufHead(metadata, reader.aligned(alignment) + data_bytes)


def quantisation(metadata: dict[str, Scalar]) -> str | None:
    """Name how the weights are stored; None where the file does not say it.

    >>> quantisation({"general.file_type": 15})
    'Q4_K_M'
    """
    kind = metadata.get("general.file_type")
    return _FILE_TYPES.get(kind) if isinstance(kind, int) else None


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


def _check_version(version: int) -> None:
    if version in VERSIONS:
        return
    if version & 0xFFFF == 0:
        raise GgufError("it is a GGUF file for big-endian machines")
    raise GgufError(f"it has GGUF version {version}; known are {' and '.join(map(str, VERSIONS))}")


def _value(reader: _Reader, kind: int) -> Scalar | None:
    if kind == _STRING:
        return reader.text()
    if kind != _ARRAY:
        return reader.scalar(kind)
    inner = reader.number(_U32)
    length = reader.number()
    if inner == _STRING:
        for _ in range(length):
            reader.skip(reader.number())
    elif inner in _SCALARS:
        reader.skip(length * struct.calcsize(_SCALARS[inner]))
    else:
        raise GgufError(f"its metadata holds an array of the unknown type {inner}")
    return None


def _tensor_end(reader: _Reader) -> int:
    """Say where a tensor's data ends, counted from where the first one's begin."""
    name = reader.text()
    dimensions = reader.number(_U32)
    if dimensions > _DIMENSIONS_MAX:
        raise GgufError(f"its tensor {name[:64]} claims {dimensions} dimensions")
    elements = 1
    for _ in range(dimensions):
        elements *= reader.number()
    per_block, block_bytes = _BLOCKS.get(reader.number(_U32), (1, 0))
    return reader.number() + elements // per_block * block_bytes
