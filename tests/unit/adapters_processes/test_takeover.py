"""An engine that a dead daemon left has one new owner, who is to it what the old one was."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from orchqueue.adapters.processes import launcher as launchers
from orchqueue.adapters.processes.identity import ProcessId, lives
from orchqueue.adapters.processes.watched import WatchedProcess
from tests.unit.adapters_processes.conftest import (
    GRACE_S,
    ID,
    SECRET,
    STAY,
    Launch,
    Line,
    Look,
    Own,
    glob,
    halt,
    kill,
    pin,
    remains,
    spec_of,
    taken,
)
from tests.waiting import until_async

pytestmark = pytest.mark.req("ORCH-4140")


@pytest.mark.req("ORCH-4139", "ORCH-4378")
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


async def test_an_engine_that_still_loads_is_taken_over(launch: Launch, look: Look, tmp_path: Path) -> None:
    """A new owner of an engine that was not ready yet hears its port when it is."""
    loaded = tmp_path / "loaded"
    os.mkfifo(loaded)
    first = await launch(spec_of(f"open({str(loaded)!r}).read(); {STAY}", orphan_grace_s=GRACE_S))
    await until_async(lambda: glob(tmp_path / "replicas", "*.json"), what="the engine to begin")
    first._writer.close()
    process = await taken(look(tmp_path / "replicas"))
    assert process is not None
    assert not process.port.done()
    loaded.write_text("")
    assert await process.port == 4711
    await process.stop()


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


async def test_one_whose_grace_has_run_out_is_waited_for(own: Own, look: Look, tmp_path: Path) -> None:
    """An engine that its launcher is ending already is not taken, and not launched beside."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STUBBORN", 0.0, GRACE_S)
    engine = pin(engine_pid)
    await kill(owner)
    said: dict[str, object] = {}
    while said.get("detail") != launchers.ENDING:
        line = await Line.to(tmp_path / "r")
        said = await line.say("own")
        await line.close()
    found = look()
    await found.begin([ID])
    take = asyncio.create_task(found.take(ID))
    await until_async(lambda: found.said, what="the engine to be noticed")
    assert found.said == [("leftover_engine", ID, "nobody had adopted it in time")]
    assert lives(engine)
    assert not take.done()
    os.kill(engine_pid, signal.SIGKILL)
    assert await take is None
    assert not lives(engine)


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
    both = look(answer_within_s=3.0), look(answer_within_s=3.0)
    processes = await asyncio.gather(*(taken(found) for found in both))
    assert sorted(process is None for process in processes) == [False, True]
    loser = both[0] if processes[0] is None else both[1]
    assert loser.said == [("leftover_engine", ID, "another process owns it")]
    assert lives(engine)
    assert {".sock", ".json"} <= {path.suffix for path in glob(tmp_path / "r", "*")}
    winner = processes[1] if processes[0] is None else processes[0]
    assert winner is not None
    await winner.stop()


@pytest.mark.req("ORCH-4379")
async def test_an_owner_that_is_about_to_be_gone_is_waited_for(own: Own, look: Look, tmp_path: Path) -> None:
    """A daemon that begins while the kernel still clears up after the last one gets its engines nevertheless."""
    owner, engine_pid, _ = await own(tmp_path / "r", "STAY", GRACE_S)
    found = look()
    await found.begin([ID])
    take = asyncio.create_task(found.take(ID))
    line = await Line.to(tmp_path / "r")
    assert (await line.say("own"))["event"] == "refused"
    await line.close()
    await kill(owner)
    process = await take
    assert process is not None
    assert process.engine_pid == engine_pid
    await process.stop()


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


async def test_a_take_that_is_called_off_loses_nothing(own: Own, look: Look, tmp_path: Path) -> None:
    """An engine whose launch is cancelled before it got it is still there for the next."""
    owner, _, launcher_pid = await own(tmp_path / "r", "STAY", GRACE_S)
    await kill(owner)
    halt(launcher_pid)
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
