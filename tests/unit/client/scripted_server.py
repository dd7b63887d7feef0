"""A tiny real HTTP/1.1 server whose every answer is scripted by the test, bad manners included."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

TASK_ID = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
SESSION_ID = "6d1f0c52-9a8e-4a53-8f9d-3a5d0e6b7c21"
CORRELATION_ID = "c-1"


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass(frozen=True)
class Reply:
    """What to send. `ending`: finish properly, cut the connection, cut without any answer, or fall silent."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: Sequence[bytes] | None = None
    ending: Literal["finish", "cut", "no_answer", "silence"] = "finish"


Script = Callable[[Asked], Reply]


@dataclass
class ScriptedServer:
    """Where it listens, what it was asked, and who hung up."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    client_left: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def serving(script: Script, port: int = 0) -> AsyncIterator[ScriptedServer]:
    """Serve the script on a loopback port, a free one unless it is named."""
    state = ScriptedServer("")
    running: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            while (asked := await _read_request(reader, writer)) is not None:
                state.asked.append(asked)
                if not await _answer(script(asked), asked, reader, writer, state):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()[:2]
    state.url = f"http://{host}:{port}"
    try:
        yield state
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked | None:
    try:
        first = await reader.readexactly(1)
        if first == b"\x16":  # a TLS handshake: say in plain HTTP that it is not understood
            writer.write(b"HTTP/1.1 400 X\r\n\r\n")
            return None
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = head.rstrip("\r\n").split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


async def _answer(
    reply: Reply, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: ScriptedServer
) -> bool:
    """Send a reply; False when the connection is of no further use."""
    if reply.ending == "no_answer":
        return False
    headers = {"x-correlation-id": CORRELATION_ID, **reply.headers}
    if reply.pieces is None:
        if reply.status != 204:
            headers["content-length"] = str(len(reply.body))
    else:
        headers["transfer-encoding"] = "chunked"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {reply.status} X\r\n{head}\r\n".encode("latin-1"))
    if reply.pieces is None:
        writer.write(reply.body)
    for piece in reply.pieces or ():
        if piece:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
    if reply.ending == "silence":
        # Who hangs up on bytes that it has not read yet leaves by a reset.
        with suppress(ConnectionError):
            await reader.read()
        state.client_left.set()
        return False
    if reply.ending == "cut":
        await writer.drain()
        return False
    if reply.pieces is not None:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def json_reply(status: int, value: object, headers: dict[str, str] | None = None) -> Reply:
    """Answer JSON."""
    return Reply(status, {"content-type": "application/json", **(headers or {})}, json.dumps(value).encode())


def stream_reply(
    *pieces: bytes, ending: Literal["finish", "cut", "no_answer", "silence"] = "finish", status: int = 200
) -> Reply:
    """Answer an event stream in the given pieces."""
    return Reply(status, {"content-type": "text/event-stream"}, pieces=pieces, ending=ending)


def admission(task_id: str = TASK_ID) -> dict[str, object]:
    """Make the body of a 202."""
    path = f"/v1/tasks/{task_id}"
    return {
        "task_id": task_id,
        "queue_position": 3,
        "predicted_start_ms": 1840,
        "backoff_ms": 0,
        "seed": 1001,
        "determinism": "strict",
        "pool_id": "default",
        "links": {"self": path, "stream": f"{path}/stream", "cancel": f"{path}/cancel"},
        "basis": "measured",
        "prompt_tokens": 31,
        "prompt_tokens_basis": "bytes_bound",
    }


def envelope(code: str, message: str = "no room", *, retriable: bool = True, **more: object) -> dict[str, object]:
    """Make the body of an error."""
    return {"code": code, "message": message, "retriable": retriable, "correlation_id": CORRELATION_ID, **more}


def frame(event: str, data: object, event_id: str | None = None) -> bytes:
    """Make one server-sent event."""
    lines = [f"id: {event_id}"] if event_id is not None else []
    lines += [f"event: {event}", f"data: {json.dumps(data, ensure_ascii=False)}", "", ""]
    return "\n".join(lines).encode()


STARTED = {
    "queue_position": 3,
    "predicted_start_ms": 1840,
    "seed": 1001,
    "pool_id": "default",
    "replica_id": "default-0",
    "engine_version": "xllamacpp-2026.10.1",
    "model_digest": "sha256:ab",
    "determinism": "strict",
    "queue_time_ms": 12,
}


def started_frame() -> bytes:
    """Make the started event; its id is the position before any text."""
    return frame("started", STARTED, position_of(""))


def position_of(text: str) -> str:
    """Make the id of the position after `text`."""
    raw = text.encode()
    return f"{len(raw)}:{zlib.crc32(raw):08x}"


def end_data(text: str, *, digest: str | None = None, canceled: bool = False) -> dict[str, object]:
    """Make the data of an end event."""
    return {
        "tokens_out": 7,
        "decode_ms": 780,
        "finish_reason": "canceled" if canceled else "stop",
        "canceled": canceled,
        "receipt": {
            "digest": digest or sha256(text.encode()).hexdigest(),
            "seed": 1001,
            "params_digest": "0" * 64,
            "sampler_profile_version": "v1",
            "engine": "llamacpp",
            "engine_version": "xllamacpp-2026.10.1",
            "model_digest": "sha256:ab",
            "attempts": 1,
            "durable": True,
        },
    }


def transcript(texts: Sequence[str], *, after_bytes: int = 0, with_end: bool = True) -> bytes:
    """Make a whole stream of these texts, or what is left of it after some bytes, as a right server would."""
    out = [started_frame()] if after_bytes == 0 else []
    whole = "".join(texts)
    so_far = ""
    for index, text in enumerate(texts):
        so_far += text
        known = after_bytes - (len(so_far.encode()) - len(text.encode()))
        fresh = text.encode()[max(0, known) :].decode()
        if fresh:
            out.append(frame("token", {"t": fresh, "i": index}, position_of(so_far)))
    if with_end:
        out.append(frame("end", end_data(whole), f"{position_of(whole)}:end"))
    return b"".join(out)


def resume_bytes(asked: Asked) -> int:
    """Read how many bytes a resuming reader already has."""
    return int(asked.headers.get("last-event-id", "0:").partition(":")[0])
