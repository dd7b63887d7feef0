"""Brings up llama.cpp replicas as processes of our own.

Req: ORCH-3002
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import secrets
import sys
from functools import partial
from pathlib import Path

import msgspec

from orchqueue import __version__
from orchqueue.adapters.engines.connection import Endpoint
from orchqueue.adapters.engines.llamacpp import LlamacppReplica
from orchqueue.adapters.engines.llamacpp_server import SETTINGS_VARIABLE
from orchqueue.adapters.engines.replica import ReadDevices
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.gguf import kv_bytes_per_token
from orchqueue.adapters.model_file import look_at_gguf
from orchqueue.adapters.models import ModelFile, ModelStore
from orchqueue.adapters.processes.adoption import AdoptedReplica, while_alive
from orchqueue.adapters.processes.crash import broken_device, classify, count_oom_kills, refused_model
from orchqueue.adapters.processes.devices import DeviceProbe
from orchqueue.adapters.processes.fit import check_fit, device_free_bytes, host_available_bytes
from orchqueue.adapters.processes.healthy import await_healthy
from orchqueue.adapters.processes.launched import ORPHAN_GRACE_S, Exit, LaunchedProcess, LaunchSpec, launch_process
from orchqueue.adapters.processes.leftovers import Leftovers
from orchqueue.adapters.processes.llamacpp_launch import (
    SpawnSettings,
    check_device,
    difference,
    fingerprint_of,
    read_args,
    server_env,
    server_settings,
)
from orchqueue.adapters.processes.polled import HEALTH_INTERVAL_S, PolledReplica
from orchqueue.core.events import CrashCause
from orchqueue.core.ids import ReplicaId
from orchqueue.ports.errors import PortError, ProcessError
from orchqueue.ports.process import OnExit

EXIT_TOLD_WITHIN_S = 1.0
CONNECT_TIMEOUT_S = 10.0
SERVER_ARGV = [sys.executable, "-P", "-m", "orchqueue.adapters.engines.llamacpp_server"]


class SpawnedReplica(PolledReplica):
    """A replica in a process of ours."""

    def __init__(
        self, process: LaunchedProcess, replica: LlamacppReplica, on_exit: OnExit, interval_s: float, oom_kills: int
    ) -> None:
        super().__init__(replica, on_exit, interval_s)
        self._process = process
        self._oom_kills = oom_kills
        process.exited.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End the process: TERM, 5 s, KILL."""
        await super().stop()
        await self._process.stop()

    async def _broken_device(self) -> tuple[CrashCause, str] | None:
        return broken_device(await asyncio.to_thread(self._process.tail))

    async def _let_exit_tell(self) -> None:
        await asyncio.wait({self._process.exited}, timeout=EXIT_TOLD_WITHIN_S)
        # Its callback has told by now: it was added first.

    def _ended(self, ended: asyncio.Future[Exit]) -> None:
        if not ended.cancelled():
            self.tell(*explain_exit(self._process, ended.result(), self._oom_kills))


def explain_exit(process: LaunchedProcess, ended: Exit, oom_kills_before: int) -> tuple[CrashCause, str]:
    """Classify the end of a process."""
    cause, detail = classify(ended.returncode, process.tail(), count_oom_kills() - oom_kills_before)
    return cause, f"{ended.detail}: {detail}" if ended.detail else detail


class _Plan(msgspec.Struct, frozen=True):
    """What one launch is about to start."""

    model: ModelFile
    gpus: list[int]
    kv_bytes_per_token: int
    fingerprint: str


class LlamacppSpawnHost:
    """Launches a pool's replicas on this machine. Implements `ports.process.ReplicaHost`.

    `leftovers`: engines of an earlier life, which may be adopted in place of a start.

    Req: ORCH-3001, ORCH-4141, ORCH-4140
    """

    def __init__(
        self, settings: SpawnSettings, directory: Path, models: ModelStore, *,
        health_interval_s: float = HEALTH_INTERVAL_S, orphan_grace_s: float = ORPHAN_GRACE_S, probe: DeviceProbe | None = None,
        leftovers: Leftovers | None = None,
    ) -> None:  # fmt: skip
        """Check the launch flags.

        Errors: ProcessError that names a flag that does not exist.
        """
        self._args = read_args(settings.args)
        self._settings = settings
        self._directory = directory
        self._models = models
        self._health_interval_s = health_interval_s
        self._orphan_grace_s = orphan_grace_s
        self._probe = probe or DeviceProbe()
        self._leftovers = leftovers or Leftovers(directory, lambda *_: None)

    async def verify_model(self, model_ref: str) -> str:
        """Compare the model's checksum, and look whether it is a model at all."""
        return (await self._verified(model_ref)).sha256

    async def _verified(self, model_ref: str) -> ModelFile:
        return await self._models.verify(model_ref, self._settings.expected_sha256(model_ref), look_at_gguf)

    async def launch(self, replica_id: ReplicaId, model_ref: str, on_exit: OnExit) -> SpawnedReplica:
        """Adopt what an earlier life left of a replica, or start it.

        1. The device mask must allow it, and the model's checksum must be right.
        2. An engine that was launched just so, and proves itself, is adopted; any other ends before a new one begins.
        3. A new one must fit. The launcher starts the server, which tells its port when the model is loaded.
        4. It must answer healthy, with our key, and have loaded the file whose checksum was right.
        """
        left = await self._leftovers.take(replica_id)
        try:
            plan = await self._plan(replica_id, model_ref)
        except BaseException as error:
            if left is not None:
                stopping = isinstance(error, asyncio.CancelledError)
                why = "its replica is stopped" if stopping else f"its replica cannot start: {error}"
                await asyncio.shield(self._leftovers.end(left, why))
            raise
        if left is not None and (adopted := await self._adopt(left, plan, on_exit)) is not None:
            return adopted
        await self._check_fit(plan)
        key = secrets.token_hex(16)
        server = server_settings(self._settings, str(plan.model.path), key, len(plan.gpus))
        env = server_env(self._settings, server, SETTINGS_VARIABLE, plan.gpus)
        spec = LaunchSpec(replica_id, SERVER_ARGV, env, plan.fingerprint, key, self._orphan_grace_s)
        oom_kills = count_oom_kills()
        process = await launch_process(self._directory, spec)
        try:
            replica = LlamacppReplica(*await self._reach(process, plan, oom_kills), read_devices=self._reader(plan))
            await await_healthy(replica, CONNECT_TIMEOUT_S)
            await self._models.check_unchanged(plan.model)
        except BaseException:
            await asyncio.shield(process.stop())
            raise
        return SpawnedReplica(process, replica, on_exit, self._health_interval_s, oom_kills)

    async def _adopt(self, process: LaunchedProcess, plan: _Plan, on_exit: OnExit) -> SpawnedReplica | None:
        """Adopt an engine, or end it and give None.

        Req: ORCH-4140, ORCH-4380, ORCH-4381
        """
        oom_kills = count_oom_kills()
        try:
            differs = difference(plan.fingerprint, process.place.fingerprint)
            why = f"it was launched with another {differs}"
            if not differs:
                replica = await while_alive(process, self._prove(process, plan, oom_kills))
                self._leftovers.adopted(process)
                return SpawnedReplica(process, replica, on_exit, self._health_interval_s, oom_kills)
        except PortError as error:
            why = str(error)
        except BaseException:
            await asyncio.shield(process.stop())
            raise
        await asyncio.shield(self._leftovers.end(process, why))
        return None

    async def _prove(self, process: LaunchedProcess, plan: _Plan, oom_kills: int) -> AdoptedReplica:
        replica = AdoptedReplica(*await self._reach(process, plan, oom_kills), read_devices=self._reader(plan))
        try:
            await await_healthy(replica, CONNECT_TIMEOUT_S)
            await replica.prove()
        except BaseException:
            await replica.close()
            raise
        return replica

    async def _plan(self, replica_id: ReplicaId, model_ref: str) -> _Plan:
        gpus = check_device(self._settings, self._settings.devices.get(replica_id, ()))
        model = await self._verified(model_ref)
        versions = {"orchqueue": __version__, "engine": _engine_version(), "model": model.sha256}
        server = server_settings(self._settings, "", "", len(gpus))
        fingerprint = fingerprint_of(self._settings, server, gpus, versions, SERVER_ARGV)
        return _Plan(model, gpus, kv_bytes_per_token(model.head.metadata), fingerprint)

    async def _reach(self, process: LaunchedProcess, plan: _Plan, oom_kills: int) -> tuple[Endpoint, Description]:
        """Say where the engine listens, as soon as it does, and what we know of it."""
        port = await self._await_port(process, plan.model.path, oom_kills)
        settings = self._settings
        description = Description(
            _engine_version(), plan.model.sha256, plan.kv_bytes_per_token, process.engine_pid, settings.strict, settings.ctx,
            workloads=(settings.workload,),
        )  # fmt: skip
        return Endpoint("127.0.0.1", port, api_key=process.place.secret), description

    def _reader(self, plan: _Plan) -> ReadDevices:
        return partial(self._probe.read, plan.gpus)

    async def _await_port(self, process: LaunchedProcess, path: Path, oom_kills: int) -> int:
        try:
            async with asyncio.timeout(self._args.start_timeout_s):
                port = await asyncio.shield(process.port)
        except TimeoutError:
            raise ProcessError(
                "never_ready",
                f"the engine was not ready within {self._args.start_timeout_s:g} s; see {process.log_path.name}",
            ) from None
        if port is None:
            cause, detail = explain_exit(process, await process.exited, oom_kills)
            if cause == "exit" and (said := refused_model(process.tail())):
                raise ProcessError("model_file", f"model file {path} is refused by the engine: {said}")
            raise ProcessError(cause, f"the engine ended while it started: {detail}")
        return port

    async def _check_fit(self, plan: _Plan) -> None:
        size_bytes, gpus = plan.model.size_bytes, plan.gpus
        kv_bytes = plan.kv_bytes_per_token * self._settings.ctx * self._settings.slots
        if gpus:
            shares = self._settings.tensor_split or tuple(1 / len(gpus) for _ in gpus)
            check_fit(size_bytes, kv_bytes, await device_free_bytes(gpus), shares, "device memory")
        else:
            check_fit(size_bytes, kv_bytes, [host_available_bytes()], [1.0], "host memory")


def _engine_version() -> str:
    """Name the engine's build: the wheel's server calls itself "unknown"."""
    try:
        return f"xllamacpp-{importlib.metadata.version('xllamacpp')}"
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
