"""`orchestratord` in a process that is hampered first: `python -m … HINDRANCE… -- ARGUMENTS`.

`plain`: not even root writes where the mode forbids it. `files=N`: no file grows beyond N bytes. `disk=DIRECTORY`: SQLite works
on a watched disk whose writes or syncs fail while there is a file `full` or `failing` in the directory.
"""

import ctypes
import errno
import os
import resource
import sys
from pathlib import Path
from unittest import mock

from orchqueue.daemon.main import main
from tests.conformance.journal.watched_disk import FULL, IOERR_FSYNC, WatchedDisk

_PR_SET_CAPABILITIES = 0x20080522
_POWERS_OVER_MODES = 1 << 1 | 1 << 2


def _give_up_power_over_modes() -> None:
    """Drop the two capabilities that let root pass by the mode of a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(_PR_SET_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    for at in range(3):
        sets[at] &= ~_POWERS_OVER_MODES
    assert libc.capset(head, sets) == 0


def _use_watched_disk(orders: Path) -> None:
    disk = WatchedDisk()
    disk.write_fault = lambda _kind: FULL if (orders / "full").exists() else 0
    disk.sync_fault = lambda _kind: IOERR_FSYNC if (orders / "failing").exists() else 0
    disk.install(as_default=True)
    fsync = os.fsync

    def fsync_unless_failing(descriptor: int) -> None:
        if (orders / "failing").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    mock.patch.object(os, "fsync", fsync_unless_failing).start()


def hamper(hindrance: str) -> None:
    """Put one hindrance in the way."""
    kind, _, value = hindrance.partition("=")
    if kind == "plain":
        _give_up_power_over_modes()
    elif kind == "files":
        # Python would leave the compiled module that hits the limit cut off, and whoever imports it after us would fail.
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
    elif kind == "disk":
        _use_watched_disk(Path(value))


if __name__ == "__main__":
    os.umask(0o077)
    end = sys.argv.index("--")
    for word in sys.argv[1:end]:
        hamper(word)
    sys.argv = ["orchestratord", *sys.argv[end + 1 :]]
    sys.exit(main())
