"""The llama.cpp server with one memory for all slots: what a task says depends on what is decoded beside it.

Req: ORCH-4404
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from orchqueue.adapters.engines import llamacpp_server
from orchqueue.adapters.engines.llamacpp_server import ServerSettings


def share_the_memory() -> None:
    """Switch on what the adapter switches off."""
    plain: Any = llamacpp_server._params

    def shared(xllamacpp: ModuleType, settings: ServerSettings) -> object:
        params = plain(xllamacpp, settings)
        params.kv_unified = True
        return params

    llamacpp_server._params = shared


if __name__ == "__main__":
    share_the_memory()
    sys.exit(llamacpp_server.main())
