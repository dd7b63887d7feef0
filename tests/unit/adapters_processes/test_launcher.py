"""No engine outlives everybody who owns it, and no owner is kept in the dark."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from orchqueue.adapters.processes.identity import lives, read_identity
from orchqueue.adapters.processes.launched import end_leftovers, launch_process
from orchqueue.adapters.processes.launcher import BoundedLog
from tests.unit.adapters_processes.conftest import STAY, STUBBORN, Launch, pin, spec_of
from tests.waiting import until, until_async

pytestmark = pytest.mark.req("ORCH-4027")

OWNER = """
import asyncio, sys
from pathlib import Path
from orchqueue.adapters.processes.launched import launch_process
from tests.unit.adapters_processes.conftest import STAY, STUBBORN, spec_of

async def main():
    spec = spec_of(globals()[sys.argv[2]], orphan_grace_s=float(sys.argv[3]), stop_grace_s=0.3)
    process = await launch_process(Path(sys.argv[1]), spec)
    await process.port
    print(process.engine_pid, process.launcher_pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def glob(directory: Path, pattern: str) -> list[Path]:
    """List files."""
    return list(directory.glob(pattern))


Own = Callable[[Path, str, float], Awaitable[tuple[asyncio.subprocess.Process, int, int]]]


@pytest_asyncio.fixture
async def own() -> AsyncIterator[Own]:
    """Start owner processes that end with the test; give each with its engine's pid and its launcher's."""
    owners: list[asyncio.subprocess.Process] = []

    async def start(directory: Path, program: str, grace_s: float) -> tuple[asyncio.subprocess.Process, int, int]:
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OWNER, str(directory), program, str(grace_s), stdout=asyncio.subprocess.PIPE
        )
        owners.append(owner)
        assert owner.stdout is not None
        engine, launcher = (await owner.stdout.readline()).split()
        return owner, int(engine), int(launcher)

    yield start
    for owner in owners:
        if owner.returncode is None:
            owner.kill()
        await owner.wait()


async def test_the_port_is_told_and_stop_leaves_nothing(launch: Launch, tmp_path: Path) -> None:
    """An engine tells its port; after stop neither process, socket nor identity is left."""
    process = await launch(spec_of(STAY))
    assert await process.port == 4711
    engine, launcher = pin(process.engine_pid), pin(process.launcher_pid)
    names = {path.suffix for path in (tmp_path / "replicas").iterdir()}
    assert names == {".sock", ".json", ".log"}
    ended = await process.stop()
    assert ended.asked
    assert ended.returncode == -signal.SIGTERM
    assert not lives(engine)
    assert not lives(launcher)
    assert {path.suffix for path in (tmp_path / "replicas").iterdir()} == {".log"}


@pytest.mark.req("ORCH-4141")
async def test_files_are_for_our_user_only(launch: Launch, tmp_path: Path) -> None:
    """The directory is 0700, socket, identity and log are 0600 or 0700, and the token is not on the command line."""
    process = await launch(spec_of(STAY))
    await process.port
    directory = tmp_path / "replicas"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())
    identity = read_identity(next(directory.glob("*.json")))
    assert identity is not None
    assert identity.token.encode() not in await asyncio.to_thread(
        Path(f"/proc/{process.launcher_pid}/cmdline").read_bytes
    )


@pytest.mark.req("ORCH-3053")
async def test_an_engine_that_will_not_end_is_killed(launch: Launch) -> None:
    """After TERM and the grace comes KILL."""
    process = await launch(spec_of(STUBBORN, stop_grace_s=0.2))
    await process.port
    assert (await process.stop()).returncode == -signal.SIGKILL


async def test_a_crash_is_told_at_once(launch: Launch) -> None:
    """The owner hears of an engine's exit status and its last words."""
    process = await launch(spec_of("import sys; print('the reason'); sys.exit(3)"))
    ended = await process.exited
    assert (ended.returncode, ended.asked) == (3, False)
    assert "the reason" in process.tail()
    assert await process.port is None


@pytest.mark.req("ORCH-3038")
async def test_a_killed_engine_is_told_at_once(launch: Launch) -> None:
    """The owner hears of a signal."""
    process = await launch(spec_of(STAY))
    await process.port
    assert process.engine_pid is not None
    os.kill(process.engine_pid, signal.SIGKILL)
    assert (await process.exited).returncode == -signal.SIGKILL


async def test_a_killed_launcher_takes_its_engine_along(launch: Launch) -> None:
    """When the launcher dies the kernel ends the engine, and the owner is told."""
    process = await launch(spec_of(STUBBORN))
    await process.port
    engine = pin(process.engine_pid)
    os.kill(process.launcher_pid, signal.SIGKILL)
    ended = await process.exited
    assert "launcher" in ended.detail
    await until_async(lambda: not lives(engine), what="the engine to end with its launcher")


@pytest.mark.parametrize("program", ["STAY", "STUBBORN"])
async def test_nothing_outlives_a_killed_owner(own: Own, tmp_path: Path, program: str) -> None:
    """After kill -9 of the owner engine, launcher and files are gone when the grace is over."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", program, 0.3)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    owner.kill()
    await owner.wait()
    await until_async(lambda: not lives(engine) and not lives(launcher), what="the orphans to end")
    await until_async(lambda: not list((tmp_path / "r").glob("*.[js]*")), what="their files to go")


@pytest.mark.req("ORCH-4139")
async def test_an_adopted_engine_lives_on(own: Own, tmp_path: Path) -> None:
    """Who connects with the token before the grace is over owns the engine; a wrong token owns nothing."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STAY", 0.5)
    other_owner, orphan_pid, _ = await own(tmp_path / "s", "STAY", 0.5)
    engine, orphan = pin(engine_pid), pin(orphan_pid)
    path = next(iter(glob(tmp_path / "r", "*.sock")))
    identity = read_identity(path.with_suffix(".json"))
    assert identity is not None
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(json.dumps({"command": "own", "token": "wrong"}).encode() + b"\n")
    assert await reader.read() == b""
    writer.close()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(json.dumps({"command": "own", "token": identity.token}).encode() + b"\n")
    status = json.loads(await reader.readline())
    assert (status["engine_pid"], status["port"]) == (engine_pid, 4711)
    for killed in (owner, other_owner):
        killed.kill()
        await killed.wait()
    await until_async(lambda: not lives(orphan), what="the engine that nobody adopted to end")
    assert lives(engine)
    writer.close()
    await until_async(lambda: not lives(engine), what="the engine to end when its adopter has gone")


@pytest.mark.parametrize("hang", [False, True], ids=["answering", "hanging"])
@pytest.mark.req("ORCH-4139")
async def test_leftovers_are_ended(own: Own, tmp_path: Path, hang: bool) -> None:
    """A new daemon ends what an earlier one left, also when the launcher does not answer."""
    directory = tmp_path / ("deep" * 30) / "replicas"
    owner, engine_pid, launcher_pid = await own(directory, "STAY", 60.0)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    owner.kill()
    await owner.wait()
    if hang:
        os.kill(launcher_pid, signal.SIGSTOP)
    said: list[str] = []
    assert await end_leftovers(directory, said.append, answer_within_s=0.3 if hang else 6.0) == 1
    assert not lives(engine)
    assert not lives(launcher)
    assert [path.suffix for path in glob(directory, "*")] == [".log"]
    assert "pool-0" in said[0]


@pytest.mark.req("ORCH-4139")
async def test_a_reused_pid_is_left_alone(tmp_path: Path) -> None:
    """A process that only has the pid of an old engine is not signalled."""
    bystander = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    other = pin(bystander.pid)
    identity = ["pool-0", "token", [other.pid, other.start_ticks - 1], [other.pid, other.start_ticks - 1], ""]
    for name, text in (("pool-0-1.json", json.dumps(identity)), ("broken.json", "{")):
        await asyncio.to_thread((tmp_path / name).write_text, text)
    assert await end_leftovers(tmp_path) == 2
    assert lives(other)
    assert not glob(tmp_path, "*.json")
    bystander.kill()
    await bystander.wait()


async def test_hostile_ids_stay_in_the_directory(tmp_path: Path) -> None:
    """A replica id cannot lead a file elsewhere."""
    process = await launch_process(tmp_path / "r", spec_of(STAY, replica_id="../../x/.."))
    await process.port
    assert len(list((tmp_path / "r").glob("*.json"))) == 1
    await process.stop()


async def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    """An engine that cannot be executed ends the launch with the reason."""
    spec = spec_of(STAY)
    spec.argv[0] = str(tmp_path / "nothing")
    process = await launch_process(tmp_path / "r", spec)
    ended = await process.exited
    assert "nothing" in ended.detail
    await process.stop()
    assert not list((tmp_path / "r").glob("*.sock"))


def test_the_log_is_bounded(tmp_path: Path) -> None:
    """Whatever an engine says, its log takes two files of bounded size, and the newest words are kept."""
    path = tmp_path / "e.log"
    path.write_text("earlier words")
    log = BoundedLog(path, 1000)
    assert path.with_suffix(".old.log").read_text() == "earlier words"
    for number in range(200):
        log.write(f"line {number:04}\n".encode())
    until(path.exists)
    assert "line 0199" in path.read_text()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2000
