"""Requests and responses as the handlers see them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl
from uuid import UUID

from orchqueue.core.ids import Tenant

if TYPE_CHECKING:
    from orchqueue.http.exchange import ConnectionExchange

Header: TypeAlias = tuple[bytes, bytes]
# ASGI's own shapes are open dictionaries.
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CORRELATION = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
JSON = b"application/json"


# Ids name things and guard nothing, so a generator that is seeded once spares a system call per request.
_ids = Random()


def new_id() -> str:
    """Make a random UUID."""
    return str(UUID(int=_ids.getrandbits(128), version=4))


def correlation_id_of(headers: Sequence[Header]) -> str:
    """Take over the caller's correlation id if it is well formed, else make one.

    Req: ORCH-2052
    """
    given = [value for name, value in headers if name == b"x-correlation-id"]
    if len(given) == 1 and CORRELATION.fullmatch(given[0]):
        return given[0].decode()
    return new_id()


class Response:
    """An answer with a whole body."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, status: int, body: bytes = b"", headers: Sequence[Header] = (), content_type: bytes = JSON
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.content_type = content_type

    def all_headers(self, correlation_id: str) -> list[Header]:
        """Complete the headers."""
        headers = [*self.headers, (b"x-correlation-id", correlation_id.encode())]
        if self.status != 204:
            headers.append((b"content-length", b"%d" % len(self.body)))
        if self.body:
            headers.append((b"content-type", self.content_type))
        return headers

    def as_bytes(self, correlation_id: str, more: Sequence[Header]) -> bytes:
        """Write the whole message for a connection that is closed after it."""
        lines = [b"HTTP/1.1 %d %b" % (self.status, HTTPStatus(self.status).phrase.encode())]
        headers = [*more, *self.all_headers(correlation_id), (b"connection", b"close")]
        lines += [name + b": " + value for name, value in headers]
        return b"\r\n".join([*lines, b"", self.body])


class Request:
    """A request whose head has arrived."""

    __slots__ = (
        "_by_name",
        "_receive",
        "caller_tenant",
        "client_id",
        "correlation_id",
        "exchange",
        "headers",
        "method",
        "params",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, exchange: ConnectionExchange) -> None:
        self.scope = scope
        self._receive = receive
        self.exchange = exchange
        self.method: str = scope["method"]
        self.headers: tuple[Header, ...] = tuple(scope["headers"])
        self.correlation_id = correlation_id_of(self.headers)
        self._by_name: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            self._by_name.setdefault(name, []).append(value)
        self.params: Mapping[str, str | int] = {}
        self.caller_tenant = Tenant("")
        self.client_id = ""

    @property
    def client_host(self) -> str:
        """Tell where the connection comes from; empty for a Unix socket."""
        client: tuple[str, int] | None = self.scope["client"]
        return client[0] if client else ""

    def param(self, pointer: str) -> str:
        """Give a parameter that the contract requires."""
        return str(self.params[pointer])

    def values(self, name: bytes) -> list[str]:
        """Give every value of a header, by its lower-case name."""
        return [value.decode("latin-1") for value in self._by_name.get(name, ())]

    def value(self, name: bytes) -> str | None:
        """Give a header's value; repeated ones are joined as RFC 9110 says."""
        values = self._by_name.get(name)
        return b", ".join(values).decode("latin-1") if values else None

    def query(self) -> list[tuple[str, str]]:
        """Split the query string."""
        raw: bytes = self.scope["query_string"]
        return parse_qsl(raw.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="replace")

    async def body(self, limit_bytes: int) -> bytes:
        """Read the whole body.

        Errors: BodyTooLong; ClientGone; the exchange's problem.
        """
        piece, more = await self.receive()
        if not more and len(piece) <= limit_bytes:
            return piece
        pieces = [piece]
        total = len(piece)
        while more and total <= limit_bytes:
            piece, more = await self.receive()
            pieces.append(piece)
            total += len(piece)
        if total > limit_bytes:
            raise BodyTooLong
        return b"".join(pieces)

    async def receive(self) -> tuple[bytes, bool]:
        """Wait for more of the body.

        Shape: the bytes, and whether more follow.
        Errors: ClientGone; the exchange's problem, such as a body that comes too slowly.
        """
        message = await self._receive()
        if self.exchange.problem is not None:
            raise self.exchange.problem
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False)


class ClientGone(Exception):
    """The client left before its request was complete."""


class BodyTooLong(Exception):
    """The body goes on beyond the limit."""
