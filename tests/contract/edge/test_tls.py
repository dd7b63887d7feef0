"""The edge behind TLS, and on the standard library's event loop."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trustme
import uvloop

from orchqueue.core.ids import TaskId, TaskKey, task_key
from orchqueue.http.server import tls_context
from tests.contract.edge.stage import LOCAL, running
from tests.waiting import until

TASK = "0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11"
KEY: TaskKey = task_key(LOCAL, TaskId(TASK))


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a server's and a client's side of an authority of our own."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    issued.private_key_pem.write_to_path(key)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return tls_context(str(cert), str(key)), client


@pytest.mark.req("ORCH-4038")
@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])
def test_stream(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], make_loop: Callable[[], asyncio.AbstractEventLoop], *, secure: bool
) -> None:
    """A stream is read, left, resumed by a slow reader and ended, with and without TLS, on either loop."""
    server_side, client_side = contexts
    with running(tls=server_side if secure else None, make_loop=make_loop) as stage:
        url = stage.url.replace("http:", "https:") if secure else stage.url
        with httpx.Client(verify=client_side) as client:
            assert client.post(f"{url}/v1/tasks", json={"task_id": TASK, "prompt": "hi"}).status_code == 202
            with client.stream("GET", f"{url}/v1/tasks/{TASK}/stream") as left:
                assert left.status_code == 200
                until(lambda: stage.runtime.streams.readers == 1)
            until(lambda: stage.runtime.streams.readers == 0)
            with client.stream("GET", f"{url}/v1/tasks/{TASK}/stream") as slow:
                for _ in range(40):
                    stage.on_loop(lambda: stage.runtime.streams.tokens(KEY, ("x" * 100_000,)))
                buffered = stage.on_loop(lambda: max(one.wire.get_write_buffer_size() for one in stage.connections()))
                assert buffered < 1 << 20
                stage.on_loop(lambda: stage.runtime.finish(KEY))
                body = slow.read()
            assert body.count(b"event: token") == 40
            assert body.count(b"event: end") == 1
            refused = client.post(f"{url}/v1/tasks", content=b"x" * (9 << 20))
            assert refused.status_code == 413
