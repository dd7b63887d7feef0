"""The storm's own parts: what breaks, breaks as planned, and what is left behind is seen."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from orchqueue.adapters.processes.identity import start_ticks_of
from tests.chaos.__main__ import build_parser, wish_of
from tests.chaos.leaks import MARK, files_left, marked
from tests.chaos.leash import LEASHED
from tests.chaos.monkey import OTHERS, plan
from tests.chaos.proxy import Proxy
from tests.chaos.report import command
from tests.waiting import until, until_async


@pytest.mark.req("ORCH-4346")
def test_plan_follows_from_the_seed() -> None:
    """A seed gives the same strokes, all kills among them, in the order of their times; another seed others."""
    strokes = plan(Random(5), 600.0, 200, 200)
    assert strokes == plan(Random(5), 600.0, 200, 200) != plan(Random(6), 600.0, 200, 200)
    assert strokes == sorted(strokes)
    assert sum(due.act == "kill_daemon" for due in strokes) == 200
    assert sum(due.act == "kill_replica" for due in strokes) == 200
    assert {due.act for due in strokes} == {"kill_daemon", "kill_replica", *OTHERS}
    assert all(0 <= due.at_s <= 600 for due in strokes)


@pytest.mark.req("ORCH-4346")
def test_printed_command_repeats_the_wish() -> None:
    """The command that a failure begins with asks for exactly that run."""
    wish = wish_of(build_parser().parse_args(["--minutes", "1.5", "--engine", "both", "--kills-daemon", "7"]))
    words = command(wish).split()
    assert words[:3] == ["python", "-m", "tests.chaos"]
    assert wish_of(build_parser().parse_args(words[3:])) == wish


@pytest.mark.req("ORCH-4346")
async def test_proxy_forwards_holds_and_resets() -> None:
    """Bytes pass both ways, wait while they are held, and a cut is a reset for the client."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy()
    await proxy.open()
    proxy.target = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    proxy.hold()
    writer.write(b"two")
    answer = asyncio.create_task(reader.readexactly(3))
    # Over loopback an echo that is not held comes within a millisecond.
    await asyncio.wait({answer}, timeout=0.2)
    assert not answer.done()
    proxy.flow()
    assert await answer == b"two"
    assert proxy.cut(Random(1), 1.0) == 1
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    await until_async(lambda: proxy.cut(Random(1), 0.0) == 0)
    await proxy.close()
    server.close()
    await server.wait_closed()


@pytest.mark.req("ORCH-4346")
async def test_proxy_without_a_daemon_breaks_connections() -> None:
    """While nobody serves, whoever connects is cut off at once instead of waiting."""
    proxy = Proxy()
    await proxy.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
    await proxy.close()


@pytest.mark.req("ORCH-4349")
def test_process_that_carries_the_mark_is_seen(tmp_path: Path) -> None:
    """A process that a daemon's child left behind is found by what it inherited, and only that one."""
    environment = {**os.environ, MARK: str(tmp_path)}
    command_line = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command_line, env=environment, stdin=subprocess.PIPE) as child:
        until(lambda: list(marked(tmp_path)), what="the child's environment")
        assert [process.pid for process in marked(tmp_path)] == [child.pid]
        assert list(marked(tmp_path / "other")) == []
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
    assert list(marked(tmp_path)) == []


@pytest.mark.req("ORCH-4349")
def test_whoever_is_leashed_dies_with_the_storm() -> None:
    """When the storm itself is killed, what it had started does not live on."""
    child = [*LEASHED, "-m", "http.server", "0", "--bind", "127.0.0.1"]
    storm = (
        f"import subprocess, sys; child = subprocess.Popen({child!r}, stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline(), flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", storm], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        said, _, serving = parent.stdout.readline().partition(" ")
        assert "Serving" in serving
        pid = int(said)
        assert start_ticks_of(pid) is not None
        parent.kill()
        until(lambda: start_ticks_of(pid) is None, what="the child's end")


@pytest.mark.req("ORCH-4349")
def test_file_that_nobody_should_keep_is_seen(tmp_path: Path) -> None:
    """Sockets, identities and scratch files are named; the journal, the lock and logs are not."""
    data, scratch = tmp_path / "data", tmp_path / "tmp"
    (data / "replicas").mkdir(parents=True)
    scratch.mkdir()
    for name in ("journal.sqlite", "journal.sqlite-wal", "lock", "replicas/real-0.log", "replicas/real-0.old.log"):
        (data / name).touch()
    assert files_left(data, scratch) == []
    for odd in (data / "replicas" / "real-0-1234.sock", scratch / "left"):
        odd.touch()
    assert files_left(data, scratch) == ["replicas/real-0-1234.sock", str(scratch / "left")]
