"""A disk below SQLite that is watched and can be made to fail: the very SQLite that Python uses, with its own system calls.

SQLite reaches the disk through a table of functions. Ours is a copy of its usual one in which opening, writing, reading and
syncing go through here first; whatever is not to fail is then done by the usual one. So what is seen is what SQLite asks of
the system, not what we believe it does, and it needs neither a compiler nor a tracer.
"""

import _sqlite3
import ctypes
import sqlite3
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.conformance.journal.forgetful_disk import ForgetfulDisk

NAME = "watched"
FULL = 13
IOERR = 10
IOERR_WRITE = IOERR | 3 << 8
IOERR_FSYNC = IOERR | 4 << 8

_POINTER = ctypes.c_void_p
# The name is a pointer here too: SQLite's usual disk keeps it, so it must not become a passing copy.
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, _POINTER, ctypes.c_int, _POINTER)
_TRANSFER = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int)
_KEPT: list[object] = []
"""What SQLite may still use, for as long as the process lives: a test that failed may have left a connection open."""
_OF_WAL, _OF_MAIN = 0x80000, 0x100


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs` up to its third version."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", _POINTER),
        ("zName", ctypes.c_char_p),
        ("pAppData", _POINTER),
        ("xOpen", _POINTER),
        ("rest", _POINTER * 15),
    ]


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods` up to its third version."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("xClose", _POINTER),
        ("xRead", _POINTER),
        ("xWrite", _POINTER),
        ("xTruncate", _POINTER),
        ("xSync", _POINTER),
        ("rest", _POINTER * 13),
    ]


class WatchedDisk:
    """What SQLite did to the files, in order, as "write log", "sync log", "write file", "sync file".

    `write_fault` and `sync_fault` are asked before each and give SQLite's code of an error, or 0. While
    `spoilt` is set, every page but the first that is read from the file begins with rubbish. `memory` follows what would be left
    after a power cut; `before_each` is called before anything is written, cut off or synced.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.write_fault: Callable[[str], int] = lambda _kind: 0
        self.sync_fault: Callable[[str], int] = lambda _kind: 0
        self.spoilt = False
        self.memory: ForgetfulDisk | None = None
        self.before_each: Callable[[], None] = lambda: None
        self._kinds: dict[int, str] = {}
        self._tables: dict[int, _Methods] = {}
        self._library = ctypes.CDLL(_sqlite3.__file__)
        self._library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        usual: _Vfs = self._library.sqlite3_vfs_find(None).contents
        self._usual_open = _OPEN(usual.xOpen)
        self._vfs = _Vfs.from_buffer_copy(usual)
        _KEPT.append(self._vfs)
        self._vfs.zName = NAME.encode()
        self._vfs.xOpen = self._address(_OPEN(self._open))

    def install(self, *, as_default: bool = False) -> None:
        """Make SQLite know it."""
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), int(as_default)) == 0

    def remove(self) -> None:
        """Make SQLite forget it; every connection through it must be closed."""
        assert self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs)) == 0

    def connect(self, path: str) -> sqlite3.Connection:
        """Connect as the journal does, through here."""
        return sqlite3.connect(
            f"file:{quote(path)}?vfs={NAME}", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int) -> int:
        code = self._usual_open(vfs, name, file, flags, out_flags)
        place = ctypes.cast(file, ctypes.POINTER(_POINTER))
        table: int | None = place[0]
        if table is not None:
            self._kinds[file] = "log" if flags & _OF_WAL else "file" if flags & _OF_MAIN else "other"
            place[0] = ctypes.addressof(self._watched(table))
        return int(code)

    def _watched(self, table: int) -> _Methods:
        known = self._tables.get(table)
        if known is not None:
            return known
        usual = _Methods.from_address(table)
        made = self._tables[table] = _Methods.from_buffer_copy(usual)
        _KEPT.append(made)
        read, write, sync = _TRANSFER(usual.xRead), _TRANSFER(usual.xWrite), _SYNC(usual.xSync)
        truncate = _TRUNCATE(usual.xTruncate)

        def on_read(file: int, buffer: int, size: int, at: int) -> int:
            code = read(file, buffer, size, at)
            if self.spoilt and at and self._kinds[file] == "file":
                ctypes.memset(buffer, 0x55, 64)
            return int(code)

        def on_write(file: int, buffer: int, size: int, at: int) -> int:
            fault = self.write_fault(self._kinds[file])
            if fault:
                return fault
            self.before_each()
            self.seen.append(f"write {self._kinds[file]}")
            if self.memory is not None:
                self.memory.written(self._kinds[file], at, ctypes.string_at(buffer, size))
            return int(write(file, buffer, size, at))

        def on_truncate(file: int, size: int) -> int:
            self.before_each()
            if self.memory is not None:
                self.memory.cut_off(self._kinds[file], size)
            return int(truncate(file, size))

        def on_sync(file: int, flags: int) -> int:
            fault = self.sync_fault(self._kinds[file])
            self.before_each()
            self.seen.append(f"{'failed ' if fault else ''}sync {self._kinds[file]}")
            if self.memory is not None and not fault:
                self.memory.synced(self._kinds[file])
            return fault or int(sync(file, flags))

        made.xTruncate = self._address(_TRUNCATE(on_truncate))
        made.xRead = self._address(_TRANSFER(on_read))
        made.xWrite = self._address(_TRANSFER(on_write))
        made.xSync = self._address(_SYNC(on_sync))
        return made

    def _address(self, callback: Any) -> int:
        _KEPT.append(callback)
        address = ctypes.cast(callback, _POINTER).value
        assert address is not None
        return address
