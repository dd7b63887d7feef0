"""No engine outlives everybody who owns it, and no owner is kept in the dark."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from orchqueue.adapters.processes import launched
from orchqueue.adapters.processes.identity import lives, read_identity
from orchqueue.adapters.processes.launched import encode, launch_process
from orchqueue.adapters.processes.launcher import BoundedLog, Orders
from tests.unit.adapters_processes.conftest import (
    SECRET,
    STAY,
    STUBBORN,
    Launch,
    Line,
    Own,
    glob,
    halt,
    kill,
    pin,
    spec_of,
)
from tests.waiting import until, until_async

pytestmark = pytest.mark.req("ORCH-4027")


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
    command_line = await asyncio.to_thread(Path(f"/proc/{process.launcher_pid}/cmdline").read_bytes)
    assert not any(secret.encode() in command_line for secret in (identity.token, SECRET))
    assert not any(SECRET.encode() in path.read_bytes() for path in glob(directory, "*.[jl]*"))


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


@pytest.mark.req("ORCH-4378")
async def test_an_adopted_engine_lives_on(own: Own, tmp_path: Path) -> None:
    """Who comes with the token before the grace is over owns the engine, a wrong token owns nothing, and it ends with its adopter."""
    owner, engine_pid, launcher_pid = await own(tmp_path / "r", "STAY", 0.5)
    other_owner, orphan_pid, _ = await own(tmp_path / "s", "STAY", 0.5)
    engine, orphan = pin(engine_pid), pin(orphan_pid)
    stranger, adopter = await Line.to(tmp_path / "r", token="wrong"), await Line.to(tmp_path / "r")
    assert (await adopter.say("status"))["event"] == "status"
    # The launcher learns of both and of the owner's end at once, so that none of them comes too late.
    halt(launcher_pid)
    stranger.ask("own")
    adopter.ask("own")
    await kill(owner)
    os.kill(launcher_pid, signal.SIGCONT)
    nothing, told = await stranger.hear(), await adopter.hear()
    assert nothing == {}
    assert (told["event"], told["engine_pid"], told["port"], told["secret"]) == ("owned", engine_pid, 4711, SECRET)
    await stranger.close()
    await kill(other_owner)
    await until_async(lambda: not lives(orphan), what="the engine that nobody adopted to end")
    assert lives(engine)
    await adopter.close()
    await until_async(lambda: not lives(engine), what="the engine to end when its adopter has gone")


@pytest.mark.req("ORCH-4379")
async def test_an_engine_has_one_owner(launch: Launch, tmp_path: Path) -> None:
    """While an owner is connected nobody else may own; of many who want to own an orphan at once one does; any may stop it."""
    process = await launch(spec_of(STAY, orphan_grace_s=60.0))
    await process.port
    directory = tmp_path / "replicas"
    lines = [await Line.to(directory) for _ in range(6)]
    told = await asyncio.gather(*(line.say("own") for line in lines))
    assert [(said["event"], said["detail"]) for said in told] == [("refused", "owned")] * 6
    process._writer.close()
    told = []
    while not any(said["event"] == "owned" for said in told):
        told = await asyncio.gather(*(line.say("own") for line in lines))
    assert sorted(str(said["event"]) for said in told) == ["owned", *["refused"] * 5]
    assert all("secret" not in said for said in told if said["event"] == "refused")
    refused = next(line for line, said in zip(lines, told, strict=True) if said["event"] == "refused")
    assert (await refused.say("stop"))["event"] == "status"
    assert (await refused.say("own")).get("event") != "owned"
    await process._launcher.gone
    for line in lines:
        await line.close()


@pytest.mark.req("ORCH-4379")
async def test_an_owner_that_has_gone_is_noticed_first(own: Own, tmp_path: Path) -> None:
    """A successor whose word arrives together with the end of the last owner is not refused for its sake."""
    owner, _, launcher_pid = await own(tmp_path / "r", "STAY", 60.0)
    successor = await Line.to(tmp_path / "r")
    assert (await successor.say("status"))["event"] == "status"
    halt(launcher_pid)
    asked = asyncio.create_task(successor.say("own"))
    await asyncio.sleep(0)
    await kill(owner)
    os.kill(launcher_pid, signal.SIGCONT)
    assert (await asked)["event"] == "owned"
    await successor.say("stop")
    await successor.close()


@pytest.mark.req("ORCH-4379")
async def test_an_owner_that_pauses_stays_the_owner(own: Own, tmp_path: Path) -> None:
    """An owner that is stopped for longer than the grace keeps its engine, and goes on with it."""
    paused, engine_pid, _ = await own(tmp_path / "r", "STAY", 0.5)
    killed, orphan_pid, _ = await own(tmp_path / "s", "STAY", 0.5)
    engine, orphan = pin(engine_pid), pin(orphan_pid)
    halt(paused.pid)
    killed.kill()
    await killed.wait()
    await until_async(lambda: not lives(orphan), what="the grace of the one beside it to run out")
    line = await Line.to(tmp_path / "r")
    assert (await line.say("own"))["event"] == "refused"
    paused.send_signal(signal.SIGCONT)
    assert (await line.say("own"))["event"] == "refused"
    assert lives(engine)
    await line.close()
    paused.kill()
    await paused.wait()
    await until_async(lambda: not lives(engine), what="the engine to end with its owner")


async def test_no_engine_begins_without_an_owner(tmp_path: Path) -> None:
    """An owner that died before the engine began leaves nothing that later ones would have to find."""
    mark = tmp_path / "began"
    program = f"open({str(mark)!r}, 'w'); {STAY}"
    orders = Orders("pool-0", "pool-0-1", "t", "", "", [sys.executable, "-c", program], {}, "e.log", 1000, 60.0, 5.0)
    ours, theirs = socket.socketpair()
    ours.sendall(json.dumps(orders._asdict()).encode() + b"\n" + encode("status", "t"))
    ours.close()
    began = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchqueue.adapters.processes.launcher", stdin=theirs.fileno(), cwd=tmp_path
    )
    theirs.close()
    assert await began.wait() == 0
    assert not mark.exists()
    assert not glob(tmp_path, "*.[js]*")


@pytest.mark.req("ORCH-4378")
async def test_an_end_is_heard_though_the_launcher_hangs(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that ends while its launcher hangs is told as ended, and a stop leaves neither."""
    monkeypatch.setattr(launched, "END_TOLD_WITHIN_S", 0.05)
    monkeypatch.setattr(launched, "KILL_WAIT_S", 0.2)
    process = await launch(spec_of(STAY, stop_grace_s=0.0))
    await process.port
    engine, launcher = pin(process.engine_pid), pin(process.launcher_pid)
    halt(launcher.pid)
    os.kill(engine.pid, signal.SIGKILL)
    assert "does not say" in (await process.exited).detail
    await process.stop()
    assert not lives(launcher)


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
