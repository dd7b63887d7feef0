"""How long a reader waits when the replica or the daemon is killed, beside generating the answer again from its start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import msgspec

from benchmarks.figures import Report, command, median
from orchqueue.adapters.processes.identity import lives, read_identity
from orchqueue.client import AsyncClient, ReconnectPolicy, RetryPolicy, Sampling, TaskRequest
from orchqueue.client.types import Token

STORY = (
    "Kill the replica, then the daemon, in the middle of an answer of the embedded model; measure the reader's pause."
)
POOL = "smollm2"
READY_WITHIN_S = 120
PROMPT = "Tell the story of a lighthouse keeper who finds a letter in a bottle."


class Daemon:
    """One life of the daemon after another, all at one port and on one directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = self._start("0")
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.url = next(word for word in line.split() if word.startswith("http://"))

    def _start(self, port: str) -> subprocess.Popen[str]:
        self.started_s = perf_counter()
        entry = [sys.executable, "-m", "orchqueue.daemon.main", "serve", "--port", port]
        with (self._folder / "daemon.log").open("a") as log:
            return subprocess.Popen(
                [*entry, "--data-dir", str(self._folder / "data")], stdout=subprocess.PIPE, stderr=log, text=True
            )

    async def restart(self, _: str) -> None:
        """Kill it the hard way and start the next one."""
        self._process.kill()
        self._process.communicate()
        self._process = self._start(self.url.rpartition(":")[2])

    async def kill_replica(self, replica_id: str) -> None:
        """Kill a replica's engine the hard way."""
        for path in (self._folder / "data" / "replicas").glob("*.json"):
            identity = read_identity(path)
            if identity is not None and identity.replica_id == replica_id and lives(identity.engine):
                os.kill(identity.engine.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop, and wait."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)


class Reading(msgspec.Struct):
    """A text as it came. `steps`: the bytes that were there after each token, and when. Units: seconds of `perf_counter`."""

    begun_s: float
    steps: list[tuple[int, float]]
    text: str = ""
    attempts: int = 0

    def longest_gap(self) -> tuple[int, float, float]:
        """Find the longest pause between two tokens: bytes before it, its begin and its end."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        (at_bytes, begin_s), (_, end_s) = max(pairs, key=lambda pair: pair[1][1] - pair[0][1])
        return at_bytes, begin_s, end_s

    def seconds_to_pass(self, at_bytes: int) -> float:
        """Tell how long after the post there was more text than so many bytes."""
        return next(at_s for length, at_s in self.steps if length > at_bytes) - self.begun_s


async def read(
    client: AsyncClient,
    request: TaskRequest,
    kill_at_bytes: int = 0,
    kill: Callable[[str], Awaitable[None]] | None = None,
) -> Reading:
    """Post a task and read it; kill something when there are so many bytes."""
    reading = Reading(perf_counter(), [])
    length = 0
    async with await client.run(request) as stream:
        async for event in stream:
            if not isinstance(event, Token):
                continue
            length += len(event.t.encode())
            reading.steps.append((length, perf_counter()))
            if kill is not None and length >= kill_at_bytes:
                assert stream.started is not None
                await kill(stream.started.replica_id)
                kill = None
        result = await stream.result()
    reading.text, reading.attempts = result.text, result.end.receipt.attempts
    return reading


async def all_ready(client: AsyncClient) -> None:
    """Wait until every replica can take over."""
    for _ in range(READY_WITHIN_S * 20):
        replicas = (await client.pool_health(POOL)).replicas
        if all(replica.state == "ready" for replica in replicas):
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("the replicas did not become ready")


class Pauses(msgspec.Struct):
    """What one repetition found. Units: milliseconds; shares of generating again up to the same byte."""

    again_ms: float
    replica_ms: float
    replica_share: float
    restart_ms: float
    restart_share: float
    daemon_gone_ms: float


async def repeat(daemon: Daemon, max_tokens: int, kill_at_bytes: int) -> Pauses:
    """Read the same answer three times: undisturbed, with its replica killed, with the daemon killed and restarted."""
    request = TaskRequest(
        prompt=PROMPT,
        seed=1001,
        max_tokens=max_tokens,
        determinism="strict",
        sampling=Sampling(ignore_eos=True),
        on_disconnect="continue",
    )
    reconnect = ReconnectPolicy(first_backoff_ms=20, longest_backoff_ms=100)
    async with AsyncClient(daemon.url, retry=RetryPolicy(), reconnect=reconnect) as client:
        await all_ready(client)
        whole = await read(client, request)
        replica = await read(client, request, kill_at_bytes, daemon.kill_replica)
        await all_ready(client)
        restarted = await read(client, request, kill_at_bytes, daemon.restart)
    assert whole.text == replica.text == restarted.text, "the texts differ"
    assert (whole.attempts, replica.attempts, restarted.attempts) == (1, 2, 2), "nothing was killed in time"
    replica_bytes, replica_begin_s, replica_end_s = replica.longest_gap()
    restart_bytes, restart_begin_s, restart_end_s = restarted.longest_gap()
    replica_ms = (replica_end_s - replica_begin_s) * 1e3
    restart_ms = (restart_end_s - daemon.started_s) * 1e3
    return Pauses(
        again_ms=whole.seconds_to_pass(replica_bytes) * 1e3,
        replica_ms=replica_ms,
        replica_share=replica_ms / whole.seconds_to_pass(replica_bytes) / 1e3,
        restart_ms=restart_ms,
        restart_share=restart_ms / whole.seconds_to_pass(restart_bytes) / 1e3,
        daemon_gone_ms=(restart_end_s - restart_begin_s) * 1e3,
    )


def measure(quick: bool) -> Report:
    """Repeat on one daemon after another."""
    report = Report("failover", quick)
    # Much is left to say at the kill: a reader that was held up for a moment must not come too late with it.
    times, max_tokens, kill_at_bytes = (1, 100, 60) if quick else (7, 200, 500)
    with tempfile.TemporaryDirectory() as name:
        daemon = Daemon(Path(name))
        try:
            found = [asyncio.run(repeat(daemon, max_tokens, kill_at_bytes)) for _ in range(times)]
        finally:
            daemon.stop()
    again, note = median([one.again_ms for one in found]), f"up to byte {kill_at_bytes}, where each was killed"
    report.add("generated again from the start", again, "ms", note)
    report.add("replica killed: reader's pause", median([one.replica_ms for one in found]), "ms")
    report.add("replica killed: pause, generated again = 1", median([one.replica_share for one in found]), "times")
    report.add("daemon killed: reader's pause", median([one.daemon_gone_ms for one in found]), "ms")
    report.add("daemon killed: its start to the next token", median([one.restart_ms for one in found]), "ms")
    report.add(
        "daemon killed: start to token, generated again = 1", median([one.restart_share for one in found]), "times"
    )
    report.detail["replica_ms"] = [round(one.replica_ms, 1) for one in found]
    report.detail["restart_ms"] = [round(one.restart_ms, 1) for one in found]
    report.detail["cores"] = os.cpu_count() or 0
    return report


if __name__ == "__main__":
    command("failover", STORY, measure)
