"""Where log lines go: a thread that writes them, so that a slow or dead reader of our output never holds up work."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

QUEUE_LIMIT_LINES = 10_000
FLUSH_PATIENCE_S = 2.0

_WRITE_BYTES = 64 << 10


class LogSink:
    """Writes to a file descriptor from a thread of its own.

    Lines beyond the queue's limit, and lines that cannot be written, are dropped and counted. Nothing here raises.

    Req: ORCH-4279
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._closed = False
        self.dropped_lines = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line.

        Cost: about 1 µs.
        """
        with self._changed:
            if self._closed or len(self._lines) >= QUEUE_LIMIT_LINES:
                self.dropped_lines += 1
                return
            self._lines.append(line)
            self._changed.notify()

    def flush(self, patience_s: float = FLUSH_PATIENCE_S) -> bool:
        """Wait until everything queued is written; False when the reader is too slow for that."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, patience_s)

    def close(self) -> None:
        """Write what is queued if the reader takes it in time, and end the thread."""
        self.flush()
        with self._changed:
            self._closed = True
            self.dropped_lines += len(self._lines)
            self._lines.clear()
            self._changed.notify()
        # A write that a stuck reader blocks cannot be called back: the thread is a daemon and ends with the process.
        self._thread.join(timeout=0.1)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._lines and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                batch, size = [], 0
                while self._lines and size < _WRITE_BYTES:
                    batch.append(self._lines.popleft())
                    size += len(batch[-1])
                self._writing = True
            if not _write_all(self._descriptor, b"".join(batch)):
                with self._changed:
                    self.dropped_lines += len(batch)


def _write_all(descriptor: int, data: bytes) -> bool:
    """Write everything; False when the reader is gone or the disk is full."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            # Somebody made the descriptor non-blocking; waiting here holds up nobody.
            time.sleep(0.01)
        except OSError:
            return False
    return True
