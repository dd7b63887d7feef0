"""The machine below us: its clock, and a data directory that belongs to one daemon at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from types import TracebackType
from typing import Self

from orchqueue.ports.errors import PortError

LOCK_NAME = "lock"


class DataDirectoryError(PortError):
    """The data directory cannot be used. The message says why and what to do."""


class SystemClock:
    """Unix milliseconds at construction, monotonic from there on: a set-back wall clock cannot reorder anything."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ms(self) -> int:
        """Read the clock."""
        return (time.monotonic_ns() + self._offset_ns) // 1_000_000


def default_data_dir() -> str:
    """Name the directory used when none is given: below XDG_DATA_HOME, else ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "orchqueue")


def ensure_private_directory(path: str) -> str:
    """Create the directory for its owner alone, or check that the one that is there can be trusted.

    Shape: its real path.
    Errors: DataDirectoryError.
    Req: ORCH-4184
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        link, real = os.lstat(path), os.path.realpath(path)
        status = os.stat(real)
    except OSError as error:
        raise _refusal(path, error) from error
    owners = (os.geteuid(), 0)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in owners:
        raise DataDirectoryError(f"{path} is a link that user {link.st_uid} made; name the directory itself")
    if not stat.S_ISDIR(status.st_mode):
        raise DataDirectoryError(f"{path} is no directory; name another with --data-dir")
    if status.st_uid not in owners:
        raise DataDirectoryError(f"{path} belongs to user {status.st_uid}; name a directory of your own")
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise DataDirectoryError(f"others may write to {path} (mode {mode:04o}); run: chmod go-w {path}")
    return real


class DataDirectory:
    """A directory that this process holds until `close`.

    Use it as a context manager, or call `close` at the end.

    Errors: DataDirectoryError at construction: in use (with the other's pid), not writable, not trustworthy, full.
    Req: ORCH-4026
    """

    def __init__(self, path: str) -> None:
        self.path = ensure_private_directory(path)
        self._descriptor: int | None = self._lock()

    def file(self, name: str) -> str:
        """Name a file in the directory."""
        return os.path.join(self.path, name)

    def subdirectory(self, name: str) -> str:
        """Name a directory in the directory, and make it for the owner alone.

        Errors: DataDirectoryError.
        """
        return ensure_private_directory(self.file(name))

    def close(self) -> None:
        """Let another daemon have it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> int:
        """Take the lock. It belongs to the open file, so it is free the moment this process dies, however it dies."""
        name = self.file(LOCK_NAME)
        while True:
            try:
                descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise _refusal(name, error) from error
            try:
                self._claim(descriptor, name)
                if _is_still(descriptor, name):
                    _write_pid(descriptor)
                    return descriptor
            except OSError as error:
                os.close(descriptor)
                raise _refusal(name, error) from error
            except DataDirectoryError:
                os.close(descriptor)
                raise
            # Somebody removed the file between our open and our lock: what we hold guards nothing.
            os.close(descriptor)

    def _claim(self, descriptor: int, name: str) -> None:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataDirectoryError(f"{name} is no plain file; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            who = f"the daemon with pid {pid}" if pid else "another daemon that is just starting"
            message = f"the data directory {self.path} is in use by {who}; stop it, or name another with --data-dir"
            raise DataDirectoryError(message) from error


def _is_still(descriptor: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(name))
    except FileNotFoundError:
        return False


def _write_pid(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    os.fsync(descriptor)


def _refusal(path: str, error: OSError) -> DataDirectoryError:
    advice = {
        errno.ELOOP: "it is a link, and somebody may want us to write elsewhere; remove it",
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EFBIG: "files may not grow there; raise the limit on file size",
        errno.EROFS: "it lies on a read-only file system; name another with --data-dir",
        errno.EACCES: "this user may not write there; name another with --data-dir",
        errno.EPERM: "this user may not write there; name another with --data-dir",
        errno.ENOTDIR: "a part of the path is no directory; name another with --data-dir",
        errno.EEXIST: "it is no directory; name another with --data-dir",
    }.get(error.errno or 0, "name another with --data-dir")
    return DataDirectoryError(f"the data directory cannot be used: {path}: {error.strerror}; {advice}")
