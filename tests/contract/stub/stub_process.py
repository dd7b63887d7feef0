"""The stub as a process of its own, as people start it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


class StubProcess:
    """One life of `orchestratord stub`. `http` asks it."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "orchqueue.daemon.main", "stub", "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.url = next((word for word in self.said.split() if word.startswith("http://")), "")
        # Each test has a limit of its own; a slow machine is no failure.
        self.http = httpx.Client(base_url=self.url, timeout=None)

    @property
    def port(self) -> int:
        """Give the port."""
        return int(self.url.rpartition(":")[2])

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait; give the exit status and what was said on standard error."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=45)
        return self.process.returncode, said


@contextmanager
def stub_running(*options: str) -> Iterator[StubProcess]:
    """Run a stub for a while; it is gone afterwards, whatever happens."""
    stub = StubProcess(*options)
    try:
        assert stub.url, "the stub did not start"
        yield stub
    finally:
        stub.http.close()
        if stub.process.poll() is None:
            stub.process.kill()
            stub.process.communicate()
