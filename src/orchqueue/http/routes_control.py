"""Pools, replica sets, models and the configuration: see and steer.

Req: ORCH-2060, ORCH-2101, ORCH-2102, ORCH-2103, ORCH-2104, ORCH-3034
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET

from orchqueue import __version__
from orchqueue.core.effects import Done
from orchqueue.core.ids import PoolId
from orchqueue.core.outcome import Refusal
from orchqueue.core.snapshots import PoolPicture
from orchqueue.http import views_control as views
from orchqueue.http.gateway import Gateway
from orchqueue.http.limits import EdgeLimits
from orchqueue.http.messages import Request, Response
from orchqueue.http.problems import not_found, problem_of
from orchqueue.http.request import read_object
from orchqueue.http.views import encode
from orchqueue.http.views_models import models, told_while_verified
from orchqueue.ports.models import ModelCatalog
from orchqueue.schema import control

DEFAULT_DRAIN_MS = control.DrainRequest().deadline_ms
WHOLE_PERCENT = 100


class ControlRoutes:
    """Handlers of the control plane."""

    def __init__(self, gateway: Gateway, limits: EdgeLimits, catalog: ModelCatalog) -> None:
        self._gateway = gateway
        self._limits = limits
        self._catalog = catalog

    async def pools(self, _request: Request) -> Response:
        """List all pools."""
        return Response(200, encode(control.PoolList(pools=[views.pool_info(pool) for pool in self._gateway.pools()])))

    async def pool_health(self, request: Request) -> Response:
        """Tell of one pool in full."""
        return Response(200, encode(views.pool_health(told_while_verified(self._pool(request), self._catalog))))

    async def replica_sets(self, _request: Request) -> Response:
        """List replica sets with their load."""
        return Response(200, encode(views.replica_sets(self._gateway.pools())))

    async def models(self, _request: Request) -> Response:
        """List models and where they are used."""
        return Response(200, encode(models(self._gateway.pools(), self._catalog)))

    async def capabilities(self, _request: Request) -> Response:
        """Tell what this deployment can do."""
        answer = control.Capabilities(
            api_version="v1",
            version=__version__,
            limits=control.DaemonLimits(
                body_bytes_max=self._limits.body_bytes,
                header_bytes_max=self._limits.header_bytes,
                readers_per_task_max=self._gateway.streams.readers_per_task,
            ),
            pools=[views.pool_capabilities(pool) for pool in self._gateway.pools()],
        )
        return Response(200, encode(answer))

    async def drain(self, request: Request) -> Response:
        """Begin to empty a pool."""
        body = await read_object(request, self._limits.body_bytes, "DrainRequest", optional=True)
        pool_id = self._pool(request).pool_id
        wanted_ms = body.get("deadline_ms", DEFAULT_DRAIN_MS)
        assert isinstance(wanted_ms, int), "the contract has checked the deadline"
        done = _done(await self._gateway.drain(PoolId(pool_id), wanted_ms))
        return _begun(pool_id, "drain", done, deadline_ms=wanted_ms)

    async def reload(self, request: Request) -> Response:
        """Begin to replace a pool's model, or to try another.

        Req: ORCH-4130, ORCH-4131
        """
        body = await read_object(request, self._limits.body_bytes, "ReloadRequest")
        pool_id = self._pool(request).pool_id
        model_ref, percent = str(body["new_model_ref"]), body.get("canary_percent", WHOLE_PERCENT)
        assert isinstance(percent, int), "the contract has checked the share"
        done = _done(await self._gateway.reload(PoolId(pool_id), model_ref, percent))
        return _begun(pool_id, "reload", done, model_ref=model_ref, percent=percent)

    async def rollback(self, request: Request) -> Response:
        """Begin to bring a pool's previous model back."""
        pool_id = self._pool(request).pool_id
        return _begun(pool_id, "rollback", _done(await self._gateway.rollback(PoolId(pool_id))))

    async def reload_config(self, _request: Request) -> Response:
        """Take the configuration file over again, as a whole or not at all."""
        return _changed(_done(await self._gateway.reload_config()))

    async def rollback_config(self, _request: Request) -> Response:
        """Take the last reload of the configuration back.

        Req: ORCH-4207
        """
        return _changed(_done(await self._gateway.rollback_config()))

    def _pool(self, request: Request) -> PoolPicture:
        wanted = request.param("/path/pool_id")
        for pool in self._gateway.pools():
            if pool.pool_id == wanted:
                return pool
        raise not_found("/path/pool_id", f"no pool {wanted} is configured")


def _done(answer: Done | Refusal) -> Done:
    if isinstance(answer, Refusal):
        raise problem_of(answer)
    return answer


def _changed(done: Done) -> Response:
    applied, waiting = (str(done.detail.get(name, "")).split("\n") for name in ("applied", "needs_restart"))
    answer = control.ConfigReloaded(applied=list(filter(None, applied)), needs_restart=list(filter(None, waiting)))
    return Response(200, encode(answer))


def _begun(
    pool_id: str,
    operation: Literal["drain", "reload", "rollback"],
    done: Done,
    *,
    deadline_ms: int | None = None,
    model_ref: str | None = None,
    percent: int = WHOLE_PERCENT,
) -> Response:
    """Tell what was begun: what the core says is in effect, else what was asked for."""
    deadline = done.detail.get("deadline_ms", deadline_ms)
    model = done.detail.get("model_ref", model_ref)
    answer = control.PoolOperation(
        pool_id=pool_id,
        operation=operation,
        links=control.PoolLinks(health=f"/v1/pools/{pool_id}/health"),
        deadline_ms=deadline if isinstance(deadline, int) else UNSET,
        model=model if isinstance(model, str) else UNSET,
        canary_percent=int(done.detail.get("canary_percent", percent)) if operation == "reload" else UNSET,
    )
    return Response(202, encode(answer))
