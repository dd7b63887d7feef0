from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from orchqueue.client import AsyncClient
from orchqueue.client.errors import ConnectFailed

pytestmark = pytest.mark.req("ORCH-4038")
OK = b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{"status":"ok"}'


@asynccontextmanager
async def serving_tls(authority: trustme.CA, *names: str) -> AsyncIterator[str]:
    """Serve one fixed answer over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    running: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            running.discard(task)

    server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


async def test_a_named_authority_is_trusted_and_no_other(tmp_path: Path) -> None:
    """A private certificate is refused with what to do, and accepted once its authority is named."""
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    async with serving_tls(authority, "127.0.0.1") as url:
        async with AsyncClient(url) as stranger:
            with pytest.raises(ConnectFailed, match=r"not trusted.*--ca-file"):
                await stranger.healthz()
        async with AsyncClient(url, ca_file=str(ca_file)) as client:
            assert (await client.healthz()).status == "ok"


async def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    """The right authority does not excuse the wrong name."""
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    async with serving_tls(authority, "elsewhere.example") as url, AsyncClient(url, ca_file=str(ca_file)) as client:
        with pytest.raises(ConnectFailed, match="not trusted"):
            await client.healthz()
