"""Fake engines: small programs that do what a test needs an engine process to do."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from orchqueue.adapters.processes.identity import ProcessId, read_identity, start_ticks_of
from orchqueue.adapters.processes.launched import LaunchedProcess, LaunchSpec, connect, encode, launch_process
from orchqueue.adapters.processes.leftovers import Leftovers
from tests.conformance.engine.conftest import simulate
from tests.waiting import until

__all__ = ["simulate"]


@pytest.fixture
def engine() -> str:
    """Simulate llama.cpp, which is the engine that is launched here."""
    return "llamacpp"


READY = "import os,signal,sys,threading; os.write(int(os.environ['ORCHQUEUE_READY_FD']), b'4711\\n');"
STAY = READY + "threading.Event().wait()"
ID = "pool-0"
GRACE_S = 60.0
SECRET = "what-an-owner-must-know"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + STAY


def spec_of(
    program: str, *, replica_id: str = "pool-0", orphan_grace_s: float = 0.3, stop_grace_s: float = 5.0
) -> LaunchSpec:
    """Describe a fake engine."""
    return LaunchSpec(
        replica_id, [sys.executable, "-c", program], {}, "print", SECRET, orphan_grace_s=orphan_grace_s, stop_grace_s=stop_grace_s
    )  # fmt: skip


Launch = Callable[..., Awaitable[LaunchedProcess]]


@pytest_asyncio.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Launch fake engines that end with the test."""
    started: list[LaunchedProcess] = []

    async def start(spec: LaunchSpec) -> LaunchedProcess:
        process = await launch_process(tmp_path / "replicas", spec)
        started.append(process)
        return process

    yield start
    await asyncio.gather(*(process.stop() for process in started))


def pin(pid: int | None) -> ProcessId:
    """Name a running process."""
    assert pid is not None
    ticks = start_ticks_of(pid)
    assert ticks is not None
    return ProcessId(pid, ticks)


def halt(pid: int) -> None:
    """Let a process hang, and return when it does: what is said to it from then on is not heard."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, what=f"process {pid} to hang")


OWNER = """
import asyncio, sys
from pathlib import Path
from orchqueue.adapters.processes.launched import launch_process
from tests.unit.adapters_processes.conftest import STAY, STUBBORN, spec_of

async def main():
    spec = spec_of(globals()[sys.argv[2]], orphan_grace_s=float(sys.argv[3]), stop_grace_s=float(sys.argv[4]))
    process = await launch_process(Path(sys.argv[1]), spec)
    await process.port
    print(process.engine_pid, process.launcher_pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def glob(directory: Path, pattern: str) -> list[Path]:
    """List files."""
    return list(directory.glob(pattern))


Own = Callable[..., Awaitable[tuple[asyncio.subprocess.Process, int, int]]]


@pytest_asyncio.fixture
async def own() -> AsyncIterator[Own]:
    """Start owner processes that end with the test; give each with its engine's pid and its launcher's."""
    owners: list[asyncio.subprocess.Process] = []

    async def start(
        directory: Path, program: str, grace_s: float, stop_grace_s: float = 0.3
    ) -> tuple[asyncio.subprocess.Process, int, int]:
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OWNER, str(directory), program, str(grace_s), str(stop_grace_s),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        owners.append(owner)
        assert owner.stdout is not None
        engine, launcher = (await owner.stdout.readline()).split()
        return owner, int(engine), int(launcher)

    yield start
    for owner in owners:
        if owner.returncode is None:
            owner.kill()
        await owner.wait()


class Line:
    """A connection to the launcher in a directory, by its own words. An empty answer: it hung up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer, self._token = reader, writer, token

    @classmethod
    async def to(cls, directory: Path, token: str = "") -> "Line":
        """Connect."""
        [path] = glob(directory, "*.json")
        identity = read_identity(path)
        assert identity is not None
        return cls(*await connect(path.with_suffix(".sock")), token or identity.token)

    def ask(self, command: str) -> None:
        """Send a command."""
        self._writer.write(encode(command, self._token))

    async def hear(self) -> dict[str, object]:
        """Give the next answer."""
        try:
            said = await self._reader.readline()
        except OSError:
            said = b""
        return dict(json.loads(said)) if said else {}

    async def say(self, command: str) -> dict[str, object]:
        """Give the answer to a command."""
        self.ask(command)
        return await self.hear()

    async def close(self) -> None:
        """Hang up, though the other end may have done so."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class Found(Leftovers):
    """What is left in a directory, with what is told of it: event, replica, reason."""

    def __init__(self, directory: Path, *, answer_within_s: float = 10.0, untaken_s: float = 60.0) -> None:
        self.said: list[tuple[str, str, str]] = []

        def tell(_level: str, event: str, fields: object) -> None:
            assert isinstance(fields, dict)
            assert isinstance(fields["pid"], int)
            self.said.append((event, fields["replica_id"], str(fields.get("detail", "")).rpartition(": ")[2]))

        super().__init__(directory, tell, answer_within_s=answer_within_s, untaken_s=untaken_s)


Look = Callable[..., Found]


@pytest_asyncio.fixture
async def look(tmp_path: Path) -> AsyncIterator[Look]:
    """Look at what is left; what was not taken ends with the test."""
    looked: list[Found] = []

    def make(directory: Path = tmp_path / "r", **limits: float) -> Found:
        looked.append(Found(directory, **limits))
        return looked[-1]

    yield make
    for found in looked:
        await found.close()


async def kill(owner: asyncio.subprocess.Process) -> None:
    """End an owner the hard way."""
    owner.kill()
    await owner.wait()


async def taken(found: Found, wanted: Collection[str] = (ID,)) -> LaunchedProcess | None:
    """Begin, and take the one replica of these tests."""
    await found.begin(wanted)
    return await found.take(ID)


def remains(directory: Path) -> list[str]:
    """List what should not outlive an engine."""
    return [path.name for path in glob(directory, "*") if path.suffix != ".log"]
