"""The daemon's lives: started, killed, frozen and started again over one data directory."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

from tests.chaos.evidence import Book
from tests.chaos.leaks import MARK
from tests.chaos.leash import LEASHED
from tests.chaos.proxy import Proxy

SERVES_WITHIN_S = 90.0
STOPS_WITHIN_S = 60.0
LOG_KEEP_BYTES = 8 << 20
ENTRY = ("-m", "orchqueue.daemon.main")
# A module compiled while the disk is "full" would be cut off, and whoever imports it later would fail.
PYTHON = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Lives:
    """One data directory and whoever serves it now. `entry`: how Python runs the daemon.

    The daemon's standard error goes through a pipe of ours, so that a full disk of the daemon's is not also its log's.
    """

    def __init__(self, place: Path, config: Path, proxy: Proxy, book: Book, entry: tuple[str, ...] = ENTRY) -> None:
        self.data_dir = place / "data"
        self.scratch = place / "tmp"
        self.count = 0
        self.process: asyncio.subprocess.Process | None = None
        self._config = config
        self._proxy = proxy
        self._book = book
        self._entry = entry
        self._log = place / "daemon.log"
        self._pumps: set[asyncio.Task[None]] = set()
        self._serving = asyncio.Event()
        self.scratch.mkdir()

    @property
    def pid(self) -> int:
        """Give the process id of the present life."""
        assert self.process is not None
        return self.process.pid

    async def begin(self) -> None:
        """Start a life. It serves when `wait_serving` returns."""
        self._serving = asyncio.Event()
        self.count += 1
        self.process = await asyncio.create_subprocess_exec(
            *LEASHED, *self._entry, "serve", "--port", "0",
            "--data-dir", str(self.data_dir), "--config", str(self._config),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for the storm, not for the daemon
            env={**os.environ, **PYTHON, "TMPDIR": str(self.scratch), MARK: str(self.data_dir)},
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for pump in (self._hear(self.process.stdout), self._keep_log(self.process.stderr)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def wait_serving(self) -> None:
        """Wait until it has told its port; a life that ends before by itself is a surprise.

        Errors: TimeoutError.
        """
        assert self.process is not None
        serving, ended = asyncio.create_task(self._serving.wait()), asyncio.create_task(self.process.wait())
        done, left = await asyncio.wait(
            {serving, ended}, timeout=SERVES_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
        )  # fmt: skip
        for task in left:
            task.cancel()
        if not done:
            raise TimeoutError(f"life {self.count} of the daemon did not serve within {SERVES_WITHIN_S:g} s")
        if ended in done:
            self._book.surprise(f"life {self.count} ended with {self.process.returncode} before it served")
            raise ChildProcessError(self.tail())

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(signal.SIGKILL, -signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to stop; it has to, with status 0."""
        await self._end(signal.SIGTERM, 0)

    def freeze(self) -> None:
        """Stop the clock for it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def hang_up(self) -> None:
        """Have it read its configuration again."""
        self._signal(signal.SIGHUP)

    def fill_disk(self) -> int:
        """Let no file of the daemon grow from now on, as on a full disk; tell the size where they end.

        A limit on the size of files needs no privilege and no device. Its writes fail with EFBIG instead of ENOSPC.
        """
        sizes = [path.stat().st_size for path in self.data_dir.glob("journal*")]
        # Room for half a page, so that the write that fails is also a torn one.
        limit_bytes = max([*sizes, 4096]) + 2048
        _limit_files(self.pid, limit_bytes)
        return limit_bytes

    def free_disk(self) -> None:
        """Let files grow again."""
        with suppress(ProcessLookupError):
            _limit_files(self.pid, resource.RLIM_INFINITY)

    def tail(self) -> str:
        """Read the last lines of the log."""
        with suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
        return ""

    async def _end(self, number: signal.Signals, wanted: int) -> None:
        assert self.process is not None
        if self.process.returncode is not None:
            self._book.surprise(f"life {self.count} ended by itself with {self.process.returncode}: {self.tail()}")
            return
        self._signal(number)
        try:
            async with asyncio.timeout(STOPS_WITHIN_S):
                status = await self.process.wait()
        except TimeoutError:
            self._book.surprise(f"life {self.count} did not stop within {STOPS_WITHIN_S:g} s")
            self._signal(signal.SIGKILL)
            await self.process.wait()
            return
        if status != wanted:
            self._book.surprise(f"life {self.count} ended with {status}, not {wanted}: {self.tail()}")
        if self._pumps:
            await asyncio.wait(self._pumps, timeout=1.0)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def _hear(self, said: asyncio.StreamReader) -> None:
        while line := await said.readline():
            words = [word for word in line.decode().split() if word.startswith("http://")]
            if words:
                self._proxy.target = int(words[0].rpartition(":")[2])
                self._serving.set()

    async def _keep_log(self, said: asyncio.StreamReader) -> None:
        while data := await said.read(1 << 16):
            if self._log.exists() and self._log.stat().st_size > LOG_KEEP_BYTES:
                self._log.replace(self._log.with_suffix(".old.log"))
            with self._log.open("ab") as log:
                log.write(data)


def _limit_files(pid: int, limit_bytes: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, hard))
