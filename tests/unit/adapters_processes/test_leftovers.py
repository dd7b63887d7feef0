"""What a dead daemon left and nobody can use is ended, and nothing else is touched."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from orchqueue.adapters.processes import leftovers
from orchqueue.adapters.processes.identity import boot_id, lives, read_identity
from tests.unit.adapters_processes.conftest import GRACE_S, ID, Look, Own, glob, halt, kill, pin, remains, taken
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4139")


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
        halt(launcher_pid)
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
    halt(launcher_pid)
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
    else:
        found.limit_patience()
    await until_async(lambda: not lives(engine), what="the engine to end")
    await found.close()
    assert not remains(tmp_path / "r")
    assert "started" in found.said[0][2]
    assert await found.take(ID) is None
