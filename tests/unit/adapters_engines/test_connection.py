"""Engines that are reached over TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from orchqueue.adapters.engines.connection import parse_endpoint, request
from orchqueue.ports.errors import EngineError


@asynccontextmanager
async def engine(authority: trustme.CA) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Listen with a certificate of the authority; answer each request with `fine` and keep its head."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = await asyncio.start_server(answer, "localhost", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}", heads


@pytest.mark.req("ORCH-4219")
async def test_an_engine_behind_https_is_asked_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An authority that this machine trusts is enough, and the key goes along."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with engine(authority) as (url, heads):
        answer = await request(parse_endpoint(url, "sk-1"), "GET", "/health", None)
    assert (answer.status, answer.body) == (200, b"fine")
    assert b"Authorization: Bearer sk-1\r\n" in heads[0]


@pytest.mark.req("ORCH-4219")
async def test_an_engine_that_cannot_prove_its_name_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of an unknown authority is an error before anything was sent."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with engine(trustme.CA()) as (url, heads):
        with pytest.raises(EngineError, match="localhost"):
            await request(parse_endpoint(url, "sk-1"), "GET", "/health", None)
    assert heads == []
