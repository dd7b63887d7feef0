from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from orchqueue.client import AsyncClient, Client, RetryPolicy, TaskStream
from orchqueue.client.errors import Refused
from orchqueue.client.sync import Stream
from orchqueue.client.types import End, Started, Token
from tests.unit.client.scripted_server import (
    Asked,
    Reply,
    Script,
    admission,
    envelope,
    json_reply,
    serving,
    stream_reply,
    transcript,
)

pytestmark = pytest.mark.req("ORCH-4230")


def script(asked: Asked) -> Reply:
    return json_reply(202, admission()) if asked.method == "POST" else stream_reply(transcript(["It", " scatters."]))


async def with_client(answers: Script, use: object) -> list[Asked]:
    async with serving(answers) as server:

        def in_thread() -> None:
            assert callable(use)
            with Client(server.url, retry=RetryPolicy(max_wait_ms=0)) as client:
                use(client)

        await asyncio.to_thread(in_thread)
        return server.asked


async def test_run_iterates_without_asyncio() -> None:
    """The facade's stream is a plain iterator over the same events."""

    def use(client: Client) -> None:
        with client.run("Why?") as stream:
            assert stream.admission is not None
            kinds = [type(event) for event in stream]
        assert kinds == [Started, Token, Token, End]
        assert (stream.text, stream.error) == ("It scatters.", None)
        assert stream.end is not None
        assert client.stream(stream.task_id).result().verified

    await with_client(script, use)


async def test_errors_cross_the_thread_and_the_thread_ends() -> None:
    """Exceptions are the asynchronous ones, and closing leaves no thread behind."""
    before = set(threading.enumerate())
    during: list[str] = []

    def use(client: Client) -> None:
        during.extend(thread.name for thread in set(threading.enumerate()) - before)
        with pytest.raises(Refused):
            client.submit("hi")

    await with_client(lambda _: json_reply(429, envelope("ADMISSION_REJECT")), use)
    assert "orchqueue-client" in during
    assert "orchqueue-client" not in {thread.name for thread in set(threading.enumerate()) - before}


async def test_tasks_are_yielded_across_pages() -> None:
    """The paged iterator works the same."""
    pages = iter([json_reply(200, {"tasks": [], "next_cursor": "n"}), json_reply(200, {"tasks": []})])
    asked = await with_client(lambda _: next(pages), lambda client: list(client.tasks()))
    assert [one.target for one in asked] == ["/v1/tasks?limit=50", "/v1/tasks?limit=50&cursor=n"]


@pytest.mark.parametrize(
    ("facade", "real", "left_out"),
    [(Client, AsyncClient, {"aclose", "tasks_page"}), (Stream, TaskStream, {"aclose", "reconnects", "is_verified"})],
)
def test_the_facade_has_every_call(facade: type, real: type, left_out: set[str]) -> None:
    """No call of the asynchronous client is missing, and parameters have the same names and defaults."""
    names = {name for name in dir(real) if not name.startswith("_")} - left_out
    assert names <= set(dir(facade))
    for name in names:
        ours, theirs = getattr(facade, name), getattr(real, name)
        if inspect.isfunction(theirs):
            assert [(p.name, p.default) for p in inspect.signature(ours).parameters.values()] == [
                (p.name, p.default) for p in inspect.signature(theirs).parameters.values()
            ]
