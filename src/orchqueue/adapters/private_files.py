"""Files for their owner alone: read only if nobody else could, replaced as a whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class PrivateFileError(Exception):
    """A file that holds secrets is missing, open to others, or cannot be written. The message says what to do."""


def read_private(path: str, size_limit_bytes: int) -> bytes:
    """Read a file that only its owner may read.

    Errors: PrivateFileError, also when it is larger than the limit.
    Req: ORCH-4198
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise PrivateFileError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PrivateFileError(f"{path} is no plain file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise PrivateFileError(f"others may read or write {path} (mode {mode:04o}); run: chmod 600 {path}")
        if status.st_uid not in (os.geteuid(), 0):
            raise PrivateFileError(f"{path} belongs to user {status.st_uid}, not to the one that runs this")
        data = file.read(size_limit_bytes + 1)
    if len(data) > size_limit_bytes:
        raise PrivateFileError(f"{path} is larger than {size_limit_bytes} bytes")
    return data


def replace_private(path: str, data: bytes) -> None:
    """Put new content in place of the old in one step that a crash cannot halve.

    Errors: PrivateFileError.
    """
    try:
        _write_and(os.replace, path, data)
    except OSError as error:
        raise PrivateFileError(f"{path} cannot be written: {error.strerror}") from error


def create_private(path: str, data: bytes) -> bool:
    """Create the file with all of its content at once. False: somebody else created it first, and it stays.

    Errors: PrivateFileError.
    """
    try:
        _write_and(os.link, path, data)
    except FileExistsError:
        return False
    except OSError as error:
        raise PrivateFileError(f"{path} cannot be written: {error.strerror}") from error
    return True


@contextmanager
def exclusively(path: str) -> Iterator[None]:
    """Keep other processes that use this function out while the file is read, changed and replaced.

    The lock lies beside the file, because the file itself is replaced.

    Errors: PrivateFileError.
    """
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PrivateFileError(f"{path}.lock cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_and(place: Callable[[str, str], None], path: str, data: bytes) -> None:
    """Write a file of another name, make it durable, then let `place` (os.replace or os.link) give it its name."""
    directory = os.path.dirname(os.path.abspath(path))
    draft = os.path.join(directory, f".{os.path.basename(path)}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        place(draft, path)
    finally:
        if os.path.lexists(draft):
            os.unlink(draft)
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
