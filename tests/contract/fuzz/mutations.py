"""Bytes that are nearly HTTP: seeded mutations of valid requests, how they are delivered, and what came back."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from tests.contract.edge.hostile import head, post

PATIENCE_S = 30.0
UNKNOWN = "00000000-0000-4000-8000-00000000dead"
TASK = b'{"prompt":"hi","max_tokens":4}'
CHUNKED = b"1e\r\n" + TASK + b"\r\n0\r\n\r\n"

VALID = (
    b"".join(post(TASK)),
    b"".join(post(TASK, "Accept: text/event-stream")),
    head("POST", "/v1/tasks", "Transfer-Encoding: chunked", "Content-Type: application/json") + CHUNKED,
    head("GET", "/v1/tasks?limit=3&state=running&priority=batch"),
    head("GET", f"/v1/tasks/{UNKNOWN}", "X-Correlation-Id: mine"),
    head("GET", f"/v1/tasks/{UNKNOWN}/stream", "Last-Event-ID: 8:332c4e38"),
    b"".join(post(b"", path=f"/v1/tasks/{UNKNOWN}/cancel")),
    head("DELETE", f"/v1/sessions/{UNKNOWN}"),
    head("GET", "/v1/usage?from_day=2026-11-01&to_day=2026-11-30"),
    head("GET", "/v1/pools/default/health", "Authorization: Bearer oq_x_y"),
    head("GET", "/healthz", "Connection: close"),
    head("GET", "/metrics", version="1.0"),
)
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"%00", b"%ff", b"/../", b"//", b"?", b"#", b"\xff\xfe", b"\xc3\xa9", b'"', b"{", b"]",
    b"0\r\n\r\n", b"-1", b"1e999", b"99999999999999999999", b"A" * 5_000, b"HTTP/1.1", b"\r\nHost: evil.example",
    b"\r\nContent-Length: 7", b"\r\nContent-Length: 0", b"\r\nTransfer-Encoding: chunked", b"\r\nExpect: 100-continue",
    b"\r\nConnection: close", b"\r\nConnection: Upgrade\r\nUpgrade: h2c", b"\r\nContent-Encoding: gzip", b"\r\nOrigin: null",
    b"\r\nX-Forwarded-For: 8.8.8.8", b"\r\n X-Folded: 1",
)  # fmt: skip


@dataclass(frozen=True)
class Lot:
    """One mutated request. `ending`: the client stops sending, waits, or resets the connection without reading."""

    name: str
    pieces: tuple[bytes, ...]
    ending: str


@dataclass(frozen=True)
class Answer:
    """One response; `whole` is false when the connection ended inside it."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


def lots(seed: int, count: int) -> Iterator[Lot]:
    """Make mutated requests; each depends on the seed and its own number only."""
    for number in range(count):
        random = Random(f"{seed}:{number}")
        data = random.choice(VALID)
        for _ in range(random.randint(1, 4)):
            data = _mutated(data, random)
        cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 0, 1, 2, 5))))
        pieces = tuple(data[a:b] for a, b in zip((0, *cuts), (*cuts, len(data)), strict=True) if a < b)
        ending = random.choices(("half-close", "wait", "reset"), (92, 3, 5))[0]
        yield Lot(f"seed {seed}, lot {number}", pieces, ending)


def _mutated(data: bytes, random: Random) -> bytes:
    begin = random.randrange(len(data) + 1)
    end = min(len(data), begin + random.choice((1, 1, 2, 5, 20, 200)))
    match random.randrange(8):
        case 0:
            return data[:begin] + bytes(random.randrange(256) for _ in range(end - begin)) + data[end:]
        case 1:
            return data[:begin] + data[end:]
        case 2:
            return data[:end] + data[begin:]
        case 3:
            return data[: max(1, begin)]
        case 4:
            return data + random.choice(VALID)
        case 5:
            lines = data.split(b"\r\n")
            random.shuffle(lines)
            return b"\r\n".join(lines)
        case _:
            return data[:begin] + random.choice(TOKENS) + data[begin:]


def deliver(port: int, lot: Lot) -> bytes:
    """Send a lot on a connection of its own and give every byte that comes back until the connection ends.

    Errors: TimeoutError when the daemon neither answers nor closes.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with _tolerating_a_close():
            for piece in lot.pieces:
                wire.sendall(piece)
            if lot.ending == "half-close":
                wire.shutdown(socket.SHUT_WR)
        if lot.ending == "reset":
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        received: list[bytes] = []
        with _tolerating_a_close():
            while piece := wire.recv(65_536):
                received.append(piece)
        return b"".join(received)


@contextmanager
def _tolerating_a_close() -> Iterator[None]:
    """Let the daemon close when it likes, but not keep us waiting."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError:
        return


def answers_in(raw: bytes) -> list[Answer]:
    """Cut what came back into responses, interim ones left out.

    Errors: ValueError for bytes that are no HTTP/1.1 response.
    """
    answers: list[Answer] = []
    while raw:
        top, blank, rest = raw.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        version, _, told = first.partition(" ")
        if not blank or version != "HTTP/1.1" or not told[:3].isdecimal():
            raise ValueError(f"not the head of a response: {raw[:200]!r}")
        status = int(told[:3])
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        raw = rest
        if status == 100:
            continue
        if headers.get("transfer-encoding") == "chunked":
            body, raw, whole = _unchunked(rest)
        elif status == 204:
            body, whole = b"", True
        elif "content-length" in headers:
            length = int(headers["content-length"])
            body, raw, whole = rest[:length], rest[length:], len(rest) >= length
        else:
            body, raw, whole = rest, b"", True
        answers.append(Answer(status, headers, body, whole))
    return answers


def _unchunked(raw: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        size, mark, rest = raw.partition(b"\r\n")
        if not mark:
            return body, b"", False
        count = int(size, 16)
        body += rest[:count]
        if len(rest) < count + 2:
            return body, b"", False
        if rest[count : count + 2] != b"\r\n":
            raise ValueError(f"a chunk without its end: {rest[count : count + 20]!r}")
        raw = rest[count + 2 :]
        if count == 0:
            return body, raw, True
