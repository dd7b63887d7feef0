"""The control-plane and operational calls."""

from __future__ import annotations

from typing import TypeVar

from orchqueue.client.transport import Transport

T = TypeVar("T")


class ControlCalls:
    """Calls that look at pools and steer them; they need the `control` scope where keys are used."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _get(self, path: str, kind: type[T]) -> T:
        return (await self._transport.call("GET", path)).as_type(kind)
