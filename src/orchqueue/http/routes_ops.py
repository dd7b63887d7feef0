"""What probes and scrapers ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from orchqueue.core.snapshots import PoolPicture
from orchqueue.http.gateway import Gateway
from orchqueue.http.messages import Request, Response
from orchqueue.http.problems import Problem
from orchqueue.http.views import encode
from orchqueue.schema import control

RenderMetrics = Callable[[Sequence[PoolPicture]], bytes]
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class OpsRoutes:
    """Handlers of `/metrics`, `/healthz` and `/readyz`."""

    def __init__(self, gateway: Gateway, render_metrics: RenderMetrics) -> None:
        self._gateway = gateway
        self._render_metrics = render_metrics

    async def metrics(self, _request: Request) -> Response:
        """Write all metrics; a thread does it from pictures taken here, so that no stream waits.

        Req: ORCH-4024
        """
        return Response(
            200, await asyncio.to_thread(self._render_metrics, self._gateway.pools()), content_type=METRICS_TYPE
        )

    async def alive(self, _request: Request) -> Response:
        """Tell that the loop turns.

        Req: ORCH-4025
        """
        return Response(200, encode(control.Liveness(status="ok")))

    async def ready(self, _request: Request) -> Response:
        """Tell whether a task would be taken, and if not, why.

        Req: ORCH-4133
        """
        reasons = list(self._gateway.readiness())
        pools = self._gateway.pools()
        ready = sum(pool.ready for pool in pools)
        if reasons or not ready:
            text = "; ".join(reasons) or "no pool is ready"
            raise Problem(503, f"not ready: {text}", code="POOL_UNREADY", retriable=True)
        return Response(200, encode(control.Readiness(status="ready", pools_ready=ready, pools_total=len(pools))))
