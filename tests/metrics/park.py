"""Many simulated engines in one process, each at its own port: `python tests/metrics/park.py COUNT TOKENS_PER_S`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from orchqueue_sim.engine_faults import Faults
from orchqueue_sim.engine_http import SimSettings
from orchqueue_sim.engine_llamacpp import SimulatedLlamacpp


def version_of(index: int) -> str:
    """Name the version of the n-th engine: no two are alike."""
    return f"b{index + 1}-simulated"


class Park:
    """The process, seen from a test."""

    def __init__(self, count: int, tokens_per_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(count), str(tokens_per_s)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.urls = [self.process.stdout.readline().strip() for _ in range(count)]

    def set_faults(self, index: int, **faults: object) -> None:
        """Tell one engine what goes wrong from now on."""
        httpx.post(f"{self.urls[index]}/sim/faults", json=faults, timeout=20).raise_for_status()

    def kv_ratio(self, index: int) -> float:
        """Compute from the engine's own slots how full its memory is."""
        slots: list[dict[str, int]] = httpx.get(f"{self.urls[index]}/slots", timeout=20).json()
        return sum(slot.get("n_prompt_tokens", 0) for slot in slots) / sum(slot["n_ctx"] for slot in slots)


@contextmanager
def parked(count: int, tokens_per_s: float = 400.0) -> Iterator[Park]:
    """Run the engines for a while."""
    park = Park(count, tokens_per_s)
    try:
        yield park
    finally:
        park.process.kill()
        park.process.communicate()


async def serve(count: int, tokens_per_s: float) -> None:
    """Serve until killed, after telling every URL."""
    servers: list[asyncio.Server] = []
    for index in range(count):
        engine = SimulatedLlamacpp(SimSettings(tokens_per_s=tokens_per_s, version=version_of(index)), Faults())
        servers.append(await engine.serve("127.0.0.1", 0))
    for server in servers:
        sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
