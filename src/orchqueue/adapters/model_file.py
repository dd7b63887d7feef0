"""Whether a file can be a model at all, told before anything is loaded or read whole.

Req: ORCH-4420, ORCH-4421
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

from orchqueue.adapters.gguf import VERSIONS, GgufError, Scalar, quantisation, read_head

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_AGAIN = "copy or download it again"
_FOREIGN = (
    (b"PK\x03\x04", "is a zip archive, as PyTorch's checkpoints are"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"version https://git-lfs", "is a pointer of Git LFS in place of the file"),
    (b"<!DOCTYPE", "is a web page in place of the file"),
    (b"<html", "is a web page in place of the file"),
    (b"ggjt", "is in the format before GGUF"),
    (b"ggml", "is in the format before GGUF"),
    (b"ggla", "is a LoRA adapter in the format before GGUF"),
)
_NO_MODEL = {
    "adapter": "a LoRA adapter",
    "mmproj": "a projector for images or sound (mmproj)",
    "imatrix": "an importance matrix",
    "vocab": "a vocabulary",
}
_SIGNATURE_BYTES = 32


class ModelFileError(ValueError):
    """The file cannot be served. Shape: one line with its path, what is wrong with it, and what to do."""

    def __init__(self, path: Path, problem: str, advice: str) -> None:
        super().__init__(f"model file {path} {problem}; {advice}")
        self.problem = f"model file {path} {problem}"
        self.advice = advice


class Stamp(msgspec.Struct, frozen=True):
    """What tells that a file is the one that it was. No program can set `changed_at_ns` back."""

    path: str
    size_bytes: int
    modified_at_ns: int
    changed_at_ns: int
    inode: int


class ModelHead(msgspec.Struct, frozen=True):
    """A file, or the files of a split model in order, and what the first one says of the model."""

    stamps: tuple[Stamp, ...]
    metadata: dict[str, Scalar] = {}

    @property
    def size_bytes(self) -> int:
        """Give the size of all parts."""
        return sum(stamp.size_bytes for stamp in self.stamps)

    @property
    def architecture(self) -> str | None:
        """Name the architecture, where the file says it."""
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else None

    @property
    def quantisation(self) -> str | None:
        """Name how the weights are stored, where the file says it."""
        return quantisation(self.metadata)

    @property
    def ctx_tokens(self) -> int | None:
        """Give the context that the model was trained for, where the file says it."""
        found = self.metadata.get(f"{self.architecture}.context_length")
        return found if isinstance(found, int) else None


def look_at_file(path: Path) -> ModelHead:
    """See that a file is there and can be read, whatever is in it.

    Errors: ModelFileError.
    """
    return ModelHead((stamp_of(path),))


def look_at_gguf(path: Path) -> ModelHead:
    """See that a file is a whole GGUF model that this machine can read, without reading its weights.

    1. Every part is there and readable, and is GGUF of a known version.
    2. It is a model, and no file that goes with one.
    3. No part is shorter than its own table of tensors says.

    Errors: ModelFileError.
    Cost: reads metadata, some megabytes; run it off the event loop.
    Req: ORCH-4420, ORCH-4421, ORCH-4428
    """
    head = _read_whole(path)
    _check_kind(path, head)
    parts = _parts(path, head.metadata)
    others = [_read_whole(part) for part in parts[1:]]
    return ModelHead(sum((other.stamps for other in others), head.stamps), head.metadata)


def stamp_of(path: Path) -> Stamp:
    """Read what tells whether a file is still the same.

    Errors: ModelFileError where there is no file, or none that we may read.
    """
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            target = os.readlink(path)
            raise ModelFileError(path, f"is a link to {target}, which is not there", "mend the link") from None
        raise ModelFileError(path, "is not there", "put it there or correct the path") from None
    except PermissionError:
        raise ModelFileError(path, "cannot be read: permission denied", "give the daemon's user the right") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelFileError(path, f"cannot be read: {why}", "see that the disk is well and mounted") from error
    if not stat.S_ISREG(found.st_mode):
        what = "is a directory" if stat.S_ISDIR(found.st_mode) else "is no regular file"
        raise ModelFileError(path, what, "name the model's file itself")
    if found.st_size == 0:
        raise ModelFileError(path, "is empty", _AGAIN)
    return Stamp(str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def same_now(stamps: tuple[Stamp, ...]) -> bool:
    """Tell whether files are still those that they were."""
    try:
        return all(stamp_of(Path(stamp.path)) == stamp for stamp in stamps)
    except ModelFileError:
        return False


def _read_whole(path: Path) -> ModelHead:
    stamp = stamp_of(path)
    try:
        _check_signature(path)
        head = read_head(path)
    except GgufError as error:
        advice = f"use a GGUF model of version {VERSIONS[-1]}" if "GGUF" in str(error) else _AGAIN
        raise ModelFileError(path, f"cannot be loaded: {error}", advice) from error
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
        raise ModelFileError(path, text, "see that the disk is well and mounted") from error
    missing_bytes = head.ends_at_bytes - stamp.size_bytes
    if missing_bytes > 0:
        text = f"is cut off: {missing_bytes} of {head.ends_at_bytes} bytes are missing"
        raise ModelFileError(path, text, _AGAIN)
    return ModelHead((stamp,), head.metadata)


def _check_signature(path: Path) -> None:
    """Say what a file is that is no GGUF."""
    with path.open("rb") as file:
        begin = file.read(_SIGNATURE_BYTES)
    if begin.startswith(b"GGUF") or b"GGUF".startswith(begin):
        return
    known = next((what for signature, what in _FOREIGN if begin.startswith(signature)), None)
    if known is None and begin[8:9] == b"{":
        known = "is in the safetensors format"
    what = known or "begins like no kind of model that is known here"
    raise ModelFileError(path, f"is not a GGUF file: it {what}", "llama.cpp needs the model as GGUF")


def _check_kind(path: Path, head: ModelHead) -> None:
    kind = head.metadata.get("general.type", "model")
    if head.architecture == "clip":
        kind = "mmproj"
    if kind != "model":
        what = _NO_MODEL.get(str(kind), f"of the type {str(kind)[:40]!r}")
        raise ModelFileError(path, f"is {what} and no model", "name the model that it belongs to")
    if head.architecture is None:
        raise ModelFileError(path, "does not say which architecture it has", "use a GGUF model that does")


def _parts(path: Path, metadata: dict[str, Scalar]) -> list[Path]:
    """Name the files of a split model, of which the first must have been named."""
    count = metadata.get("split.count", 1)
    if not isinstance(count, int) or count < 2:
        return [path]
    named = _PART.fullmatch(path.name)
    if named is None or int(named[3]) != count:
        text = f"is one of {count} parts, and its name does not end in -00001-of-{count:05}.gguf"
        raise ModelFileError(path, text, "give the parts the names that they were made with")
    parts = [path.with_name(f"{named[1]}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if metadata.get("split.no", 0) != 0:
        raise ModelFileError(path, f"is not the first of {count} parts", f"name {parts[0].name}")
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        text = f"needs {len(missing)} more of its {count} parts: {', '.join(missing[:3])}"
        raise ModelFileError(path, text, "put them beside it")
    return parts
