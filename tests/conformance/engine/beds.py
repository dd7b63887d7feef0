"""Where the suite runs: engines in processes of their own, simulated or real.

Real engines that the project does not install for everyone run in a stage of their own, which names them in `ORCHQ_REAL_ENGINES`.

Req: ORCH-4212
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from orchqueue.adapters.engines.connection import Answer, parse_endpoint, request
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.models import ModelStore
from orchqueue.adapters.processes.host import LlamacppSpawnHost
from orchqueue.adapters.processes.llamacpp_launch import SpawnSettings
from orchqueue.core.ids import ReplicaId
from orchqueue.core.request import Workload
from tests.real_vllm import CTX, pooling_server, server
from tools.triton_repository import BLS
from tools.triton_serve import StackSettings, running

MODEL = "bundled:smollm2-135m-instruct-q4_1"
MODEL_REF = "repo:test/sim"
Kind = Literal["simulated", "real"]
WORKLOADS: tuple[Workload, ...] = ("completion", "embedding", "rerank")


@dataclass(frozen=True)
class Bed:
    """One engine to run the suite on. `everywhere`: it runs in the gate, without a stage of its own."""

    engine: str
    kind: Kind
    open: Callable[[], AbstractAsyncContextManager[EngineReplica]]
    everywhere: bool = True
    workload: Workload = "completion"

    @property
    def name(self) -> str:
        """Name it in a test's id."""
        return f"{self.engine}-{self.kind}" + ("" if self.workload == "completion" else f"-{self.workload}")


class SimulatedEngine:
    """A simulated server's process."""

    def __init__(self, engine: str, process: asyncio.subprocess.Process, url: str) -> None:
        self.engine = engine
        self.process = process
        self.url = url

    def replica(self, api_key: str = "", **described: object) -> EngineReplica:
        """Connect; `described`: fields of its description."""
        description = msgspec.convert({"model_ref": MODEL_REF, **described}, Description)
        return ENGINES[self.engine](parse_endpoint(self.url, api_key), description, allow_simulated=True)

    async def set_faults(self, **faults: object) -> None:
        """Replace what goes wrong."""
        answer: Answer = await request(parse_endpoint(self.url), "POST", "/sim/faults", msgspec.json.encode(faults))
        assert answer.status == 200, answer.body

    async def end(self) -> None:
        """Kill it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def start_simulated(engine: str, *flags: str) -> SimulatedEngine:
    """Start a simulated server and wait until it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchqueue_sim.main", "engine", engine, *flags, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("listening on "), line
    return SimulatedEngine(engine, process, line.removeprefix("listening on ").strip())


def simulated_bed(engine: str, workload: Workload) -> Bed:
    """Make the bed of a simulated engine."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[EngineReplica]:
        running = await start_simulated(engine, "--tokens-per-s", "150")
        try:
            yield running.replica(workloads=(workload,))
        finally:
            await running.end()

    return Bed(engine, "simulated", connect, workload=workload)


@asynccontextmanager
async def _real_llamacpp(workload: Workload) -> AsyncIterator[EngineReplica]:
    with tempfile.TemporaryDirectory() as directory:
        settings = SpawnSettings("pool", 2048, allow_cpu=True, replicas=2, workload=workload)
        host = LlamacppSpawnHost(settings, Path(directory), ModelStore(), orphan_grace_s=1.0)
        running = await host.launch(ReplicaId("pool-0"), MODEL, lambda *_: None)
        try:
            yield running.replica
        finally:
            await running.stop()


@asynccontextmanager
async def _real_vllm(workload: Workload) -> AsyncIterator[EngineReplica]:
    running = server(0) if workload == "completion" else pooling_server()
    running.wait_ready()
    described = Description(ctx=CTX, model_ref=MODEL_REF, workloads=(workload,))
    replica = ENGINES["vllm"](parse_endpoint(running.url), described)
    try:
        yield replica
    finally:
        await replica.close()


@asynccontextmanager
async def _real_triton() -> AsyncIterator[EngineReplica]:
    with tempfile.TemporaryDirectory() as directory, running(StackSettings(), Path(directory)) as stack:
        replica = ENGINES["triton"](parse_endpoint(stack.model_url(BLS)), Description(model_ref=MODEL_REF))
        try:
            yield replica
        finally:
            await replica.close()


BEDS: tuple[Bed, ...] = (
    *(
        simulated_bed(engine, workload)
        for engine, kind in ENGINES.items()
        for workload in WORKLOADS
        if workload == "completion" or workload in kind.offers
    ),
    Bed("llamacpp", "real", partial(_real_llamacpp, "completion")),
    Bed("llamacpp", "real", partial(_real_llamacpp, "embedding"), workload="embedding"),
    *(
        Bed("vllm", "real", partial(_real_vllm, workload), everywhere=False, workload=workload)
        for workload in WORKLOADS
    ),
    Bed("triton", "real", _real_triton, everywhere=False),
)


def chosen_beds() -> list[Bed]:
    """List the beds of this run: those of the gate, or the real engines that a stage names."""
    named = os.environ.get("ORCHQ_REAL_ENGINES", "").split()
    if named:
        return [bed for bed in BEDS if bed.kind == "real" and bed.engine in named]
    return [bed for bed in BEDS if bed.everywhere]
