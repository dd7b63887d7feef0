"""A stranger's first hour: the daemon as it starts without a configuration, with its real engine and model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from orchqueue.adapters.processes.identity import start_ticks_of
from orchqueue.client import NO_RETRY, AsyncClient
from orchqueue.client.errors import Refused, TaskFailed
from orchqueue.client.types import Completion, Token
from orchqueue.schema.data import Message, Sampling, TaskRequest
from tests.chaos.leaks import MARK, marked
from tests.daemon import Daemon, metric, running
from tests.waiting import until, until_async

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(180)]


@pytest.mark.req("ORCH-2001", "ORCH-2002", "ORCH-4034", "ORCH-4098", "ORCH-4218")
async def test_prompt_is_answered_by_a_real_model(embedded: Daemon) -> None:
    """A chat question is streamed token by token, ends with a receipt, and stands in the task afterwards."""
    async with AsyncClient(embedded.url) as client:
        await until_async(lambda: idle(client), deadline_s=60, what="what other tests left to end")
        before = metric(embedded.url, "tokens_out_total")
        question = Message(role="user", content="Name three colours.")
        # Each word is a token or more of its own; what the model says freely may be of tokens that show no text at all.
        words = Sampling(grammar='root ::= ("red " | "green " | "blue "){16}')
        request = TaskRequest(messages=[question], max_tokens=64, sampling=words)
        stream = await client.run(request)
        events = [event async for event in stream]
        result = await stream.result()
        info = await client.task(stream.task_id)
    assert sum(isinstance(event, Token) for event in events) >= 16
    assert info.state == "succeeded"
    assert info.text == result.text
    assert result.end.receipt.digest == hashlib.sha256(result.text.encode()).hexdigest()
    assert result.started is not None
    assert result.started.model_digest
    assert result.started.engine_version.startswith("xllamacpp")
    assert metric(embedded.url, "tokens_out_total") - before == result.end.tokens_out


@pytest.mark.req("ORCH-3045")
async def test_same_seed_gives_the_same_bytes_on_both_replicas(embedded: Daemon) -> None:
    """Many copies of one request, run on both replicas between others of mixed lengths, all give one text."""
    wanted = TaskRequest(prompt="Once upon a time", seed=1001, max_tokens=24)
    others = [TaskRequest(prompt="word " * n, seed=n, max_tokens=8) for n in range(1, 7)]
    # The first two find both replicas free and take one each, unless the first has ended when the second is posted.
    order = [wanted, wanted, *(r for pair in zip(others, [wanted] * 6, strict=True) for r in pair)]
    same: list[Completion] = []
    async with AsyncClient(embedded.url) as client:

        async def ran_on_both() -> bool:
            streams = [(r is wanted, await client.run(r)) for r in order]
            results = [(is_wanted, await s.result()) for is_wanted, s in streams]
            same.extend(r for is_wanted, r in results if is_wanted)
            return {r.started.replica_id for r in same if r.started} == {"smollm2-0", "smollm2-1"}

        await until_async(ran_on_both, what="both replicas to have run it")
    assert len({r.text for r in same}) == 1
    assert {r.started.determinism for r in same if r.started} == {"strict"}


@pytest.mark.req("ORCH-1101", "ORCH-3001", "ORCH-4132")
def test_health_shows_the_cpu_and_every_replica(embedded: Daemon) -> None:
    """Health says that the pool runs on the CPU because its configuration allows it, and shows both processes."""
    health = httpx.get(f"{embedded.url}/v1/pools/smollm2/health", timeout=10).json()
    assert health["live"]
    assert health["ready"]
    assert health["allow_cpu"]
    pids = [r["pid"] for r in health["replicas"]]
    assert len(set(pids)) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    assert len({r["model_digest"] for r in health["replicas"]}) == 1


@pytest.mark.req("ORCH-2001")
def test_plain_curl_works(embedded: Daemon) -> None:
    """What the README shows works with curl and no header at all: 202 for a post, a stream where one is asked for."""
    body = '{"prompt":"Why is the sky blue?","max_tokens":16,"sampling":{"ignore_eos":true}}'
    post = ["curl", "-s", "-d", body, f"{embedded.url}/v1/tasks"]
    admission = json.loads(subprocess.run(post, capture_output=True, check=True, timeout=60).stdout)
    follow = ["curl", "-sN", f"{embedded.url}/v1/tasks/{admission['task_id']}/stream"]
    text = subprocess.run(follow, capture_output=True, check=True, timeout=60).stdout.decode()
    assert text.count("event: end") == 1
    assert text.count("event: token") > 3
    again = subprocess.run(follow, capture_output=True, check=True, timeout=60).stdout.decode()
    assert again.count("event: token") == text.count("event: token")
    at_once = ["curl", "-sN", "-H", "Accept: text/event-stream", *post[2:]]
    assert b"event: end" in subprocess.run(at_once, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.req("ORCH-2003", "ORCH-3017", "ORCH-4111")
async def test_cancel_while_decoding_stops_the_stream_and_frees_the_slot(embedded: Daemon) -> None:
    """Cancel after the first token: the stream ends as canceled, nothing is appended, and the slot is free again."""
    async with AsyncClient(embedded.url) as client:
        # As long as ctx allows, so that it cannot have ended by itself before the cancel comes.
        stream = await client.run(
            TaskRequest(prompt="Count to a thousand:", max_tokens=1900, sampling=Sampling(ignore_eos=True))
        )
        async for event in stream:
            if type(event).__name__ == "TokenEvent":
                break
        await client.cancel(stream.task_id)
        told = (await client.task(stream.task_id)).text
        result = await stream.result()
        assert result.end.canceled
        assert result.text == told
        await client.cancel(stream.task_id)

        await until_async(lambda: idle(client), deadline_s=60, what="a free slot")
        assert (await client.task(stream.task_id)).text == told


@pytest.mark.req("ORCH-2004", "ORCH-3022", "ORCH-4248")
async def test_session_counts_turns_and_looking_creates_none(embedded: Daemon) -> None:
    """A session exists from its first accepted task, counts its turns, and can be deleted twice."""
    session = "6f1c2f5e-2b1e-4b7e-9d7c-0d8f5b3c1a2b"
    async with httpx.AsyncClient(base_url=embedded.url, timeout=60) as http:
        assert (await http.get(f"/v1/sessions/{session}")).status_code == 404
        for _ in range(2):
            body = {"prompt": "hi", "max_tokens": 2, "session_id": session}
            assert (await http.post("/v1/tasks", json=body)).status_code == 202
        assert (await http.get(f"/v1/sessions/{session}")).json()["turns"] == 2
        for _ in range(2):
            assert (await http.delete(f"/v1/sessions/{session}")).status_code == 204
        assert (await http.get(f"/v1/sessions/{session}")).status_code == 404


@pytest.mark.req("ORCH-4062", "ORCH-4063")
async def test_structured_output_and_stop_pass_through(embedded: Daemon) -> None:
    """json_schema yields JSON of that shape; a stop string ends the text before it."""
    # With a bound on the number all of it fits into max_tokens whatever is drawn: an open integer may go on for ever,
    # and the grammar allows some twenty blanks in each of six places.
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    async with httpx.AsyncClient(base_url=embedded.url, timeout=120) as http:

        async def run(body: dict[str, object]) -> dict[str, object]:
            posted = await http.post("/v1/tasks", json=body)
            assert posted.status_code == 202, posted.text
            url = posted.headers["location"]
            await http.get(url + "/stream")
            return dict((await http.get(url)).json())

        shaped = await run({"prompt": "A number as JSON:", "max_tokens": 192, "sampling": {"json_schema": schema}})
        assert 0 <= json.loads(str(shaped["text"]))["n"] <= 99
        # Whatever the model would rather say, it comes to the comma.
        counting: dict[str, object] = {"stop": [","], "grammar": 'root ::= "one, two, three"'}
        stopped = await run({"prompt": "Count:", "max_tokens": 40, "sampling": counting})
        assert (stopped["text"], stopped["finish_reason"]) == ("one", "stop")


@pytest.mark.req("ORCH-4056", "ORCH-4147", "ORCH-4148")
async def test_prompt_that_cannot_fit_is_refused_with_the_tokenizers_count(embedded: Daemon) -> None:
    """Too many bytes are counted by the engine: what fits is taken, what does not is refused with the exact room left."""
    async with httpx.AsyncClient(base_url=embedded.url, timeout=60) as http:

        async def counted() -> bool:
            """Have it counted; an engine that does not answer within half a second leaves the daemon to its estimate."""
            fits = await http.post("/v1/tasks", json={"prompt": "hello " * 600, "max_tokens": 1})
            assert fits.status_code == 202
            assert fits.json()["prompt_tokens_basis"] in {"tokenizer", "estimate"}
            return bool(fits.json()["prompt_tokens_basis"] == "tokenizer")

        await until_async(counted, what="a prompt counted by its engine")

        async def refused_by_count() -> bool:
            too_long = await http.post("/v1/tasks", json={"prompt": "hello " * 3000, "max_tokens": 1})
            assert too_long.status_code == 400
            faults = {fault["pointer"]: fault["message"] for fault in too_long.json()["faults"]}
            assert faults.keys() == {"/prompt", "/max_tokens"}
            return "the prompt has " in faults["/prompt"]

        await until_async(refused_by_count, what="a refusal with the engine's count")


@pytest.mark.timeout(300)
@pytest.mark.req("ORCH-2007", "ORCH-3004", "ORCH-3006", "ORCH-4053")
async def test_burst_of_500_ends_in_exactly_one_way_each(tmp_path: Path) -> None:
    """500 tasks against capacity 64: each is refused with a hint or admitted, all of them finish, the sums agree."""
    config = tmp_path / "burst.yaml"
    config.write_text(BURST)
    with running(tmp_path / "data", config) as daemon:
        daemon.wait_all_replicas()
        outcomes: Counter[str] = Counter()
        retries: Counter[str] = Counter()

        async def one(client: AsyncClient, number: int) -> None:
            request = TaskRequest(
                prompt=f"Say {number}", max_tokens=3, priority="batch" if number % 4 == 0 else "interactive"
            )
            for turn in range(40):
                try:
                    stream = await client.run(request, retry=NO_RETRY)
                except Refused as refusal:
                    (retries if turn else outcomes)["refused"] += 1
                    wait_ms = refusal.retry_after_ms or 0
                    outcomes["no hint"] += refusal.retry_after_ms is None
                    await pause(wait_ms)
                    continue
                if turn:
                    retries["admitted"] += 1
                else:
                    outcomes["admitted"] += 1
                try:
                    await stream.result()
                    outcomes["finished"] += 1
                except TaskFailed as failure:
                    outcomes[failure.envelope.code] += 1
                return
            outcomes["gave up"] += 1

        async with AsyncClient(daemon.url) as client:
            await asyncio.gather(*(one(client, n) for n in range(500)))
        assert outcomes["finished"] == 500, (outcomes, retries)
        assert outcomes["admitted"] + outcomes["refused"] == 500
        assert outcomes["refused"] > 100
        assert outcomes["no hint"] == 0
        # How many come back in vain is a matter of how steady the machine is: the forecast is tried where time is ours.
        assert retries["admitted"] == outcomes["refused"], (outcomes, retries)
        assert metric(daemon.url, "tasks_enqueued_total") == 500
        assert metric(daemon.url, "tasks_started_total") == 500
        assert metric(daemon.url, "tasks_rejected_total") == outcomes["refused"] + retries["refused"]
        assert metric(daemon.url, "queue_depth") == 0


BURST = """
pools:
  - id: smollm2
    engine: llamacpp
    model: bundled:smollm2-135m-instruct-q4_1
    allow_cpu: true
    replicas: 2
    ctx: 512
    queue: {capacity: 64}
    timeouts: {wall_ms: 300000, idle_ms: 60000}
    admission:
      priorities:
        - {name: interactive, queue_capacity: 64}
        - {name: batch, queue_capacity: 64}
"""


@pytest.mark.timeout(300)
@pytest.mark.req("ORCH-3038", "ORCH-4173")
async def test_killed_replica_takes_no_stream_down(tmp_path: Path) -> None:
    """Killing one engine under load: every task finishes, the one that ran there with a second attempt, and the replica comes back."""
    with running(tmp_path / "data") as daemon:
        daemon.wait_all_replicas()
        async with AsyncClient(daemon.url) as client:
            # The first is so long that it cannot have ended when its engine is killed.
            request = [
                TaskRequest(prompt=f"Story {n}:", max_tokens=48 if n else 300, sampling=Sampling(ignore_eos=True))
                for n in range(8)
            ]
            streams = [await client.run(r) for r in request]
            async for event in streams[0]:
                if type(event).__name__ == "TokenEvent":
                    break
            assert streams[0].started is not None
            hit = streams[0].started.replica_id
            before = await client.pool_health("smollm2")
            victim = next(r for r in before.replicas if r.replica_id == hit)
            assert isinstance(victim.pid, int)
            psutil.Process(victim.pid).kill()
            attempts = [(await stream.result()).end.receipt.attempts for stream in streams]
            assert attempts == [2, *[1] * 7]

            async def back() -> bool:
                health = await client.pool_health("smollm2")
                mine = next(r for r in health.replicas if r.replica_id == hit)
                return mine.state == "ready" and mine.pid != victim.pid and mine.restarts == 1

            await until_async(back, deadline_s=60)
        assert metric(daemon.url, "replica_restarts_total") == 1


@pytest.mark.req("ORCH-4011", "ORCH-4027", "ORCH-4180", "ORCH-4182")
async def test_kill_of_the_daemon_loses_no_accepted_task(tmp_path: Path) -> None:
    """After kill -9 of the daemon the next life runs every accepted task, in order, strict ones again, and leaves no engine."""
    first = Daemon(tmp_path / "data")
    try:
        first.wait_all_replicas()
        engines = first.engines()
        async with AsyncClient(first.url) as client:
            ids = [
                (await client.submit(TaskRequest(prompt=f"Tale {n}", max_tokens=24, on_disconnect="continue"))).task_id
                for n in range(6)
            ]
            stream = client.stream(ids[0])
            async for event in stream:
                if type(event).__name__ == "TokenEvent":
                    break
            seen, position = stream.text, stream.last_event_id
    finally:
        first.kill()
    with running(tmp_path / "data") as second:
        second.wait_ready()
        async with AsyncClient(second.url) as client:
            resumed = await client.stream(ids[0], last_event_id=position).result()
            rest = [await client.stream(task_id).result() for task_id in ids[1:]]
            whole = await client.task(ids[0])
        assert whole.text == seen + resumed.text
        assert all(r.end.finish_reason in ("stop", "length") for r in rest)
    until(
        lambda: not any(e.is_running() and start_ticks_of(e.pid) is not None for e in engines),
        deadline_s=60,
        what="no engine of the dead daemon left",
    )


@pytest.mark.req("ORCH-4210")
def test_demo_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """`make demo` streams an answer and leaves no process and no file."""
    command = [sys.executable, "examples/demo.py", "--prompt", "Say 'hi' & \"bye\" $HOME", "--max-tokens", "12"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), MARK: str(tmp_path)}
    done = subprocess.run(command, capture_output=True, timeout=150, check=False, env=environment)
    told = done.stderr.decode()
    assert done.returncode == 0, told
    shown = hashlib.sha256(done.stdout.removesuffix(b"\n")).hexdigest()
    assert f"sha256 {shown[:16]}… checked against the text" in told
    assert list(tmp_path.iterdir()) == []
    assert list(marked(tmp_path)) == []


@pytest.mark.req("ORCH-4026")
def test_second_daemon_on_the_same_data_is_refused(embedded: Daemon) -> None:
    """Two daemons never share a data directory; the second says who has it."""
    second = Daemon(embedded.data_dir)
    second.process.wait(60)
    assert second.stop() == 3
    assert str(embedded.process.pid) in "\n".join(second.log)


async def idle(client: AsyncClient) -> bool:
    """Tell whether nothing waits and every slot of both replicas is free."""
    waiting = [task async for task in client.tasks(state="queued")]
    health = await client.pool_health("smollm2")
    return not waiting and sum(replica.slots_free for replica in health.replicas) == 2


async def pause(milliseconds: int) -> None:
    """Let real time pass, because the server's promise is about real time."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(milliseconds / 1000, done.set)
    await done.wait()
