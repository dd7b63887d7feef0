"""Streams over real sockets: framing, keep-alive, disconnects and slow readers."""

import asyncio
import zlib

import httpx
import pytest

from orchqueue.schema.contract import declared_operations
from tests.contract.edge.hostile import head, post
from tests.contract.edge.stage import Stage, running
from tests.contract.edge.wire import (
    BODY,
    KEY,
    MIB,
    STREAM,
    TASK,
    accept,
    connect,
    finish,
    read_to_end,
    read_until,
    say,
    unchunk,
)
from tests.waiting import until


@pytest.mark.req("ORCH-4051", "ORCH-4052", "ORCH-4106")
def test_post_answers_with_the_stream(stage: Stage) -> None:
    """With the right Accept a POST is answered by the stream, its admission told in headers before the first token."""
    accepted = {"Accept": "text/event-stream"}
    with httpx.stream("POST", f"{stage.url}/v1/tasks", content=BODY, headers=accepted) as response:
        (operation,) = (one for one in declared_operations() if one.id == "createTask")
        assert [name for name in operation.responses["200"].headers if name.lower() not in response.headers] == []
        assert response.headers["x-task-id"] == TASK
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in response.headers
        lines = response.iter_lines()
        stage.on_loop(lambda: stage.runtime.start(KEY))
        assert next(lines) == "id: 0:00000000"
        say(stage, "Hello")
        while (line := next(lines)) != "event: token":
            assert "end" not in line
        finish(stage)
        assert "event: end" in list(lines)


@pytest.mark.parametrize(
    ("accept_header", "streams"),
    [("text/event-stream", True), ("application/json, text/event-stream", True), ("*/*", False), ("text/*", False),
     ("application/json;q=0.9, text/event-stream;q=0.5", False), ("text/event-stream;q=0", False),
     ("TEXT/Event-Stream ; q=1.0", True), ("text/event-stream;q=x", False)],
)  # fmt: skip
@pytest.mark.req("ORCH-4052")
def test_accept_decides(stage: Stage, accept_header: str, streams: bool) -> None:
    """Only a client that names the stream, and likes it at least as much as JSON, gets it."""
    with httpx.stream("POST", f"{stage.url}/v1/tasks", content=BODY, headers={"Accept": accept_header}) as response:
        assert (response.status_code == 200) is streams
        assert (response.status_code == 202) is not streams


@pytest.mark.req("ORCH-2002")
def test_keep_alive_survives_a_stream(stage: Stage) -> None:
    """After a stream the same connection takes the next request, chunk framing intact."""
    accept(stage)
    say(stage, "Hello", " world")
    with connect(stage) as wire:
        wire.sendall(head("GET", STREAM))
        read_until(wire, b"\n\n\r\n")
        say(stage, "!")
        read_until(wire, b"\n\n\r\n")
        finish(stage)
        read_until(wire, b"0\r\n\r\n")
        wire.sendall(head("GET", "/healthz", "Connection: close"))
        assert read_to_end(wire).endswith(b'{"status":"ok"}')


@pytest.mark.req("ORCH-2002")
def test_chunks_carry_whole_events(stage: Stage) -> None:
    """Every write is one well-formed chunk and the whole is the log."""
    accept(stage)
    with connect(stage) as wire:
        wire.sendall(head("GET", STREAM))
        read_until(wire, b"\r\n\r\n")
        for text in ("a", "b" * 70_000, "c"):
            say(stage, text)
        finish(stage)
        plain = unchunk(read_until(wire, b"0\r\n\r\n"))
    assert plain.count(b"event: token") == 3
    assert plain.count(b"event: end") == 1


@pytest.mark.req("ORCH-2002")
def test_http_1_0_gets_no_chunks(stage: Stage) -> None:
    """An HTTP/1.0 client reads plain events up to the close."""
    accept(stage)
    say(stage, "Hello")
    with connect(stage) as wire:
        wire.sendall(head("GET", STREAM, version="1.0"))
        answer = read_until(wire, b'{"t":"Hello","i":0}\n\n')
        finish(stage)
        answer += read_to_end(wire)
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in top.lower()
    assert b"connection: close" in top.lower()
    assert body.startswith(b"id: 5:")
    assert body.endswith(b"\n\n")


@pytest.mark.req("ORCH-4101", "ORCH-4102", "ORCH-4103")
def test_resume_by_last_event_id(stage: Stage) -> None:
    """Resuming gives the rest, 409 for other bytes, 204 after the end."""
    accept(stage)
    say(stage, "Hello", " world")
    finish(stage)

    def read(event_id: str) -> httpx.Response:
        return httpx.get(stage.url + STREAM, headers={"Last-Event-ID": event_id})

    rest = read(f"3:{zlib.crc32(b'Hel'):08x}")
    assert b'data: {"t":"lo","i":0}' in rest.content
    assert b"Hel" not in rest.content
    assert read("3:00000000").status_code == 409
    done = read(f"11:{zlib.crc32(b'Hello world'):08x}:end")
    assert (done.status_code, done.content, done.headers["x-task-id"]) == (204, b"", TASK)
    assert read("").text.count("event: token") == 2


@pytest.mark.req("ORCH-4076")
def test_too_many_readers_are_refused() -> None:
    """One reader more than allowed gets 429 with the label `readers`."""
    with running(readers_per_task=1) as stage:
        accept(stage)
        with httpx.stream("GET", stage.url + STREAM) as first:
            assert first.status_code == 200
            second = httpx.get(stage.url + STREAM)
            assert (second.status_code, second.json()["policy_label"]) == (429, "readers")
            assert second.headers["retry-after"] == "1"


@pytest.mark.req("ORCH-3026")
def test_leaving_is_noticed(stage: Stage) -> None:
    """A reader that goes away is detached at once, and what is written afterwards harms nobody."""
    accept(stage)
    with connect(stage) as wire:
        wire.sendall(head("GET", STREAM))
        read_until(wire, b"\r\n\r\n")
        assert stage.runtime.streams.readers == 1
    until(lambda: stage.runtime.reader_changes == [("attached", 1), ("detached", 0)])
    assert stage.runtime.streams.readers == 0
    say(stage, "nobody listens")
    finish(stage)


@pytest.mark.req("ORCH-3026")
def test_leaving_before_the_answer_counts_as_a_reader(stage: Stage) -> None:
    """Who posts for a stream and leaves before the answer has come and gone as a reader."""
    stage.on_loop(lambda: setattr(stage.runtime, "hold", asyncio.Event()))
    with connect(stage) as wire:
        for piece in post(BODY, "Accept: text/event-stream"):
            wire.sendall(piece)
        until(lambda: stage.runtime.waiting == 1)
    until(lambda: stage.server.connections == 0)
    assert stage.runtime.hold is not None
    stage.on_loop(stage.runtime.hold.set)
    until(lambda: stage.runtime.reader_changes == [("attached", 1), ("detached", 0)])


@pytest.mark.req("ORCH-4078")
def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    """Requests sent ahead of their answers are answered in turn, a stream among them."""
    accept(stage)
    with connect(stage) as wire:
        wire.sendall(head("GET", "/healthz") + head("GET", STREAM) + head("GET", "/nowhere", "Connection: close"))
        until(lambda: stage.runtime.streams.readers == 1)
        say(stage, "Hello")
        finish(stage)
        answers = read_to_end(wire)
    assert answers.count(b"HTTP/1.1 ") == 3
    assert answers.index(b'"status":"ok"') < answers.index(b"event: end") < answers.index(b"HTTP/1.1 404")


def test_leaving_behind_a_pipelined_request_is_noticed(stage: Stage) -> None:
    """A client that pipelined behind its stream and left is noticed at the next writes."""
    accept(stage)
    with connect(stage) as wire:
        wire.sendall(head("GET", STREAM) + head("GET", "/healthz"))
        read_until(wire, b"\r\n\r\n")

    def gone() -> bool:
        say(stage, "x")
        return stage.runtime.streams.readers == 0

    until(gone)


def test_garbage_behind_a_stream_does_not_break_into_it(stage: Stage) -> None:
    """What a client sends that cannot be parsed ends the connection only after the stream's own end."""
    accept(stage)
    with connect(stage) as wire:
        wire.sendall(head("GET", STREAM))
        top = read_until(wire, b"\r\n\r\n")
        wire.sendall(b"\x00\x01 garbage\r\n\r\n" * 4)
        until(lambda: any(one.broken for one in stage.connections()))
        say(stage, "Hello")
        finish(stage)
        body = read_to_end(wire)
    assert top.startswith(b"HTTP/1.1 200")
    assert b"event: end" in unchunk(body)


@pytest.mark.req("ORCH-4096", "ORCH-4107")
def test_slow_reader_costs_no_memory_and_loses_nothing(stage: Stage) -> None:
    """A reader that does not read is paused with bounded buffers, and gets every byte when it reads again."""
    accept(stage)
    with connect(stage, receive_buffer_bytes=4096) as wire:
        wire.sendall(head("GET", STREAM))
        read_until(wire, b"\r\n\r\n")
        for index in range(64):
            say(stage, chr(ord("a") + index % 26) * 100_000)
        (connection,) = stage.connections()
        buffered = stage.on_loop(connection.wire.get_write_buffer_size)
        assert buffered < MIB
        finish(stage)
        plain = unchunk(read_until(wire, b"0\r\n\r\n"))
    assert plain.count(b"event: token") == 64
    assert len(plain) > 6_400_000
    assert f'"t":"{"l" * 100_000}"'.encode() in plain


@pytest.mark.req("ORCH-4108")
def test_stalled_reader_is_cut(stage: Stage) -> None:
    """A reader that took nothing for too long is cut off without an end, and may resume."""
    accept(stage)
    with connect(stage, receive_buffer_bytes=4096) as wire:
        wire.sendall(head("GET", STREAM))
        read_until(wire, b"\r\n\r\n")
        for _ in range(64):
            say(stage, "x" * 100_000)
        for _ in range(8):
            stage.on_loop(stage.runtime.streams.tick)
        until(lambda: stage.server.connections == 0)
        assert not read_to_end(wire).endswith(b"0\r\n\r\n")
    assert stage.runtime.streams.readers == 0
