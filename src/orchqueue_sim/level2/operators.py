"""Simulated operators: they look at everything, drain, reload good and bad models, roll back and read the config again."""

from __future__ import annotations

import asyncio
from random import Random

from orchqueue_sim.level2.caller import Gone, ask, encode
from orchqueue_sim.level2.engines import BAD_MODEL
from orchqueue_sim.level2.visitors import Surroundings

LOOKS = (
    "/v1/pools",
    "/v1/replicasets",
    "/v1/capabilities",
    "/v1/models",
    "/metrics",
    "/healthz",
    "/readyz",
    "/v1/usage",
    "/v1/tasks",
)
ALLOWED = frozenset({200, 202, 400, 404, 409, 429, 503})


class Operators:
    """Everybody who steers the daemon of a run."""

    def __init__(self, around: Surroundings, rng: Random) -> None:
        self._around, self._rng = around, rng
        self._pools = [pool.pool_id for pool in around.plan.settings.pools]
        self._touched: dict[str, None] = {}

    async def work(self) -> None:
        """Do things until the trouble is over."""
        rng = self._rng
        for _ in range(rng.choice((4, 10, 20))):
            await asyncio.sleep(rng.randint(0, self._around.plan.span_ms) / 8_000)
            pool_id = rng.choice(self._pools)
            path = f"/v1/pools/{pool_id}"
            match rng.choice(("look", "look", "drain", "drain", "reload", "bad reload", "rollback", "config")):
                case "drain":
                    self._touched[pool_id] = None
                    await self._ask("POST", f"{path}/drain", {"deadline_ms": rng.choice((1, 200, 5_000))})
                case "reload":
                    wish = {"new_model_ref": rng.choice(("file:m0", "file:m1"))}
                    await self._ask("POST", f"{path}/reload", {**wish, "canary_percent": rng.choice((100, 10, 50))})
                case "bad reload":
                    await self._ask("POST", f"{path}/reload", {"new_model_ref": BAD_MODEL})
                case "rollback":
                    await self._ask("POST", f"{path}/rollback", None)
                case "config":
                    await self._ask("POST", f"/v1/config/{rng.choice(('reload', 'rollback'))}", None)
                case _:
                    await self._ask("GET", rng.choice((*LOOKS, f"{path}/health")), None)

    async def restore(self) -> None:
        """Bring back the pools that were drained."""
        for pool_id in self._touched:
            for _ in range(20):
                if await self._ask("POST", f"/v1/pools/{pool_id}/reload", {"new_model_ref": "file:m0"}) == 202:
                    break
                await asyncio.sleep(5.0)

    async def _ask(self, method: str, path: str, body: object) -> int:
        try:
            answer = await ask(self._around.network, encode(method, path, "operator", body))
        except Gone:
            return 0
        self._around.chronicle.struck("operators")
        self._around.chronicle.tell("operator", f"{method} {path} {body or ''} -> {answer.status}")
        if answer.status not in ALLOWED:
            self._around.inspector.fail(f"{method} {path} of an operator was answered {answer.status}: {answer.body!r}")
        return answer.status
