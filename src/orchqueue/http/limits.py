"""What one client may cost the edge.

Req: ORCH-4022, ORCH-4023
"""

from __future__ import annotations

import msgspec


class EdgeLimits(msgspec.Struct, frozen=True):
    """Bounds that hold before any handler runs.

    `connections` counts open sockets; a few more are taken in to be told so.

    Units: `header_bytes` covers request line and headers; `body_timeout_ms` runs from the end of the headers.
    Req: ORCH-4107
    """

    header_bytes: int = 32 * 1024
    body_bytes: int = 8 * 1024 * 1024
    header_timeout_ms: int = 10_000
    body_timeout_ms: int = 60_000
    idle_timeout_ms: int = 75_000
    connections: int = 4_096
    send_buffer_bytes: int = 64 * 1024
