"""What a dead daemon left is taken over or ended, and nothing else is touched."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest
import pytest_asyncio

from orchqueue.adapters.processes import leftovers
from orchqueue.adapters.processes.identity import ProcessId, boot_id, lives, read_identity
from orchqueue.adapters.processes.launched import LaunchedProcess
from orchqueue.adapters.processes.leftovers import Leftovers
from orchqueue.adapters.processes.watched import WatchedProcess
from tests.unit.adapters_processes.conftest import SECRET, Line, Own, glob, pin
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4139")

ID = "pool-0"
GRACE_S = 60.0


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


@pytest.mark.req("ORCH-4140", "ORCH-4378")
async def test_an_engine_is_taken_over(own: Own, look: Look, tmp_path: Path) -> None:
    """A new owner gets the process, its port, and the secret; it hears of the end as the old one would have."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STAY", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    found = look()
    process = await taken(found)
    assert process is not None
    assert await found.take(ID) is None
    assert (process.engine_pid, await process.port, process.launcher_pid) == (engine_pid, 4711, launcher_pid)
    assert (process.place.fingerprint, process.place.secret) == ("print", SECRET)
    os.kill(engine_pid, signal.SIGTERM)
    ended = await process.exited
    assert (ended.returncode, ended.asked) == (-signal.SIGTERM, False)
    await process.stop()
    assert not lives(engine)
    assert not lives(launcher)
    assert not remains(tmp_path / "r")
    assert not found.said


@pytest.mark.req("ORCH-4140")
async def test_a_stop_ends_what_was_taken_over(own: Own, look: Look, tmp_path: Path) -> None:
    """An engine that is not our child ends as one that is: TERM, the grace, KILL."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STUBBORN", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    process = await taken(look())
    assert process is not None
    ended = await process.stop()
    assert (ended.returncode, ended.asked) == (-signal.SIGKILL, True)
    assert not lives(engine)
    assert not lives(launcher)
    assert not remains(tmp_path / "r")


@pytest.mark.req("ORCH-4378")
@pytest.mark.parametrize("first", ["launcher", "engine"])
async def test_the_kill_of_what_was_taken_over_is_heard(own: Own, look: Look, tmp_path: Path, first: str) -> None:
    """Whichever of the two is killed, both are gone and the new owner knows."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STUBBORN", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    process = await taken(look())
    assert process is not None
    os.kill(launcher_pid if first == "launcher" else engine_pid, signal.SIGKILL)
    assert (await process.exited).returncode == -signal.SIGKILL
    await until_async(lambda: not lives(engine) and not lives(launcher), what="both to end")
    await process.stop()
    assert not remains(tmp_path / "r")


@pytest.mark.parametrize("hang", [False, True], ids=["answering", "hanging"])
async def test_what_nobody_wants_is_ended(
    own: Own, look: Look, tmp_path: Path, hang: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines of replicas that are not launched here end at once, also when the launcher does not answer."""
    directory = tmp_path / ("deep" * 30) / "replicas"
    owner, engine_pid, launcher_pid = await own(directory, "STAY", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    if hang:
        os.kill(launcher_pid, signal.SIGSTOP)
        monkeypatch.setattr(leftovers, "STOP_GRACE_S", 0.0)
    found = look(directory, answer_within_s=0.3 if hang else 10.0)
    assert await taken(found, ["other-0"]) is None
    await until_async(lambda: not lives(engine) and not lives(launcher), what="both to end")
    await found.close()
    assert not remains(directory)
    [(event, replica_id, why)] = found.said
    assert (event, replica_id) == ("leftover_engine", ID)
    assert "configured" in why


async def test_a_launcher_that_hangs_is_ended(own: Own, look: Look, tmp_path: Path) -> None:
    """An engine whose launcher does not answer is ended before its replica is launched anew."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STUBBORN", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    os.kill(launcher_pid, signal.SIGSTOP)
    found = look(answer_within_s=0.2)
    assert await taken(found) is None
    assert not lives(engine)
    assert not lives(launcher)
    assert not remains(tmp_path / "r")
    assert found.said == [("leftover_engine", ID, "its launcher does not answer")]


@pytest.mark.parametrize("wanted", [True, False])
async def test_an_engine_without_its_socket_is_ended(own: Own, look: Look, tmp_path: Path, wanted: bool) -> None:
    """A launcher that nobody can connect to gets TERM, and ends its engine."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STAY", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    for path in glob(tmp_path / "r", "*.sock"):
        path.unlink()
    found = look()
    assert await taken(found, [ID] if wanted else []) is None
    await found.close()
    assert not lives(engine)
    assert not lives(launcher)
    assert not remains(tmp_path / "r")
    assert len(found.said) == 1


TORN = {
    "empty": b"",
    "torn": b'["pool-0", "tok',
    "of another form": b'["pool-0", "token", [1, 2], [3, 4], ""]',
    "no list": b"7",
    "too deep": b"[" * 60_000,
    "beyond numbers": b'["pool-0", "t", [Infinity, 2], [3, 4], "", "BOOT"]',
    "of another boot": b'["pool-0", "t", [1, 2], [3, 4], "", "boot"]',
    "missing": None,
}


@pytest.mark.parametrize("what", TORN)
async def test_an_engine_without_its_identity_is_ended(own: Own, look: Look, tmp_path: Path, what: str) -> None:
    """Where the identity cannot be read, whoever listens at the socket is asked to end, by the kernel's word alone."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STAY", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    [path] = glob(tmp_path / "r", "*.json")
    identity = read_identity(path)
    assert identity is not None
    text = TORN[what]
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.replace(b"BOOT", identity.boot_id.encode()))
    found = look()
    assert await taken(found) is None
    await found.close()
    assert not lives(engine)
    assert not lives(launcher)
    assert not remains(tmp_path / "r")
    assert found.said == [("leftover_engine", path.stem, "nothing says which replica it is")]


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_reused_pid_is_left_alone(look: Look, tmp_path: Path, wanted: bool) -> None:
    """A process that only has the pid of an old engine is not signalled, and no dead socket is waited for."""
    directory = tmp_path / "r"
    directory.mkdir()
    bystander = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    other = pin(bystander.pid)
    earlier = [other.pid, other.start_ticks - 1]
    (directory / "pool-0-1.json").write_text(json.dumps([ID, "token", earlier, earlier, "", boot_id()]))
    (directory / "broken.json").write_text("{")
    (directory / "pool-0-2.part").write_text("")
    found = look()
    assert await taken(found, [ID] if wanted else []) is None
    await found.close()
    assert lives(other)
    assert not remains(directory)
    assert not found.said
    await kill(bystander)


@pytest.mark.parametrize("first", ["launcher", "engine"])
async def test_what_ended_while_no_daemon_was_there(own: Own, look: Look, tmp_path: Path, first: str) -> None:
    """Killed between two daemons, engine and launcher end together, and the next daemon finds nothing to tell of."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STUBBORN", GRACE_S)
    engine, launcher = pin(engine_pid), pin(launcher_pid)
    await kill(owner)
    os.kill(launcher_pid if first == "launcher" else engine_pid, signal.SIGKILL)
    await until_async(lambda: not lives(engine) and not lives(launcher), what="both to end")
    found = look()
    assert await taken(found) is None
    assert not remains(tmp_path / "r")
    assert not found.said


async def test_one_whose_grace_has_run_out_is_waited_for(own: Own, look: Look, tmp_path: Path) -> None:
    """An engine that its launcher is ending already is not taken, and not launched beside."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STUBBORN", 0.0, 1.0)
    engine = pin(engine_pid)
    await kill(owner)
    found = look()
    assert await taken(found) is None
    assert not lives(engine)
    assert found.said in ([("leftover_engine", ID, "nobody had adopted it in time")], [])


@pytest.mark.req("ORCH-4379")
@pytest.mark.parametrize("grace_ms", [0, 1, 2, 4, 8, 16, 32])
async def test_a_grace_that_runs_out_meanwhile(own: Own, look: Look, tmp_path: Path, grace_ms: int) -> None:
    """Whether the grace or the new owner comes first: an engine is owned, or it is gone."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STAY", grace_ms / 1000)
    engine = pin(engine_pid)
    await kill(owner)
    process = await taken(look())
    if process is None:
        assert not lives(engine)
    else:
        assert lives(engine)
        assert not (await process.stop()).detail
    assert not remains(tmp_path / "r")


@pytest.mark.req("ORCH-4379")
async def test_two_daemons_do_not_share(own: Own, look: Look, tmp_path: Path) -> None:
    """Of two that look into one directory one gets the engine; the other tells so, and leaves it alone."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STAY", GRACE_S)
    engine = pin(engine_pid)
    await kill(owner)
    both = look(answer_within_s=0.5), look(answer_within_s=0.5)
    processes = await asyncio.gather(*(taken(found) for found in both))
    assert sorted(process is None for process in processes) == [False, True]
    loser = both[0] if processes[0] is None else both[1]
    assert loser.said == [("leftover_engine", ID, "another process owns it")]
    assert lives(engine)
    assert {".sock", ".json"} <= {path.suffix for path in glob(tmp_path / "r", "*")}
    winner = processes[1] if processes[0] is None else processes[0]
    assert winner is not None
    await winner.stop()


async def test_of_two_of_one_replica_one_is_taken(own: Own, look: Look, tmp_path: Path) -> None:
    """Where two engines of one replica are left, one serves on and the other is ended."""
    left = [await own(tmp_path / "r", "STAY", GRACE_S) for _ in range(2)]
    engines = [pin(engine_pid) for _, engine_pid, _ in left]
    for owner, _, _ in left:
        await kill(owner)
    found = look()
    process = await taken(found)
    assert process is not None
    [other] = [engine for engine in engines if engine.pid != process.engine_pid]
    await until_async(lambda: not lives(other), what="the other one to end")
    assert found.said == [("leftover_engine", ID, "another engine of that replica is taken")]
    assert process.engine_pid is not None
    assert lives(pin(process.engine_pid))
    await process.stop()


@pytest.mark.parametrize("how", ["impatience", "close"])
async def test_what_is_not_taken_is_ended(own: Own, look: Look, tmp_path: Path, how: str) -> None:
    """An engine whose replica is never launched is not held for ever."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STAY", GRACE_S)
    engine = pin(engine_pid)
    await kill(owner)
    found = look(untaken_s=0.01 if how == "impatience" else 60.0)
    await found.begin([ID])
    if how == "close":
        await found.close()
    await until_async(lambda: not lives(engine), what="the engine to end")
    await found.close()
    assert not remains(tmp_path / "r")
    assert "started" in found.said[0][2]
    assert await found.take(ID) is None


async def test_a_take_that_is_called_off_loses_nothing(own: Own, look: Look, tmp_path: Path) -> None:
    """An engine whose launch is cancelled before it got it is still there for the next."""
    owner, _, launcher_pid = await own(tmp_path / "r", "STAY", GRACE_S)
    await kill(owner)
    os.kill(launcher_pid, signal.SIGSTOP)
    found = look()
    await found.begin([ID])
    take = asyncio.create_task(found.take(ID))
    await asyncio.sleep(0)
    take.cancel()
    assert await asyncio.gather(take, return_exceptions=True)
    os.kill(launcher_pid, signal.SIGCONT)
    process = await found.take(ID)
    assert process is not None
    await process.stop()


async def test_a_second_death_begins_the_grace_anew(own: Own, tmp_path: Path) -> None:
    """When who took an engine over dies too, the next one finds it as the first did."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STAY", GRACE_S)
    engine = pin(engine_pid)
    await kill(owner)
    for _ in range(2):
        line = await Line.to(tmp_path / "r")
        told: dict[str, object] = {}
        while told.get("event") != "owned":
            told = await line.say("own")
        await line.close()
        assert lives(engine)
    line = await Line.to(tmp_path / "r")
    await line.say("stop")
    await line.close()
    await until_async(lambda: not lives(engine), what="the engine to end")


@pytest.mark.req("ORCH-4378")
async def test_a_process_is_watched_that_is_no_child(own: Own, tmp_path: Path) -> None:
    """The end of anybody's process is heard; another start time means nobody, and nobody is signalled."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STAY", GRACE_S)
    engine = pin(engine_pid)
    other = WatchedProcess(ProcessId(engine.pid, engine.start_ticks - 1))
    assert other.gone.done()
    assert not other.signal(signal.SIGKILL)
    watched = WatchedProcess(engine)
    assert not watched.gone.done()
    assert watched.signal(signal.SIGTERM)
    await watched.gone
    assert not watched.signal(signal.SIGKILL)
    assert WatchedProcess(ProcessId(2**22 + 1, 1)).gone.done()
    await kill(owner)
