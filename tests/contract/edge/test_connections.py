"""Connections over real sockets: bounds, bodies, pipelining and a proper stop."""

import asyncio
import gc
import threading

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from orchqueue.http import edge
from orchqueue.http.limits import EdgeLimits
from tests.contract.edge.hostile import SIZES, Case, head, post, provoke
from tests.contract.edge.stage import Stage, running
from tests.contract.edge.wire import (
    BODY,
    MIB,
    STREAM,
    accept,
    connect,
    read_to_end,
    read_until,
    refuses_connections,
    say,
)
from tests.waiting import until


@pytest.mark.req("ORCH-4209")
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


@pytest.mark.req("ORCH-4209")
def test_stopping_waits_for_an_answer_in_progress() -> None:
    """A request that is being answered is answered before the stop is over."""
    with running() as stage:
        stage.on_loop(lambda: setattr(stage.runtime, "hold", asyncio.Event()))
        with connect(stage) as wire:
            for piece in post(BODY):
                wire.sendall(piece)
            until(lambda: stage.runtime.waiting == 1)
            stopping = threading.Thread(target=stage.stop, args=(20.0,))
            stopping.start()
            until(lambda: refuses_connections(stage))
            assert stage.runtime.hold is not None
            stage.on_loop(stage.runtime.hold.set)
            assert read_to_end(wire).startswith(b"HTTP/1.1 202")
            stopping.join(30)


@pytest.mark.req("ORCH-4023", "ORCH-4075")
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


@pytest.mark.req("ORCH-4072")
def test_chunk_overhead_is_bounded() -> None:
    """A body of one-byte chunks is cut off although its content never reaches the limit."""
    with running(EdgeLimits(body_bytes=10_000)) as stage, connect(stage) as wire:
        wire.sendall(head("POST", "/v1/tasks", "Transfer-Encoding: chunked", "Content-Type: application/json"))
        wire.sendall(b"00000000000000000000000000000001\r\nx\r\n" * 9_000)
        assert read_to_end(wire).startswith(b"HTTP/1.1 413")


@pytest.mark.req("ORCH-4072")
def test_body_at_the_limit_passes() -> None:
    """The limit itself is allowed, one byte more is not, in one piece and in chunks."""
    with running(EdgeLimits(body_bytes=1_000)) as stage:
        fits = b'{"prompt":"%b"}' % (b"a" * 987)
        assert len(fits) == 1_000
        for body, status in ((fits, 202), (fits + b" ", 413)):
            assert httpx.post(f"{stage.url}/v1/tasks", content=body).status_code == status
            assert httpx.post(f"{stage.url}/v1/tasks", content=iter([body[:500], body[500:]])).status_code == status


@pytest.mark.req("ORCH-4072")
def test_refused_client_may_finish_sending(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends all of a body that is too large, and only then reads, gets its answer and no reset."""
    monkeypatch.setattr(edge, "LINGER_S", 60.0)  # a machine that stalls is no client that never stops
    with connect(stage) as wire:
        wire.sendall(head("POST", "/v1/tasks", f"Content-Length: {30 * MIB}", "Content-Type: application/json"))
        for _ in range(30):
            wire.sendall(b"x" * MIB)
        assert read_to_end(wire).startswith(b"HTTP/1.1 413")


@pytest.mark.req("ORCH-4072")
@pytest.mark.parametrize("case", SIZES, ids=lambda case: case.name)
def test_what_a_refused_client_sent_is_freed_at_once(stage: Stage, case: Case) -> None:
    """Nothing of a refused request waits for the cycle collector, which does not see how large it is."""
    gc.collect()
    gc.disable()
    try:
        provoke(("127.0.0.1", stage.port), case)
        until(lambda: stage.server.connections == 0)
        until(lambda: not any(isinstance(one, RequestResponseCycle) for one in gc.get_objects()))
    finally:
        gc.enable()


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


@pytest.mark.req("ORCH-4078")
def test_many_pipelined_requests_are_bounded(stage: Stage) -> None:
    """A client that runs hundreds of requests ahead gets the answers that fit and then the end."""
    with connect(stage) as wire:
        wire.sendall(head("GET", "/healthz") * 500)
        answers = read_to_end(wire).count(b"HTTP/1.1 200")
    assert 0 < answers < 500


@pytest.mark.req("ORCH-4077")
def test_idle_connection_is_closed() -> None:
    """A kept connection on which nothing happens is closed, and blank lines do not keep it."""
    with running(EdgeLimits(idle_timeout_ms=300)) as stage, connect(stage) as wire:
        wire.sendall(head("GET", "/healthz"))
        read_until(wire, b'{"status":"ok"}')
        wire.sendall(b"\r\n\r\n")
        assert read_to_end(wire) == b""
