"""Whether a replica answers, asked once or until it does."""

from __future__ import annotations

import asyncio

from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.ports.errors import EngineError, ProcessError

READY_POLL_S = 0.1
LOADING = "it is loading"


async def await_healthy(replica: EngineReplica, timeout_s: float, unreachable_s: float | None = None) -> None:
    """Return when the replica answers healthy.

    `unreachable_s`: how long it may fail to answer at all; as long as it may take to load where not given.

    Errors: ProcessError with the last problem.
    """
    loop = asyncio.get_running_loop()
    began_s = answered_s = loop.time()
    patience_s = timeout_s if unreachable_s is None else unreachable_s
    while True:
        try:
            if await replica.health():
                return
            answered_s = loop.time()
            problem, since_s, limit_s = LOADING, began_s, timeout_s
        except EngineError as error:
            problem, since_s, limit_s = str(error), answered_s, patience_s
        if loop.time() - since_s >= limit_s:
            text = f"{replica.endpoint.url} was not healthy within {limit_s:g} s: {problem}"
            raise ProcessError("never_ready", text)
        await asyncio.sleep(READY_POLL_S)


async def unhealthy(replica: EngineReplica) -> str:
    """Ask a replica how it is; empty when it is well."""
    try:
        return "" if await replica.health() else LOADING
    except EngineError as error:
        return str(error)
