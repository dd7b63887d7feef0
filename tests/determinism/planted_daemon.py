"""`orchestratord` that calls every pool strict, whatever its slots: the rule, the self-test's verdict and a flag are gone.

Req: ORCH-4404
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.adapters.processes import host
from orchqueue.config import settings
from orchqueue.config.types import Pool
from orchqueue.core.events import ReplicaFacts

SERVER = Path(__file__).with_name("planted_server.py")


def call_every_pool_strict() -> None:
    """Let the configuration promise it and each replica have proven it, on a server whose slots share their memory."""
    self_test = EngineReplica.self_test

    def always(pool: Pool) -> bool:
        return bool(pool.slots)

    async def proven(self: EngineReplica) -> ReplicaFacts:
        return msgspec.structs.replace(await self_test(self), strict_proven=True, selftest_note="", known_answer="x")

    settings.is_strict = always
    EngineReplica.self_test = proven  # type: ignore[method-assign]
    host.SERVER_ARGV[:] = [sys.executable, "-P", str(SERVER)]


if __name__ == "__main__":
    call_every_pool_strict()
    from orchqueue.daemon.main import main

    sys.exit(main())
