"""Decisions on disk, a line of JSON each, for whoever wants to replay them later.

Req: ORCH-4325
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable

QUEUE_LIMIT_BYTES = 8 << 20
FLUSH_PATIENCE_S = 2.0

_WRITE_BYTES = 64 << 10


class DecisionFile:
    """Appends lines from a thread of its own; at `limit_bytes` the file takes the place of its one predecessor, `PATH.1`.

    A disk that is too slow loses lines, and a line `{"kind":"gap","lost":n}` says so where they are missing. A disk that
    is full or fails ends the writing for good: `on_problem` is told once, and nothing else happens.

    Errors: OSError when the file cannot be opened at first.
    Req: ORCH-4325, ORCH-4326
    """

    def __init__(self, path: str, limit_bytes: int, on_problem: Callable[[str], None]) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._on_problem = on_problem
        self._file = _open(path)
        self._written = os.fstat(self._file).st_size
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lost = 0
        self._changed = threading.Condition()
        self._writing = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._thread.start()

    def keep(self, line: bytes) -> None:
        """Queue one line.

        Cost: about 1 µs.
        """
        with self._changed:
            if self._closed:
                return
            if self._queued_bytes + len(line) > QUEUE_LIMIT_BYTES:
                self._lost += 1
                return
            self._tell_gap()
            self._queue(line)
            self._changed.notify()

    def _tell_gap(self) -> None:
        if self._lost:
            self._queue(b'{"kind":"gap","lost":%d}' % self._lost)
            self._lost = 0

    def _queue(self, line: bytes) -> None:
        self._lines.append(line)
        self._queued_bytes += len(line)

    def close(self) -> None:
        """Write what is queued if the disk takes it in time, and end the thread."""
        with self._changed:
            self._tell_gap()
            self._changed.notify()
            self._changed.wait_for(lambda: not self._lines and not self._writing, FLUSH_PATIENCE_S)
            self._closed = True
            self._changed.notify()
        # A write that a stuck disk blocks cannot be called back: the thread is a daemon and ends with the process.
        self._thread.join(timeout=FLUSH_PATIENCE_S)

    def _run(self) -> None:
        while True:
            batch = self._take()
            if batch is None:
                os.close(self._file)
                return
            try:
                self._write(batch)
            except OSError as error:
                with self._changed:
                    self._closed = True
                    self._lines.clear()
                self._on_problem(
                    f"{self._path} cannot be written ({error.strerror}); decisions are kept in memory only"
                )

    def _take(self) -> bytes | None:
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines or self._closed)
            if not self._lines:
                return None
            self._writing = True
            batch = bytearray()
            while self._lines and len(batch) < _WRITE_BYTES:
                line = self._lines.popleft()
                self._queued_bytes -= len(line)
                batch += line + b"\n"
            return bytes(batch)

    def _write(self, batch: bytes) -> None:
        if self._written and self._written + len(batch) > self._limit_bytes:
            os.replace(self._path, f"{self._path}.1")
            before, self._file, self._written = self._file, _open(self._path), 0
            os.close(before)
        view = memoryview(batch)
        while view:
            view = view[os.write(self._file, view) :]
        self._written += len(batch)


def _open(path: str) -> int:
    """Open for appending, for the owner alone, whatever the file's rights were before.

    Errors: OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "it is no plain file")
        os.fchmod(file, 0o600)
    except OSError:
        os.close(file)
        raise
    return file
