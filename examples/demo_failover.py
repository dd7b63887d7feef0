"""Watch an answer survive: kill the replica that writes it, then the daemon, and see one text come out, byte for byte.

This is what `make demo-failover` runs. The exit status is 0 only when the text equals that of an undisturbed run of the same
seed and the receipt counts three attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from time import monotonic

from orchqueue.adapters.processes.identity import lives, read_identity
from orchqueue.adapters.processes.leftovers import Leftovers
from orchqueue.client import AsyncClient, ReconnectPolicy, RetryPolicy, Sampling
from orchqueue.client.errors import OrchQueueError
from orchqueue.client.types import Completion, Message, TaskRequest, Token

READY_WITHIN_S = 120
ATTEMPTS = 3
WORTH_TELLING_S = 0.25
CONFIG = """
pools:
  - id: demo
    engine: llamacpp
    model: bundled:smollm2-135m-instruct-q4_1
    ctx: 2048
    allow_cpu: true
    replicas: 2
    slots: 1
    determinism: strict
    timeouts: {wall_ms: 300000, idle_ms: 30000, first_token_ms: 120000}
"""


class Stage:
    """The daemon and its two replicas, with what is needed to kill them."""

    def __init__(self, folder: Path) -> None:
        self._config = folder / "orchqueue.yaml"
        self._config.write_text(CONFIG)
        self._data = folder / "data"
        self._daemon: Process | None = None
        self._log: asyncio.Task[list[bytes]] | None = None
        self.url = ""

    async def start(self, port: str = "0") -> None:
        """Start a daemon, the first at a free port and the next ones where that was."""
        command = (sys.executable, "-m", "orchqueue.daemon.main", "serve", "--port", port)
        places = ("--config", str(self._config), "--data-dir", str(self._data))
        self._daemon = await asyncio.create_subprocess_exec(
            *command, *places, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        self._log = asyncio.create_task(_collect(self._daemon))
        self.url = await _address(self._daemon)

    async def kill_replica(self, replica_id: str) -> None:
        """Kill the engine of a replica the hard way."""
        for path in (self._data / "replicas").glob("*.json"):
            identity = read_identity(path)
            if identity is not None and identity.replica_id == replica_id and lives(identity.engine):
                os.kill(identity.engine.pid, signal.SIGKILL)
                note(f"kill -9 {identity.engine.pid}, the engine of {replica_id}")

    async def kill_daemon(self) -> None:
        """Kill the daemon the hard way and start the next one at the same port."""
        assert self._daemon is not None
        self._daemon.kill()
        await self._daemon.wait()
        note(f"kill -9 {self._daemon.pid}, the daemon; starting it again")
        await self.start(self.url.rpartition(":")[2])

    async def stop(self) -> list[bytes]:
        """End everything that is left of all daemons; the last words of the last one."""
        if self._daemon is not None and self._daemon.returncode is None:
            self._daemon.send_signal(signal.SIGTERM)
            await self._daemon.wait()
        leftovers = Leftovers(self._data / "replicas", lambda *_: None)
        await leftovers.begin(())
        await leftovers.close()
        return [] if self._log is None else await self._log


async def main(prompt: str, max_tokens: int, seed: int) -> int:
    """Run the whole demonstration."""
    with tempfile.TemporaryDirectory(prefix="orchqueue-failover-") as name:
        stage = Stage(Path(name))
        tell("starting the daemon with two replicas of a small real model on this CPU …")
        try:
            await stage.start()
            return await watch(stage, wish(prompt, max_tokens, seed))
        except OrchQueueError as error:
            tell(f"\nfailed: {error}")
            return 1
        except (TimeoutError, EOFError):
            tell("\na daemon did not come up; its last words:")
            tell(b"".join((await stage.stop())[-5:]).decode(errors="replace"))
            return 1
        finally:
            await stage.stop()
            tell("stopped; nothing is left running")


def wish(prompt: str, max_tokens: int, seed: int) -> TaskRequest:
    """Make the request, always the same but for its id; the answer is as long as it may be, so that there is time to die."""
    return TaskRequest(
        messages=[Message(role="user", content=prompt)],
        max_tokens=max_tokens,
        seed=seed,
        determinism="strict",
        sampling=Sampling(ignore_eos=True),
        on_disconnect="continue",
    )


async def watch(stage: Stage, request: TaskRequest) -> int:
    """Stream the answer through both deaths, then compare it with an answer that nothing disturbed."""
    patience = RetryPolicy(max_wait_ms=READY_WITHIN_S * 1000)
    reconnect = ReconnectPolicy(patience_ms=READY_WITHIN_S * 1000, first_backoff_ms=50)
    async with AsyncClient(stage.url, retry=patience, reconnect=reconnect) as client:
        await _both_ready(client)
        disturbed = await show(stage, client, request)
        tell("\nthe same again, undisturbed and unseen, to compare with …")
        undisturbed = await (await client.run(request)).result()
    receipt = disturbed.end.receipt
    tell(
        f"{disturbed.end.tokens_out} tokens, {receipt.attempts} attempts, seed {receipt.seed}, "
        f"{receipt.engine} {receipt.engine_version}\n"
        f"sha256 {receipt.digest}, checked against the text\nsha256 {undisturbed.end.receipt.digest}, undisturbed"
    )
    if disturbed.text != undisturbed.text:
        tell("NOT EQUAL: the disturbed answer is not the undisturbed one")
        return 1
    if receipt.attempts != ATTEMPTS:
        tell(f"equal, but after {receipt.attempts} attempts instead of {ATTEMPTS}: was each killed while it wrote?")
        return 1
    tell(f"equal, byte for byte: {len(disturbed.text.encode())} bytes")
    return 0


async def show(stage: Stage, client: AsyncClient, request: TaskRequest) -> Completion:
    """Print the answer as it comes; kill the replica early in it, the daemon soon after: most of the text is still to be written."""
    stream = await client.run(request)
    tell(f"task {stream.task_id} accepted; > {request.messages[0].content if request.messages else ''}")
    assert isinstance(request.max_tokens, int)
    # A token of this model has about five bytes.
    deaths = [request.max_tokens, request.max_tokens // 2]
    dying: asyncio.Task[None] | None = None
    last_at_s = monotonic()
    try:
        async for event in stream:
            if not isinstance(event, Token):
                continue
            if (pause_s := monotonic() - last_at_s) > WORTH_TELLING_S and dying is not None:
                note(f"went on after {pause_s:.1f} s")
            sys.stdout.write(event.t)
            sys.stdout.flush()
            if deaths and len(stream.text.encode()) >= deaths[-1]:
                deaths.pop()
                assert stream.started is not None
                kill = stage.kill_replica(stream.started.replica_id) if deaths else stage.kill_daemon()
                dying = asyncio.create_task(kill)
            last_at_s = monotonic()
        if dying is not None:
            await dying
    finally:
        if dying is not None:
            dying.cancel()
            await asyncio.wait([dying])
    sys.stdout.write("\n")
    sys.stdout.flush()
    return await stream.result()


async def _both_ready(client: AsyncClient) -> None:
    for _ in range(10 * READY_WITHIN_S):
        if all(replica.state == "ready" for replica in (await client.pool_health("demo")).replicas):
            return
        await asyncio.sleep(0.1)
    raise TimeoutError


async def _address(daemon: Process) -> str:
    assert daemon.stdout is not None
    async with asyncio.timeout(READY_WITHIN_S):
        async for line in daemon.stdout:
            for word in line.decode().split():
                if word.startswith("http://"):
                    return word
    raise EOFError


async def _collect(daemon: Process) -> list[bytes]:
    assert daemon.stderr is not None
    return [line async for line in daemon.stderr][-100:]


def note(text: str) -> None:
    """Say what was killed, where it happened in the text: dim on a terminal, a line of its own elsewhere."""
    with suppress(OSError):
        sys.stderr.write(f"\x1b[2m[{text}]\x1b[0m" if os.isatty(2) else f"[{text}]\n")
        sys.stderr.flush()


def tell(text: str) -> None:
    """Say what happens, apart from the answer itself."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="Why is the sky blue?")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1001)
    options = parser.parse_args()
    try:
        sys.exit(asyncio.run(main(options.prompt or "Why is the sky blue?", options.max_tokens, options.seed)))
    except KeyboardInterrupt:
        sys.exit(130)
