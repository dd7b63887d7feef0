"""GGUF files made for tests: small whole ones, and ones that are wrong in one way each."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from orchqueue.adapters.models import find_bundled
from tests.waiting import until

BUNDLED = "bundled:smollm2-135m-instruct-q4_1"
U32, TEXT, U64 = 4, 8, 10
F32 = 0
ALIGNMENT = 32

Value = str | int


def text(value: str) -> bytes:
    """Encode a GGUF string."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, value: Value) -> bytes:
    """Encode one key of the metadata."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", TEXT) + text(value)
    return text(key) + struct.pack("<II", U32, value)


def tensor(name: str, elements: int, offset_bytes: int = 0, kind: int = F32) -> bytes:
    """Encode one row of the table of tensors."""
    return text(name) + struct.pack("<IQIQ", 1, elements, kind, offset_bytes)


def head(metadata: Mapping[str, Value], *tensors: bytes, version: int = 3, order: str = "<") -> bytes:
    """Encode everything before the data, padded."""
    begin = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(metadata))
    whole = begin + b"".join(pair(*item) for item in metadata.items()) + b"".join(tensors)
    return whole + bytes(-len(whole) % ALIGNMENT)


def small(elements: int = 64, **more: Value) -> bytes:
    """Make a small whole file of a model that nobody can run; `more` is metadata, two underscores for a point."""
    metadata: dict[str, Value] = {"general.architecture": "llama", "llama.context_length": 4096, "general.file_type": 1}
    metadata |= {name.replace("__", "."): value for name, value in more.items()}
    return head(metadata, tensor("token_embd.weight", elements)) + bytes(4 * elements)


def huge(path: Path, size_bytes: int) -> None:
    """Make a file of many bytes that takes no room on the disk."""
    begin = head({"general.architecture": "llama"}, tensor("token_embd.weight", size_bytes // 4))
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(len(begin) + size_bytes)


def copy_of_bundled(path: Path) -> str:
    """Copy the bundled weights, which an engine can run, and give their checksum."""
    whole, digest = find_bundled(BUNDLED.partition(":")[2])
    shutil.copy(whole, path)
    return digest


def flip_a_byte(path: Path, at: int = -5) -> None:
    """Change one byte of a file, which stays as long as it was."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at, 0 if at >= 0 else 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))
    _let_it_show(path, before, path.stat().st_mtime_ns)


def change_unseen(path: Path, data: bytes) -> None:
    """Put other bytes of the same length into a file, and set its time of modification back."""
    before = path.stat()
    path.write_bytes(data)
    assert path.stat().st_size == before.st_size
    _let_it_show(path, before, before.st_mtime_ns)


def _let_it_show(path: Path, before: os.stat_result, modified_at_ns: int) -> None:
    """Return when a changed file has another time of change: on many kernels the clock of files goes on every few milliseconds."""

    def shows() -> bool:
        os.utime(path, ns=(before.st_atime_ns, modified_at_ns))
        return path.stat().st_ctime_ns != before.st_ctime_ns

    until(shows, what=f"a change of {path} to show")


def digest_of(*parts: Path) -> str:
    """Compute the checksum of files one after the other."""
    return sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
