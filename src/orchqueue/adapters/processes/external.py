"""Connects to engines that run already, wherever they were started.

Req: ORCH-4219
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from orchqueue.adapters.engines.connection import parse_endpoint
from orchqueue.adapters.engines.registry import ENGINES
from orchqueue.adapters.engines.replica import ReadDevices
from orchqueue.adapters.engines.selftest import Description
from orchqueue.adapters.processes.devices import DeviceProbe
from orchqueue.adapters.processes.healthy import await_healthy
from orchqueue.adapters.processes.llamacpp_launch import cuda_indices
from orchqueue.adapters.processes.polled import HEALTH_INTERVAL_S, PolledReplica
from orchqueue.core.ids import ReplicaId
from orchqueue.ports.errors import ProcessError
from orchqueue.ports.process import OnExit

UNREACHABLE_S = 2.0
LOADING_TIMEOUT_S = 600.0


class ExternalHost:
    """Connects to servers that run already. Implements `ports.process.ReplicaHost`.

    `urls`: the base URL of each replica. `description`: what the operator says of each. `devices`: where the engines run, by the
    operator's word; they are looked at only for an engine on this machine.

    Req: ORCH-3038, ORCH-4219
    """

    def __init__(
        self, engine: str, urls: Mapping[ReplicaId, str], description: Description | None = None, *, allow_simulated: bool = False,
        health_interval_s: float = HEALTH_INTERVAL_S, api_key: str = "", devices: tuple[str, ...] = (), probe: DeviceProbe | None = None,
    ) -> None:  # fmt: skip
        self._engine = ENGINES[engine]
        self._description = description or Description()
        self._endpoints = {replica_id: parse_endpoint(url, api_key) for replica_id, url in urls.items()}
        self._gpus = cuda_indices(devices)
        self._probe = probe or DeviceProbe()
        self._allow_simulated = allow_simulated
        self._health_interval_s = health_interval_s

    async def verify_model(self, model_ref: str) -> str:
        """Give what the operator said: the file is on another machine.

        Errors: ProcessError for another model: only who runs the engines can load it.
        """
        if model_ref != self._description.model_ref:
            raise ProcessError(
                "never_ready",
                f"the engines run elsewhere and serve {self._description.model_ref}; load another model there",
            )
        return self._description.model_digest or ""

    async def launch(self, replica_id: ReplicaId, model_ref: str, on_exit: OnExit) -> PolledReplica:
        """Connect to a replica and see it healthy.

        One that loads is waited for; one that does not answer is told soon, so that its backoff and its reason show.
        """
        del model_ref
        replica = self._engine(
            self._endpoints[replica_id],
            self._description,
            allow_simulated=self._allow_simulated,
            read_devices=self.probe_of(replica_id),
        )
        await await_healthy(replica, LOADING_TIMEOUT_S, UNREACHABLE_S)
        return PolledReplica(replica, on_exit, self._health_interval_s)

    def probe_of(self, replica_id: ReplicaId) -> ReadDevices:
        """Give what reads a replica's devices; the driver here knows nothing of an engine on another machine."""
        gpus = self._gpus if _is_here(self._endpoints[replica_id].host) else []
        return partial(self._probe.read, gpus)


def _is_here(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
