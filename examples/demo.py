"""Start a daemon with the embedded model, ask it one question over the public API, stream the answer, stop everything.

This is what `make demo` runs, and how to use the client library from a program of your own.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process

from orchqueue.client import AsyncClient, RetryPolicy
from orchqueue.client.errors import OrchQueueError
from orchqueue.schema.data import Message, StartedEvent, TaskRequest, TokenEvent

READY_WITHIN_S = 120


async def main(prompt: str, max_tokens: int) -> int:
    """Run the whole demonstration; the exit status is 0 when the answer came through."""
    with tempfile.TemporaryDirectory(prefix="orchqueue-demo-") as data_dir:
        tell("starting the daemon with two replicas of a small real model on this CPU …")
        command = (sys.executable, "-m", "orchqueue.daemon.main", "serve", "--port", "0", "--data-dir", data_dir)
        daemon = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, start_new_session=True)
        log = asyncio.create_task(collect(daemon))
        try:
            return await ask(await address(daemon), prompt, max_tokens)
        except OrchQueueError as error:
            tell(f"failed: {error}")
            return 1
        except (TimeoutError, EOFError):
            tell("the daemon did not come up; its last words:")
            tell(b"".join((await stop(daemon, log))[-5:]).decode(errors="replace"))
            return 1
        finally:
            await stop(daemon, log)
            tell("stopped; nothing is left running")


async def ask(url: str, prompt: str, max_tokens: int) -> int:
    """Post one task and print its tokens as they come."""
    request = TaskRequest(messages=[Message(role="user", content=prompt)], max_tokens=max_tokens)
    async with AsyncClient(url, retry=RetryPolicy(max_wait_ms=READY_WITHIN_S * 1000)) as client:
        stream = await client.run(request)
        tell(f"task {stream.task_id} accepted")
        tell(f"> {prompt}")
        async for event in stream:
            if isinstance(event, StartedEvent):
                tell(
                    f"started on {event.replica_id}, engine {event.engine_version}, {event.determinism}, seed {event.seed}"
                )
            if isinstance(event, TokenEvent):
                sys.stdout.write(event.t)
                sys.stdout.flush()
        sys.stdout.write("\n")
        end = (await stream.result()).end
        tell(
            f"{end.tokens_out} tokens in {end.decode_ms} ms; sha256 {end.receipt.digest[:16]}… checked against the text"
        )
        return 0


async def address(daemon: Process) -> str:
    """Read from the daemon's first words where it serves."""
    assert daemon.stdout is not None
    async with asyncio.timeout(READY_WITHIN_S):
        async for line in daemon.stdout:
            for word in line.decode().split():
                if word.startswith("http://"):
                    return word
    raise EOFError


async def collect(daemon: Process) -> list[bytes]:
    """Keep the daemon's log out of the way, and at hand."""
    assert daemon.stderr is not None
    return [line async for line in daemon.stderr][-100:]


async def stop(daemon: Process, log: asyncio.Task[list[bytes]]) -> list[bytes]:
    """End the daemon and wait until it is gone."""
    if daemon.returncode is None:
        daemon.send_signal(signal.SIGTERM)
        await daemon.wait()
    return await log


def tell(text: str) -> None:
    """Say what happens, apart from the answer itself."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="Why is the sky blue?")
    parser.add_argument("--max-tokens", type=int, default=96)
    options = parser.parse_args()
    try:
        sys.exit(asyncio.run(main(options.prompt or "Why is the sky blue?", options.max_tokens)))
    except KeyboardInterrupt:
        sys.exit(130)
