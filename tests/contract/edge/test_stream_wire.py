"""Streams over real sockets: framing, keep-alive, disconnects, slow readers and a proper end."""

import asyncio
import socket
import threading
import zlib

import httpx
import pytest

from orchqueue.core.ids import TaskId, TaskKey, task_key
from orchqueue.core.outcome import Outcome
from orchqueue.http.limits import EdgeLimits
from orchqueue.schema.contract import declared_operations
from tests.contract.edge.hostile import head, post
from tests.contract.edge.stage import LOCAL, Stage, running
from tests.waiting import until

TASK = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
KEY: TaskKey = task_key(LOCAL, TaskId(TASK))
BODY = b'{"task_id":"%b","prompt":"hi"}' % TASK.encode()
STREAM = f"/v1/tasks/{TASK}/stream"
MIB = 1 << 20


def connect(stage: Stage, receive_buffer_bytes: int | None = None) -> socket.socket:
    """Open a plain connection."""
    wire = socket.socket()
    if receive_buffer_bytes is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    wire.settimeout(10)
    wire.connect(("127.0.0.1", stage.port))
    return wire


def read_until(wire: socket.socket, mark: bytes) -> bytes:
    """Read until the bytes end with a mark."""
    got = b""
    while not got.endswith(mark):
        piece = wire.recv(65_536)
        assert piece, f"the connection ended after {got!r}"
        got += piece
    return got


def read_to_end(wire: socket.socket) -> bytes:
    """Read until the other side closes."""
    pieces = []
    while piece := wire.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def unchunk(body: bytes) -> bytes:
    """Take the chunk framing off, demanding that it is whole."""
    plain = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        plain += body[:count]
        assert body[count : count + 2] == b"\r\n"
        body = body[count + 2 :]
        if count == 0:
            assert body == b""
            return plain


def accept(stage: Stage) -> None:
    """Post the task."""
    assert httpx.post(f"{stage.url}/v1/tasks", content=BODY).status_code == 202


def say(stage: Stage, *texts: str) -> None:
    """Append text to the task's stream."""
    stage.on_loop(lambda: stage.runtime.streams.tokens(KEY, texts))


def finish(stage: Stage, outcome: Outcome = Outcome.COMPLETED) -> None:
    """End the task."""
    stage.on_loop(lambda: stage.runtime.finish(KEY, outcome))


def refuses_connections(stage: Stage) -> bool:
    """Tell whether nobody listens any more."""
    with socket.socket() as wire:
        return wire.connect_ex(("127.0.0.1", stage.port)) != 0


@pytest.mark.req("ORCH-2001", "ORCH-2002")
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


@pytest.mark.req("ORCH-2002")
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


@pytest.mark.req("ORCH-4023")
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
    until(lambda: stage.runtime.streams.readers == 0)
    assert stage.runtime.reader_changes == [("attached", 1), ("detached", 0)]
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


@pytest.mark.req("ORCH-2002")
def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    """Requests sent ahead of their answers are answered in turn, a stream among them."""
    accept(stage)
    with connect(stage) as wire:
        wire.sendall(head("GET", "/healthz") + head("GET", STREAM) + head("GET", "/nowhere", "Connection: close"))
        first = read_until(wire, b'{"status":"ok"}')
        assert first.startswith(b"HTTP/1.1 200")
        until(lambda: stage.runtime.streams.readers == 1)
        say(stage, "Hello")
        finish(stage)
        rest = read_to_end(wire)
    assert rest.count(b"HTTP/1.1 ") == 2
    assert rest.index(b"event: end") < rest.index(b"HTTP/1.1 404")


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


@pytest.mark.req("ORCH-2002", "ORCH-4023")
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


@pytest.mark.req("ORCH-4023")
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


@pytest.mark.req("ORCH-4012")
def test_stopping_ends_streams_properly() -> None:
    """A stop lets readers go with a whole response, so that they can tell it from a cut and resume."""
    with running() as stage:
        accept(stage)
        say(stage, "Hello")
        with connect(stage) as wire:
            wire.sendall(head("GET", STREAM))
            read_until(wire, b"\n\n\r\n")
            stage.stop()
            assert read_to_end(wire).endswith(b"0\r\n\r\n")


@pytest.mark.req("ORCH-4012")
def test_stopping_waits_for_an_answer_in_progress() -> None:
    """A request that is being answered is answered before the stop is over."""
    with running() as stage:
        stage.on_loop(lambda: setattr(stage.runtime, "hold", asyncio.Event()))
        with connect(stage) as wire:
            for piece in post(BODY):
                wire.sendall(piece)
            until(lambda: stage.runtime.waiting == 1)
            stopping = threading.Thread(target=stage.stop, args=(10.0,))
            stopping.start()
            until(lambda: refuses_connections(stage))
            assert stage.runtime.hold is not None
            stage.on_loop(stage.runtime.hold.set)
            assert read_to_end(wire).startswith(b"HTTP/1.1 202")
            stopping.join(10)


@pytest.mark.req("ORCH-4023")
def test_connections_are_bounded() -> None:
    """A connection too many is told so with 429 and the label, and room comes back when one closes."""
    with running(EdgeLimits(connections=2)) as stage:
        one, two = connect(stage), connect(stage)
        until(lambda: stage.server.connections == 2)
        refused = httpx.get(f"{stage.url}/healthz")
        assert (refused.status_code, refused.json()["policy_label"]) == (429, "connections")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        one.close()
        two.close()
        until(lambda: stage.server.connections == 0)
        assert httpx.get(f"{stage.url}/healthz").status_code == 200


@pytest.mark.req("ORCH-4022")
def test_chunk_overhead_is_bounded() -> None:
    """A body of one-byte chunks is cut off although its content never reaches the limit."""
    with running(EdgeLimits(body_bytes=10_000)) as stage, connect(stage) as wire:
        wire.sendall(head("POST", "/v1/tasks", "Transfer-Encoding: chunked", "Content-Type: application/json"))
        wire.sendall(b"00000000000000000000000000000001\r\nx\r\n" * 9_000)
        assert read_to_end(wire).startswith(b"HTTP/1.1 413")


@pytest.mark.req("ORCH-4022")
def test_body_at_the_limit_passes() -> None:
    """The limit itself is allowed, one byte more is not, in one piece and in chunks."""
    with running(EdgeLimits(body_bytes=1_000)) as stage:
        fits = b'{"prompt":"%b"}' % (b"a" * 987)
        assert len(fits) == 1_000
        for body, status in ((fits, 202), (fits + b" ", 413)):
            assert httpx.post(f"{stage.url}/v1/tasks", content=body).status_code == status
            assert httpx.post(f"{stage.url}/v1/tasks", content=iter([body[:500], body[500:]])).status_code == status


@pytest.mark.req("ORCH-4022")
def test_refused_client_may_finish_sending(stage: Stage) -> None:
    """A client that sends all of a body that is too large, and only then reads, gets its answer and no reset."""
    with connect(stage) as wire:
        wire.sendall(head("POST", "/v1/tasks", f"Content-Length: {30 * MIB}", "Content-Type: application/json"))
        for _ in range(30):
            wire.sendall(b"x" * MIB)
        assert read_to_end(wire).startswith(b"HTTP/1.1 413")


def test_large_body_of_many_values_is_read(stage: Stage) -> None:
    """A body of megabytes is a task like any other."""
    body = b'{"prompt":"%b"}' % (b"a" * (4 * MIB))
    assert httpx.post(f"{stage.url}/v1/tasks", content=body).status_code == 202


def test_body_behind_an_offered_upgrade_is_read(stage: Stage) -> None:
    """A client that offers HTTP/2 along with its POST, as Java's does, is understood in HTTP/1.1."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with connect(stage) as wire:
        for piece in post(BODY, *offer):
            wire.sendall(piece)
        assert read_until(wire, b"}").startswith(b"HTTP/1.1 202")
        wire.sendall(head("GET", "/healthz", "Connection: close"))
        assert read_to_end(wire).endswith(b'{"status":"ok"}')


def test_expect_continue_is_told_to_go_on(stage: Stage) -> None:
    """A client that waits for leave to send its body gets it."""
    with connect(stage) as wire:
        top, body = post(BODY, "Expect: 100-continue", "Connection: close")
        wire.sendall(top)
        assert read_until(wire, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sendall(body)
        assert read_to_end(wire).startswith(b"HTTP/1.1 202")


def test_many_pipelined_requests_are_bounded(stage: Stage) -> None:
    """A client that runs hundreds of requests ahead gets the answers that fit and then the end."""
    with connect(stage) as wire:
        wire.sendall(head("GET", "/healthz") * 500)
        answers = read_to_end(wire).count(b"HTTP/1.1 200")
    assert 0 < answers < 500


@pytest.mark.req("ORCH-4022")
def test_idle_connection_is_closed() -> None:
    """A kept connection on which nothing happens is closed, and blank lines do not keep it."""
    with running(EdgeLimits(idle_timeout_ms=300)) as stage, connect(stage) as wire:
        wire.sendall(head("GET", "/healthz"))
        read_until(wire, b'{"status":"ok"}')
        wire.sendall(b"\r\n\r\n")
        assert read_to_end(wire) == b""
