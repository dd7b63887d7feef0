"""A real daemon as a process of its own, for tests that talk to it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.waiting import until

READY_DEADLINE_S = 60.0
# Only a daemon that hangs is waited for so long: a machine that others use may stand still for half of it.
PATIENCE_S = 60.0
ENTRY = (sys.executable, "-m", "orchqueue.daemon.main")


class Daemon:
    """One life of `orchestratord serve`. `log` collects its standard error; `entry` runs the command by other means."""

    def __init__(self, data_dir: Path, config: Path | None = None, *options: str, entry: Sequence[str] = ENTRY) -> None:
        command = [*entry, "serve", "--port", "0", "--data-dir", str(data_dir)]
        if config is not None:
            command += ["--config", str(config)]
        self.data_dir = data_dir
        self.log: list[str] = []
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._readers = [
            threading.Thread(target=self._collect, args=(self.process.stdout, self.said), daemon=True),
            threading.Thread(target=self._collect, args=(self.process.stderr, self.log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _collect(stream: Iterator[str] | None, into: list[str]) -> None:
        for line in stream or ():  # line by line: others look at the list meanwhile
            into.append(line.rstrip("\n"))  # noqa: PERF401

    @property
    def url(self) -> str:
        """Give the base URL, once the daemon has told it."""
        until(
            lambda: any("http" in line for line in self.said) or self.process.poll() is not None,
            deadline_s=READY_DEADLINE_S,
            what="the daemon's URL",
        )
        found = next((w for line in self.said for w in line.split() if w.startswith(("http://", "https://"))), None)
        assert found is not None, f"the daemon ended with {self.process.poll()}:\n" + "\n".join(self.log[-20:])
        return found

    @property
    def port(self) -> int:
        """Give the port."""
        return int(self.url.rpartition(":")[2])

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Wait until some replica takes tasks."""

        def ready() -> bool:
            assert self.process.poll() is None, "the daemon ended:\n" + "\n".join(self.log[-20:])
            try:
                # Without certificates: reading them at each try would take longer than the daemon's start.
                return httpx.get(f"{self.url}/readyz", timeout=5, verify=False).status_code == 200
            except httpx.HTTPError:
                return False

        until(ready, deadline_s=deadline_s, what="readyz 200")

    def wait_all_replicas(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Wait until every replica of every pool is ready."""
        until(
            lambda: all(r["state"] == "ready" for r in self.replicas()),
            deadline_s=deadline_s,
            what="every replica ready",
        )

    def replicas(self) -> list[dict[str, object]]:
        """List all replicas as health shows them."""
        pools = httpx.get(f"{self.url}/v1/pools", timeout=PATIENCE_S).json()["pools"]
        return [
            replica
            for pool in pools
            for replica in httpx.get(f"{self.url}/v1/pools/{pool['id']}/health", timeout=PATIENCE_S).json()["replicas"]
        ]

    def engines(self) -> list[psutil.Process]:
        """List the daemon's descendants that are alive."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def stop(self, deadline_s: float = PATIENCE_S) -> int:
        """Ask it to stop, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(deadline_s)
        self._close()
        return code

    def kill(self) -> None:
        """End it the hard way."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._close()

    def _close(self) -> None:
        for reader in self._readers:
            reader.join(PATIENCE_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def running(data_dir: Path, config: Path | None = None, *options: str) -> Iterator[Daemon]:
    """Run a daemon for a while; it is gone afterwards, whatever happens."""
    daemon = Daemon(data_dir, config, *options)
    try:
        yield daemon
    finally:
        try:
            daemon.stop()
        except subprocess.TimeoutExpired:
            daemon.kill()
            raise


def metric(url: str, name: str) -> float:
    """Add up all samples of a metric."""
    total = 0.0
    for line in httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text.splitlines():
        if line.startswith((name + "{", name + " ")):
            total += float(line.rpartition(" ")[2])
    return total
