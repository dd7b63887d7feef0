"""Plain sockets to a stage, and the one task that its tests talk about."""

import socket

import httpx

from orchqueue.core.ids import TaskId, TaskKey, task_key
from orchqueue.core.outcome import Outcome
from tests.contract.edge.stage import LOCAL, Stage

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
    wire.settimeout(30)
    wire.connect(("127.0.0.1", stage.port))
    return wire


def read_until(wire: socket.socket, mark: bytes) -> bytes:
    """Read until the bytes end with a mark."""
    got = bytearray()
    while not got.endswith(mark):
        piece = wire.recv(65_536)
        assert piece, f"the connection ended after {bytes(got[-1_000:])!r}"
        got += piece
    return bytes(got)


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
