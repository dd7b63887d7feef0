"""What the client does with the pact it does with the stub."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest

from orchqueue.client import NO_RETRY, AsyncClient, TaskRequest
from orchqueue.client.errors import Forbidden, StreamMismatch, Unauthorized
from orchqueue.client.types import End, Started, Token
from tests.contract.consumer.interactions import INTERACTIONS
from tests.contract.consumer.recording import Interaction, play
from tests.contract.consumer.shapes import SESSION_ID, TASK_ID, WHOLE
from tests.contract.stub.stub_process import StubProcess

pytestmark = pytest.mark.req("ORCH-4041")


def base_url(stub: StubProcess, description: str) -> str:
    """Choose one interaction by its description."""
    return f"{stub.url}/~/" + re.sub("[^a-z0-9]+", "-", description.lower()).strip("-")


@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda one: one.description)
async def test_the_client_gets_along_with_the_stub(stub: StubProcess, interaction: Interaction) -> None:
    """Every interaction, played against the stub, is understood as it is when the pact is recorded."""
    await play(base_url(stub, interaction.description), interaction)


def test_the_list_shows_every_interaction_with_its_address(stub: StubProcess) -> None:
    """`/~` lists them all; the address below it shows one in full."""
    listed = stub.http.get("/~").json()["interactions"]
    assert {one["description"] for one in listed} == {one.description for one in INTERACTIONS}
    [waiting] = [one for one in listed if one["description"] == "the cancel of a waiting task"]
    assert (waiting["request"], waiting["status"]) == (f"POST /v1/tasks/{TASK_ID}/cancel", 204)
    assert waiting["states"] == [{"name": "a task that waits", "params": {"task_id": TASK_ID}}]
    one = stub.http.get(waiting["base_path"]).json()
    assert (one["expects"]["method"], one["answers"]["status"]) == ("POST", 204)


async def test_a_task_from_post_to_receipt_without_choosing(stub: StubProcess) -> None:
    """Any prompt under any id is accepted, and the answer leads on to a stream that a client verifies."""
    async with AsyncClient(stub.url) as client:
        async with await client.run("Why do cats purr?") as stream:
            kinds = [type(event) for event in [event async for event in stream]]
        assert (stream.text, stream.is_verified) == (WHOLE, True)
        assert kinds == [Started, Token, Token, Token, End]
        async with await client.run_at_once("Why do cats purr?") as at_once:
            assert (await at_once.result()).text == WHOLE
        assert (await client.task(TASK_ID)).state == "succeeded"
        await client.cancel(TASK_ID)
        assert (await client.session(SESSION_ID)).turns == 3
        await client.delete_session(SESSION_ID)
        assert [pool.id for pool in await client.pools()] == ["default"]


async def _resumed_elsewhere(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(StreamMismatch):
            await client.stream(TASK_ID, "7:00000000").result()


async def _resumed_at_the_end(url: str) -> None:
    async with AsyncClient(url) as client:
        assert [event async for event in client.stream(TASK_ID, "28:462bbab7:end")] == []


async def _unknown_key(url: str) -> None:
    async with AsyncClient(url, "unknown-key", retry=NO_RETRY) as client:
        with pytest.raises(Unauthorized):
            await client.submit(TaskRequest(prompt="hi"))


async def _wrong_scope(url: str) -> None:
    async with AsyncClient(url, "pact-tasks-key", retry=NO_RETRY) as client:
        with pytest.raises(Forbidden):
            await client.drain("default", 5000)


@pytest.mark.parametrize("meet", [_resumed_elsewhere, _resumed_at_the_end, _unknown_key, _wrong_scope])
async def test_what_a_request_says_of_itself_chooses(stub: StubProcess, meet: Callable[[str], Awaitable[None]]) -> None:
    """A position or a key that an interaction names counts more than the general case, also where it ends in an error."""
    await meet(stub.url)


@pytest.mark.parametrize("path", ["/readyz", "/nowhere", "/~", "/~/nothing", f"/v1/tasks/{TASK_ID}/stream"])
def test_every_answer_carries_the_correlation_id(stub: StubProcess, path: str) -> None:
    """It is the caller's where that is well formed, else a new one each time; error bodies carry the same."""
    mine = stub.http.get(path, headers={"X-Correlation-Id": "my-own:1", "Accept": "text/event-stream"})
    assert mine.headers["x-correlation-id"] == "my-own:1"
    if mine.status_code == 404:
        assert mine.json()["correlation_id"] == "my-own:1"
    new = {stub.http.get(path, headers={"X-Correlation-Id": "no good"}).headers["x-correlation-id"] for _ in "ab"}
    assert len(new) == 2
    assert "no good" not in new
