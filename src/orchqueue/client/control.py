"""The control-plane and operational calls."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

import msgspec

from orchqueue.client.errors import ProtocolBroken
from orchqueue.client.transport import Transport
from orchqueue.schema.control import (
    Capabilities,
    ConfigReloaded,
    DrainRequest,
    Liveness,
    ModelInfo,
    ModelList,
    PoolHealth,
    PoolInfo,
    PoolList,
    PoolOperation,
    Readiness,
    ReloadRequest,
    ReplicaSet,
    ReplicaSetList,
)

T = TypeVar("T")


class ControlCalls:
    """Calls that look at pools and steer them; they need the `control` scope where keys are used.

    Req: ORCH-4283
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def pools(self) -> list[PoolInfo]:
        """List every pool in brief.

        Req: ORCH-2103
        """
        return (await self._get("/v1/pools", PoolList)).pools

    async def pool_health(self, pool_id: str) -> PoolHealth:
        """Return one pool in full, its replicas included.

        Req: ORCH-2103
        """
        return await self._get(f"{_pool_path(pool_id)}/health", PoolHealth)

    async def replica_sets(self) -> list[ReplicaSet]:
        """List the sets of replicas that give the same bytes for the same request.

        Req: ORCH-2104
        """
        return (await self._get("/v1/replicasets", ReplicaSetList)).replica_sets

    async def capabilities(self) -> Capabilities:
        """Return what this deployment can do.

        Req: ORCH-2060
        """
        return await self._get("/v1/capabilities", Capabilities)

    async def models(self) -> list[ModelInfo]:
        """List the models and where they are used."""
        return (await self._get("/v1/models", ModelList)).models

    async def drain(self, pool_id: str, deadline_ms: int = 30_000) -> PoolOperation:
        """Empty a pool; draining again keeps the shorter deadline.

        Req: ORCH-2101
        """
        return await self._post(f"{_pool_path(pool_id)}/drain", DrainRequest(deadline_ms=deadline_ms), PoolOperation)

    async def reload(self, pool_id: str, new_model_ref: str, canary_percent: int = 100) -> PoolOperation:
        """Let a pool serve another model; any failure leaves the old one serving.

        Req: ORCH-2102
        """
        wish = ReloadRequest(new_model_ref=new_model_ref, canary_percent=canary_percent)
        return await self._post(f"{_pool_path(pool_id)}/reload", wish, PoolOperation)

    async def rollback(self, pool_id: str) -> PoolOperation:
        """Return a pool to the model before its last reload.

        Req: ORCH-3034
        """
        return await self._post(f"{_pool_path(pool_id)}/rollback", None, PoolOperation)

    async def reload_config(self) -> ConfigReloaded:
        """Let the server read its configuration file again; with a fault in it nothing changes.

        Errors: InvalidRequest with every problem of the file.
        Req: ORCH-4205
        """
        return await self._post("/v1/config/reload", None, ConfigReloaded)

    async def rollback_config(self) -> ConfigReloaded:
        """Put the configuration before the last reload in force again; the file is left as it is.

        Errors: Conflict when there is nothing to take back.
        Req: ORCH-4207
        """
        return await self._post("/v1/config/rollback", None, ConfigReloaded)

    async def healthz(self) -> Liveness:
        """Ask whether the server lives."""
        return await self._get("/healthz", Liveness)

    async def readyz(self) -> Readiness:
        """Ask whether tasks are admitted.

        Errors: Unavailable with the reasons while they are not.
        """
        return await self._get("/readyz", Readiness)

    async def metrics(self) -> str:
        """Return the metrics in the Prometheus text format."""
        answer = await self._transport.call("GET", "/metrics")
        try:
            return answer.body.decode()
        except UnicodeDecodeError as error:
            raise ProtocolBroken(f"{answer.origin} is not text: {error}") from error

    async def _get(self, path: str, kind: type[T]) -> T:
        return (await self._transport.call("GET", path)).as_type(kind)

    async def _post(self, path: str, wish: msgspec.Struct | None, kind: type[T]) -> T:
        body = None if wish is None else msgspec.json.encode(wish)
        return (await self._transport.call("POST", path, body=body)).as_type(kind)


def _pool_path(pool_id: str) -> str:
    return f"/v1/pools/{quote(pool_id, safe='')}"
