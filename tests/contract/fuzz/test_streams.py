"""What no generated request can show of a stream: that it ends once and for all, and that it never falls silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.fuzz.conftest import POOL, QUICK
from tests.contract.fuzz.transcripts import events_of, transcript_faults
from tests.daemon import Daemon, running
from tests.simulated import SimulatedEngine, pool_text, simulated_engine
from tests.waiting import until

STREAM = {"accept": "text/event-stream"}
STALLED_MS = 600_000


class Ear:
    """A client that collects a stream's bytes in a thread of its own until the stream ends."""

    def __init__(self, url: str, **request: object) -> None:
        self.content = b""
        self.status = 0
        self.problem: httpx.HTTPError | None = None
        self.over = threading.Event()
        self._request = {"method": "GET", "url": url, "timeout": 30.0, **request}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            with httpx.stream(**self._request) as answer:  # type: ignore[arg-type]
                self.status = answer.status_code
                for piece in answer.iter_raw():
                    self.content += piece
        except httpx.HTTPError as error:
            self.problem = error
        finally:
            self.over.set()

    def wait(self) -> bytes:
        """Give all bytes, once the stream has ended."""
        until(self.over.is_set, what="the end of a stream", deadline_s=30)
        self._thread.join(5)
        assert self.problem is None, f"the stream broke: {self.problem!r} after {self.content[-200:]!r}"
        return self.content


@pytest.fixture
def stalling(tmp_path: Path) -> Iterator[tuple[Daemon, SimulatedEngine]]:
    """Serve an engine of one slot that can be told to stall, with the shortest heartbeat there is."""
    with simulated_engine(*QUICK) as engine:
        config = tmp_path / "orchqueue.yaml"
        patience = f"    timeouts: {{idle_ms: {STALLED_MS}, wall_ms: {STALLED_MS}}}\n"
        limits = "server: {limits: {heartbeat_ms: 3000}}\n"
        config.write_text("pools:\n" + pool_text(engine, pool_id=POOL, more=patience) + limits)
        with running(tmp_path / "data", config) as daemon:
            daemon.wait_ready()
            yield daemon, engine


def post(daemon: Daemon, **fields: object) -> str:
    """Post a task and give its id."""
    answer = httpx.post(f"{daemon.url}/v1/tasks", json={"prompt": "hi", **fields}, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


@pytest.mark.req("ORCH-4105", "ORCH-4045", "ORCH-2002")
def test_idle_streams_are_never_silent(stalling: tuple[Daemon, SimulatedEngine]) -> None:
    """A task that waits, a stalled one and a reader ahead of the log all go on hearing something, until a cancel ends them."""
    daemon, engine = stalling
    engine.set_faults(silent_after=2)
    stalled = post(daemon, on_disconnect="continue")
    waiting = post(daemon, on_disconnect="continue")
    ears = {
        "stalled": Ear(f"{daemon.url}/v1/tasks/{stalled}/stream"),
        "waiting": Ear(f"{daemon.url}/v1/tasks/{waiting}/stream"),
        "ahead": Ear(f"{daemon.url}/v1/tasks/{stalled}/stream", headers={"Last-Event-ID": "999:00000000"}),
    }
    for _ in range(2):
        heard = {name: len(ear.content) for name, ear in ears.items()}
        until(
            lambda heard=heard: all(len(ear.content) > heard[name] for name, ear in ears.items()),  # type: ignore[misc]
            what=f"something new on each of {heard}",
            deadline_s=20,
        )
    assert ears["ahead"].content.startswith(b": ")
    assert not any(ear.over.is_set() for ear in ears.values())
    for task_id in (waiting, stalled):
        assert httpx.post(f"{daemon.url}/v1/tasks/{task_id}/cancel", timeout=30).status_code == 204
    assert transcript_faults(ears["waiting"].wait()) == []
    assert transcript_faults(ears["stalled"].wait()) == []
    (error,) = events_of(ears["ahead"].wait())
    assert error["event"] == "error"
    assert '"WORKER_RESET"' in str(error["data"])


@pytest.mark.req("ORCH-4045", "ORCH-2002", "ORCH-2003")
def test_every_stream_ends_once(open_daemon: Daemon) -> None:
    """Streams that are posted, followed, resumed, cancelled and left in the middle all end in one terminal event."""
    lots = [
        {
            "prompt": f"tell me {number} things",
            "max_tokens": 16,
            "seed": number,
            "priority": ("interactive", "batch")[number % 2],
        }
        for number in range(12)
    ]
    posted = [Ear(f"{open_daemon.url}/v1/tasks", method="POST", json=lot, headers=STREAM) for lot in lots]
    ids = [post(open_daemon, **lot, on_disconnect="continue") for lot in lots]
    followed = [Ear(f"{open_daemon.url}/v1/tasks/{task_id}/stream") for task_id in ids]
    for task_id in ids[::3]:
        assert httpx.post(f"{open_daemon.url}/v1/tasks/{task_id}/cancel", timeout=30).status_code == 204
    for ear in (*posted, *followed):
        content = ear.wait()
        assert ear.status == 200
        assert transcript_faults(content) == []
    for ear, task_id in zip(followed, ids, strict=True):
        assert_resumable(f"{open_daemon.url}/v1/tasks/{task_id}/stream", ear.content)


def assert_resumable(url: str, whole: bytes) -> None:
    """Demand that what follows each event of an ended stream is given again, and nothing after the last."""
    ids = [str(event["id"]) for event in events_of(whole) if "id" in event]
    for at in (ids[0], ids[len(ids) // 2], ids[-1]):
        answer = httpx.get(url, headers={"Last-Event-ID": at}, timeout=30)
        if at.endswith(":end"):
            assert (answer.status_code, answer.content) == (204, b"")
        else:
            assert transcript_faults(answer.content, at) == []
            assert list(events_of(answer.content))[-1] == list(events_of(whole))[-1]


@pytest.mark.req("ORCH-4045", "ORCH-2002")
def test_reader_that_breaks_off_leaves_the_stream_whole(open_daemon: Daemon) -> None:
    """A reader that is reset in the middle of a stream costs the others, and his own next try, nothing."""
    task_id = post(open_daemon, max_tokens=200, sampling={"ignore_eos": True}, on_disconnect="continue")
    ear = Ear(f"{open_daemon.url}/v1/tasks/{task_id}/stream")
    with socket.create_connection(("127.0.0.1", open_daemon.port), timeout=30) as wire:
        wire.sendall(f"GET /v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert wire.recv(64).startswith(b"HTTP/1.1 200 OK")
    assert transcript_faults(ear.wait()) == []
    assert transcript_faults(httpx.get(f"{open_daemon.url}/v1/tasks/{task_id}/stream", timeout=30).content) == []
