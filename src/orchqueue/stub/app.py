"""The stub's ASGI application: find the interaction that a request is, and answer as it says.

Req: ORCH-4041
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from orchqueue.http.messages import Header, Receive, Scope, Send, correlation_id_of
from orchqueue.stub.matching import Asked, Near, choose, nearest
from orchqueue.stub.pact import Interaction

CHOICE: Final = "/~"
BODY_MAX_BYTES: Final = 8 * 1024 * 1024
_OWN_HEADERS: Final = frozenset({"x-correlation-id", "content-length", "transfer-encoding", "connection", "date"})
_STREAM: Final = "text/event-stream"
Pause = Callable[[], Awaitable[object]]


class StubApp:
    """Answers as a pact says.

    `/~` lists the interactions; below `/~/SLUG` stands a server that knows that one only. `pause` is awaited between two
    events of a stream.
    """

    def __init__(self, interactions: Sequence[Interaction], pause: Pause) -> None:
        self._interactions = interactions
        self._by_slug = {one.slug: one for one in interactions}
        self._pause = pause
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End open streams where they stand."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: Sequence[Header] = scope["headers"]
        exchange = _Exchange(send, correlation_id_of(headers))
        body = await _read_body(receive)
        if body is None:
            await exchange.fault(413, f"the body is larger than {BODY_MAX_BYTES} bytes")
            return
        asked = _asked(scope, headers, body)
        if asked.path == CHOICE or asked.path.startswith(f"{CHOICE}/"):
            await self._choose_by_slug(asked, exchange, receive)
            return
        found = choose(self._interactions, asked)
        if found is None:
            await exchange.mismatch(asked, nearest(self._interactions, asked))
        else:
            await self._play(found, exchange, receive)

    async def _choose_by_slug(self, asked: Asked, exchange: _Exchange, receive: Receive) -> None:
        slug, slash, rest = asked.path.removeprefix(CHOICE).removeprefix("/").partition("/")
        if not slug:
            await exchange.json(200, {"interactions": [_outline(one) for one in self._interactions]})
            return
        chosen = self._by_slug.get(slug)
        if chosen is None:
            close = get_close_matches(slug, self._by_slug, n=3, cutoff=0.5)
            hint = f"the closest are {', '.join(close)}; " if close else ""
            await exchange.fault(404, f"no interaction is called {slug}; {hint}GET {CHOICE} lists them all")
        elif not rest:
            await exchange.json(200, {**_outline(chosen), "expects": chosen.request, "answers": chosen.response})
        else:
            asked = msgspec.structs.replace(asked, path=slash + rest)
            [near] = nearest([chosen], asked)
            if near.differences:
                await exchange.mismatch(asked, [near])
            else:
                await self._play(chosen, exchange, receive)

    async def _play(self, chosen: Interaction, exchange: _Exchange, receive: Receive) -> None:
        response = chosen.response
        headers = [
            (name.lower().encode(), value.encode())
            for name, values in response.headers.items()
            for value in values
            if name.lower() not in _OWN_HEADERS
        ]
        body = response.body
        if body is None:
            await exchange.whole(response.status, headers, b"")
        elif body.content_type.startswith(_STREAM):
            await exchange.begin(response.status, headers)
            await self._stream(events_of(body.as_bytes()), exchange, receive)
        else:
            if isinstance(body.content, dict) and "correlation_id" in body.content:
                content = {**body.content, "correlation_id": exchange.correlation_id}
                body = msgspec.structs.replace(body, content=content)
            await exchange.whole(response.status, headers, body.as_bytes())

    async def _stream(self, events: Iterable[bytes], exchange: _Exchange, receive: Receive) -> None:
        """Send event by event; stop when the reader is gone or the server ends."""
        gone = asyncio.ensure_future(receive())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            for index, event in enumerate(events):
                if index and not await self._has_paused(gone, stopping):
                    break
                await exchange.piece(event)
            if not gone.done():
                await exchange.finish()
        finally:
            gone.cancel()
            stopping.cancel()

    async def _has_paused(self, *ends: asyncio.Future[Any]) -> bool:
        pause = asyncio.ensure_future(self._pause())
        try:
            await asyncio.wait({pause, *ends}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
        return not any(end.done() for end in ends)


class _Exchange:
    """One answer on its way out; every one carries the correlation id."""

    def __init__(self, send: Send, correlation_id: str) -> None:
        self._send = send
        self.correlation_id = correlation_id

    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Send the head."""
        named = [*headers, (b"x-correlation-id", self.correlation_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": named})

    async def piece(self, data: bytes) -> None:
        """Send a part of the body, at once."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """Send the end of the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Send an answer with its length."""
        length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
        await self.begin(status, [*headers, *length])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def json(self, status: int, value: object) -> None:
        """Send JSON of the stub's own."""
        await self.whole(status, [(b"content-type", b"application/json")], msgspec.json.encode(value))

    async def fault(self, status: int, message: str, **more: object) -> None:
        """Send an error envelope of the stub's own."""
        envelope = {"code": "INVALID_PARAMS", "message": message, "retriable": False}
        await self.json(status, {**envelope, "correlation_id": self.correlation_id, **more})

    async def mismatch(self, asked: Asked, near: Sequence[Near]) -> None:
        """Say that no interaction is this request, which come close and what is different."""
        closest = near[0]
        first = "; ".join(f"{d.where}: expected {d.expected}, got {d.got}" for d in closest.differences[:3])
        await self.fault(
            404,
            f"no interaction of the pact is {asked.method} {asked.path} as it was sent. "
            f"The nearest is '{closest.interaction.description}'; different there: {first}",
            faults=[
                {"pointer": d.where.removeprefix("/body"), "message": f"expected {d.expected}, got {d.got}"}
                for d in closest.differences[:32]
            ],
            nearest=[{**_outline(one.interaction), "differences": one.differences} for one in near],
        )


def events_of(text: bytes) -> list[bytes]:
    r"""Cut an event stream after each blank line.

    >>> events_of(b"data: 1\n\n: hi\n\n")
    [b'data: 1\n\n', b': hi\n\n']
    """
    return [event + b"\n\n" for event in text.split(b"\n\n") if event]


def _outline(one: Interaction) -> dict[str, object]:
    return {
        "slug": one.slug,
        "description": one.description,
        "base_path": f"{CHOICE}/{one.slug}",
        "request": f"{one.request.method} {one.request.path}",
        "status": one.response.status,
        "states": one.states,
    }


def _asked(scope: Scope, headers: Sequence[Header], body: bytes) -> Asked:
    by_name: dict[str, list[str]] = {}
    for name, value in headers:
        by_name.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    query: dict[str, list[str]] = {}
    for key, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        query.setdefault(key, []).append(value)
    joined = {name: ", ".join(values) for name, values in by_name.items()}
    return Asked(scope["method"], scope["path"], query, joined, body)


async def _read_body(receive: Receive) -> bytes | None:
    """Read the whole body; None when it is too large."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > BODY_MAX_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(pieces)
