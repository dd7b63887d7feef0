"""What SQLite and the system say when something fails, in words that tell what to do.

Req: ORCH-4373
"""

from __future__ import annotations

import errno
import sqlite3
from contextlib import suppress

_WAYS_OUT = {
    "SQLITE_FULL": ("the disk is full", "free some space"),
    "SQLITE_IOERR_WRITE": ("the disk does not take what is written", "see whether it is full, limited or failing"),
    "SQLITE_IOERR_FSYNC": ("the disk could not be synced", "see whether it is failing"),
    "SQLITE_IOERR_DIR_FSYNC": ("the disk could not be synced", "see whether it is failing"),
    "SQLITE_IOERR_READ": ("the disk cannot be read", "see whether it is failing"),
    "SQLITE_IOERR_SHORT_READ": ("the file ends too early", "see whether somebody cut it off"),
    "SQLITE_IOERR_NOMEM": ("memory is short", "give the daemon more"),
    "SQLITE_NOMEM": ("memory is short", "give the daemon more"),
    "SQLITE_READONLY": ("it is read-only", "let this user write to the file and its directory"),
    "SQLITE_CANTOPEN": ("it cannot be opened", "let this user write to the file and its directory"),
    "SQLITE_PERM": ("this user may not open it", "let this user write to the file and its directory"),
    "SQLITE_BUSY": ("it is in use by another process", "stop that one, or use another data directory"),
    "SQLITE_LOCKED": ("it is in use by another process", "stop that one, or use another data directory"),
    "SQLITE_CORRUPT": ("it is damaged", "restore it from a copy, or move it aside to start without its tasks"),
    "SQLITE_NOTADB": ("it is damaged", "restore it from a copy, or move it aside to start without its tasks"),
}
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_CHECK_DISK = "see whether the disk is full, limited or failing"
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "it lies on a read-only file system; name another journal.path",
    errno.EACCES: "let this user write to the file and its directory, or name another journal.path",
    errno.EPERM: "let this user write to the file and its directory, or name another journal.path",
    errno.ENOENT: "make the directory, or name another journal.path",
    errno.EISDIR: "it is a directory; name a file in it as journal.path",
}


def for_operators(path: str, error: sqlite3.Error) -> str:
    """Tell what is wrong with the file, and the way out, in one line."""
    if _name(error).startswith(_DAMAGE):
        return damaged(path, str(error))
    what, way_out = _look_up(error)
    if not what:
        return f"the journal {path} cannot be used: {_flat(error)} ({_name(error)})"
    return f"the journal {path} cannot be used: {what} ({_name(error)}); {way_out}"


def for_clients(error: Exception) -> str:
    """Tell why nothing can be committed now, and what helps, without a word about where the file lies.

    Req: ORCH-4188
    """
    if isinstance(error, OSError):
        return f"the log cannot be written over ({error.strerror}): {_ADVICE.get(error.errno or 0, _CHECK_DISK)}"
    if not isinstance(error, sqlite3.Error):
        return f"an unforeseen {type(error).__name__}: please report it"
    what, way_out = _look_up(error)
    return f"{what}: {way_out}; {_name(error)}" if what else f"{_flat(error)}; {_name(error)}"


def of_system(path: str, error: OSError) -> str:
    """Tell why the file cannot be opened, and the way out."""
    way_out = _ADVICE.get(error.errno or 0, "check the path and its permissions")
    return f"the journal {path} cannot be opened: {error.strerror}; {way_out}"


def damaged(path: str, detail: str) -> str:
    """Tell of damage that we found ourselves."""
    told = " ".join(detail.split())
    return f"the journal {path} is damaged: {told}; restore it from a copy, or move it aside to start without its tasks"


def _look_up(error: sqlite3.Error) -> tuple[str, str]:
    """Find the words for an error: its own, else its family's."""
    name = _name(error)
    while name:
        with suppress(KeyError):
            return _WAYS_OUT[name]
        name = name.rpartition("_")[0]
    return "", ""


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", "")) or "sqlite"


def _flat(error: sqlite3.Error) -> str:
    return " ".join(str(error).split())
