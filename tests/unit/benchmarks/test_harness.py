"""The load harness counts every token, tells what went wrong, and its engine speaks llama.cpp's format."""

from __future__ import annotations

import http.client
import json
import select
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.harness import Harness, HarnessError, Said
from tests.waiting import until

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the harness is built with gcc")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """Give a running harness with eight slots."""
    with Harness(tmp_path, slots=8, ctx=4096) as running:
        yield running


def ask(harness: Harness, method: str, path: str, body: str | None = None) -> bytes:
    """Send one request to the harness's engine."""
    with closing(http.client.HTTPConnection("127.0.0.1", harness.engine_port, timeout=10)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()


def test_engine_says_that_it_is_simulated(harness: Harness) -> None:
    """Nobody can take the harness's engine for a real one."""
    props = json.loads(ask(harness, "GET", "/props"))
    assert props["simulated"] is True
    assert props["total_slots"] == len(json.loads(ask(harness, "GET", "/slots"))) == 8


def test_unlinked_prompts_are_decoded_alike(harness: Harness) -> None:
    """A prompt that belongs to no client request gets its tokens at once, the same every time, and a last event."""
    body = json.dumps({"prompt": "why", "n_predict": 3})
    first, second = (ask(harness, "POST", "/completion", body) for _ in range(2))
    events = [json.loads(line[6:]) for line in first.decode().split("\n\n") if line]
    assert first == second
    assert [event["stop"] for event in events] == [False, False, False, True]
    assert events[-1]["tokens_predicted"] == 3


def test_closed_loop_reads_every_token(harness: Harness) -> None:
    """All requests are finished with exactly their tokens, and both marks are told in order."""
    marks: list[Said] = []
    template = harness.template("direct", "/completion", {"prompt": "@00000000"})
    said = harness.load(harness.engine_port, template, 4, 25, 8, on_mark=marks.append)
    assert (said["finished"], said["tokens"], said["errors"]) == (8, 200, 0)
    assert [(mark["mark"], mark["tokens"]) for mark in marks] == [("begin", 20), ("end", 180)]


def test_closed_loop_stands_still_while_somebody_looks(harness: Harness) -> None:
    """Nothing more happens at a mark until it was looked at, however late that is."""
    process, said, more = psutil.Process(harness._process.pid), harness._process.stdout, list[object]()
    assert said is not None

    def look(_: Said) -> None:
        until(lambda: process.status() == psutil.STATUS_SLEEPING, what="the harness to stand still")
        more.append(select.select([said], [], [], 0)[0])

    template = harness.template("direct", "/completion", {"prompt": "@00000000"})
    assert harness.load(harness.engine_port, template, 4, 25, 8, on_mark=look)["tokens"] == 200
    assert more == [[], []]


def test_paced_and_open_streams(harness: Harness) -> None:
    """Paced streams get all their tokens; open ones stay in the engine's slots until they are closed."""
    template = harness.template("direct", "/completion", {"prompt": "@00000000", "mirostat_tau": 7.0})
    assert harness.load(harness.engine_port, template, 3, 4, 3, pace_us=1_000)["tokens"] == 12
    harness.open(harness.engine_port, template, 5)
    busy = [slot for slot in json.loads(ask(harness, "GET", "/slots")) if slot["is_processing"]]
    assert [slot["params"]["mirostat_tau"] for slot in busy] == [7.0] * 5
    harness.close_clients()
    assert not any(slot["is_processing"] for slot in json.loads(ask(harness, "GET", "/slots")))


@pytest.mark.parametrize("verb", ["load", "post"])
def test_refusals_are_errors(harness: Harness, verb: str) -> None:
    """A server that refuses spoils the measurement instead of looking fast."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def refuse() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")

        refusing = threading.Thread(target=refuse)
        refusing.start()
        template = harness.template("any", "/v1/tasks", {"prompt": "@00000000"})
        port = server.getsockname()[1]
        measure = (
            partial(harness.load, port, template, 1, 2, 1)
            if verb == "load"
            else partial(harness.post, port, template, 1, 1)
        )
        with pytest.raises(HarnessError, match=r"refused: HTTP/1\.1 503"):
            measure()
        refusing.join()
