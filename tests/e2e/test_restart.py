"""The daemon is killed and started again in the middle of a stream, and its clients do not notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchqueue.client import Client, Sampling, Stream, TaskRequest
from orchqueue.client.types import End, Event, Started, Token
from tests.chaos.leaks import MARK, marked
from tests.daemon import Daemon
from tests.simulated import pool_text, simulated_engine
from tests.unit.cli.running import ENVIRONMENT, ORCHQ

MAX_TOKENS = 160
KILLED_AT_BYTES = [60, 240]


class Lives:
    """One daemon after another, all at the port of the first."""

    def __init__(self, data_dir: Path, config: Path) -> None:
        self._data_dir = data_dir
        self._config = config
        self.daemon = Daemon(data_dir, config)
        self.url = self.daemon.url

    def begin_anew(self) -> None:
        """Kill the daemon the hard way and start the next one."""
        port = self.daemon.port
        self.daemon.kill()
        self.daemon = Daemon(self._data_dir, self._config, "--port", str(port))


@contextmanager
def lives(directory: Path) -> Iterator[Lives]:
    """Serve a slow simulated engine, which outlives every daemon in front of it."""
    with simulated_engine("--tokens-per-s", "80") as engine:
        config = directory / "orchqueue.yaml"
        config.write_text("pools:\n" + pool_text(engine))
        all_lives = Lives(directory / "data", config)
        try:
            all_lives.daemon.wait_ready()
            yield all_lives
        finally:
            all_lives.daemon.stop()


def following(served: Lives, task_id: str) -> subprocess.Popen[bytes]:
    """Run `orchq stream` on a task."""
    command = [*ORCHQ, "stream", task_id]
    return subprocess.Popen(
        command, env={**ENVIRONMENT, "ORCHQ_URL": served.url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def read_over_deaths(served: Lives, stream: Stream) -> list[Event]:
    """Read to the end; the daemon dies whenever the text has reached the next of the lengths."""
    deaths = list(KILLED_AT_BYTES)
    events: list[Event] = []
    for event in stream:
        events.append(event)
        if deaths and len(stream.text) >= deaths[0]:
            del deaths[0]
            served.begin_anew()
    assert not deaths
    return events


@pytest.mark.timeout(180)
@pytest.mark.req("ORCH-4310", "ORCH-4311", "ORCH-4011", "ORCH-4039")
def test_readers_see_one_stream_over_two_deaths_of_the_daemon(tmp_path: Path) -> None:
    """Killed twice while a client and `orchq stream` read: both have the undisturbed text, the iterator each event once."""
    wish = TaskRequest(
        prompt="Tell of the river.",
        seed=1001,
        max_tokens=MAX_TOKENS,
        sampling=Sampling(ignore_eos=True),
        on_disconnect="continue",
    )
    with lives(tmp_path) as served, Client(served.url) as client:
        stream = client.run(wish)
        with following(served, stream.task_id) as follower:
            assert follower.stdout is not None
            assert follower.stderr is not None
            shown = os.read(follower.stdout.fileno(), 1)  # from now on it knows that the server was there
            events = read_over_deaths(served, stream)
            shown += follower.stdout.read()
            told = follower.stderr.read().decode()
        served.daemon.wait_ready()
        undisturbed = client.run(wish).result()
        assert client.task(stream.task_id).text == undisturbed.text
    kinds = [type(event) for event in events]
    assert (kinds.count(Started), kinds.count(End), kinds[-1]) == (1, 1, End)
    assert "".join(event.t for event in events if isinstance(event, Token)) == stream.text == undisturbed.text
    assert stream.end is not None
    assert stream.end.receipt.digest == undisturbed.end.receipt.digest
    assert (follower.returncode, shown.decode()) == (0, undisturbed.text)
    assert "verified" in told
    assert "Traceback" not in told


def demo(scratch: Path, *options: str) -> subprocess.Popen[str]:
    """Start the demonstration of `make demo-failover`; who runs the tests in the background has Ctrl-C ignored for all below."""
    command = ["env", "--default-signal=INT", sys.executable, "examples/demo_failover.py", *options]
    environment = {**os.environ, "TMPDIR": str(scratch), MARK: str(scratch)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@contextmanager
def nothing_left(scratch: Path) -> Iterator[None]:
    """See that no file and no process of a demonstration is left behind."""
    yield
    assert list(marked(scratch)) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.real_engine
@pytest.mark.timeout(300)
@pytest.mark.req("ORCH-4313", "ORCH-4010", "ORCH-4011")
def test_the_demonstration_survives_a_killed_replica_and_a_killed_daemon(tmp_path: Path) -> None:
    """`make demo-failover` shows one answer, finds it equal to the undisturbed one and counts three attempts."""
    # What is left of a text of that length when the strokes come takes longer than a busy machine holds the demonstration up.
    with nothing_left(tmp_path):
        shown, told = demo(tmp_path, "--max-tokens", "400").communicate(timeout=280)
    assert "the engine of demo-" in told
    assert "the daemon; starting it again" in told
    assert "400 tokens, 3 attempts" in told, told
    assert f"equal, byte for byte: {len(shown.removesuffix(chr(10)).encode())} bytes" in told


@pytest.mark.real_engine
@pytest.mark.timeout(120)
@pytest.mark.req("ORCH-4313")
def test_the_demonstration_can_be_stopped(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the answer ends it with 130 and leaves nothing behind."""
    with nothing_left(tmp_path), demo(tmp_path, "--max-tokens", "1500") as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "nothing is left running" in told
