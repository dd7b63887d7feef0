"""A stop of the daemon: new tasks are refused, what runs has its grace, the rest is kept for the next start."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.daemon import Daemon
from tests.simulated import SimulatedEngine, pool_text, simulated_engine
from tests.waiting import until

GRACE = "server: {shutdown_grace_ms: 60000}\n"
LENGTH: dict[str, object] = {"max_tokens": 160, "sampling": {"ignore_eos": True}, "on_disconnect": "continue"}
PATIENT = "    timeouts: {wall_ms: 300000, idle_ms: 60000}\n"


class Reader(threading.Thread):
    """Posts a task, or resumes one, and reads its stream to the end of the response."""

    def __init__(self, url: str, body: dict[str, object] | None = None, last_event_id: str = "") -> None:
        super().__init__(daemon=True)
        self._request = (url, last_event_id, body)
        self.events: list[tuple[str, dict[str, object]]] = []
        self.last_event_id = ""
        self.whole = False
        self.start()

    def run(self) -> None:
        """Read."""
        url, last_event_id, body = self._request
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        name = ""
        with httpx.stream("GET" if body is None else "POST", url, json=body, headers=headers, timeout=60) as response:
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "id":
                    self.last_event_id = value
                elif field == "data":
                    self.events.append((name, json.loads(value)))
        self.whole = True

    @property
    def text(self) -> str:
        """Join what was said."""
        return "".join(str(data["t"]) for name, data in list(self.events) if name == "token")

    @property
    def names(self) -> list[str]:
        """Name the events but the figures."""
        return [name for name, _ in list(self.events) if name != "metrics"]


@contextmanager
def slow_engine(directory: Path) -> Iterator[tuple[SimulatedEngine, Path]]:
    """Run an engine that outlives the daemon, and give it with a configuration for it."""
    with simulated_engine("--tokens-per-s", "40") as engine:
        config = directory / "orchqueue.yaml"
        config.write_text("pools:\n" + pool_text(engine, more=PATIENT) + GRACE, encoding="utf-8")
        yield engine, config


def stopping(daemon: Daemon) -> None:
    """Ask it to stop, and wait until it says so."""
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: httpx.get(f"{daemon.url}/readyz", timeout=60).status_code == 503, what="readyz to say no")
    assert "shutting down" in httpx.get(f"{daemon.url}/readyz", timeout=60).text


@pytest.mark.timeout(180)
@pytest.mark.req("ORCH-4012", "ORCH-4133", "ORCH-4208")
def test_a_stop_lets_streams_end_and_keeps_who_waits(tmp_path: Path) -> None:
    """The running stream gets its whole text; newcomers get 503 POOL_UNREADY; the waiting task runs in the next life."""
    with slow_engine(tmp_path) as (engine, config):
        first = Daemon(tmp_path / "data", config)
        try:
            first.wait_ready()
            running = Reader(f"{first.url}/v1/tasks", {"prompt": "a", **LENGTH})
            until(lambda: running.text, deadline_s=60, what="its first text")
            # As long as it runs the daemon answers, and a text that is frozen cannot end.
            engine.freeze()
            waits = httpx.post(f"{first.url}/v1/tasks", json={"prompt": "b", "max_tokens": 8}, timeout=60).json()
            stopping(first)
            refused = httpx.post(f"{first.url}/v1/tasks", json={"prompt": "c"}, timeout=60)
            assert (refused.status_code, refused.json()["code"]) == (503, "POOL_UNREADY")
            assert "Retry-After" in refused.headers
            assert httpx.get(f"{first.url}/healthz", timeout=60).status_code == 200
            engine.thaw()
            assert first.process.wait(60) == 0
            running.join(60)
            assert running.names[-1] == "end"
            assert running.events[-1][1]["finish_reason"] == "length"
        finally:
            first.kill()
        second = Daemon(tmp_path / "data", config)
        try:
            second.wait_ready()
            rest = Reader(f"{second.url}/v1/tasks/{waits['task_id']}/stream")
            until(lambda: rest.whole, deadline_s=60, what="the task that waited")
            assert rest.names[-1] == "end"
        finally:
            second.kill()


@pytest.mark.timeout(180)
@pytest.mark.req("ORCH-4208", "ORCH-4209", "ORCH-4011")
def test_a_second_signal_ends_the_wait_and_the_stream_goes_on_in_the_next_life(tmp_path: Path) -> None:
    """The response ends whole and without a terminal event; resumed at the next start the text is that of one run."""
    task_id, body = str(uuid.uuid4()), {"prompt": "a", "seed": 7, **LENGTH}
    with slow_engine(tmp_path) as (engine, config):
        first = Daemon(tmp_path / "data", config)
        try:
            first.wait_ready()
            # In this life the text comes to no end, however late the signals come.
            engine.set_faults(silent_after=60)
            reader = Reader(f"{first.url}/v1/tasks", {"task_id": task_id, **body})
            until(lambda: len(reader.text) > 40, deadline_s=60, what="some text")
            stopping(first)
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(60) == 0
            until(lambda: reader.whole, deadline_s=60, what="the response to end")
            assert "end" not in reader.names
            assert "error" not in reader.names
        finally:
            first.kill()
        engine.set_faults()
        second = Daemon(tmp_path / "data", config)
        try:
            second.wait_ready()
            rest = Reader(f"{second.url}/v1/tasks/{task_id}/stream", last_event_id=reader.last_event_id)
            again = Reader(f"{second.url}/v1/tasks", body)
            until(lambda: rest.whole and again.whole, deadline_s=60, what="both streams")
            assert rest.names[-1] == "end"
            assert reader.text + rest.text == again.text
        finally:
            second.kill()
