"""Replica processes as a port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchqueue.core.events import CrashCause
from orchqueue.core.ids import ReplicaId
from orchqueue.ports.engine import Replica

OnExit = Callable[[CrashCause, str], None]


class RunningReplica(Protocol):
    """A launched or external replica that answers on its endpoint."""

    @property
    def replica(self) -> Replica:
        """Give the engine connection."""
        ...

    @property
    def pid(self) -> int | None:
        """Give the process id, None for external endpoints."""
        ...

    @property
    def url(self) -> str:
        """Give the base URL."""
        ...

    async def stop(self) -> None:
        """End it: TERM, 5 s, KILL; external endpoints are only disconnected."""
        ...


class ReplicaHost(Protocol):
    """Who can bring up a pool's replicas."""

    async def launch(self, replica_id: ReplicaId, model_ref: str, on_exit: OnExit) -> RunningReplica:
        """Start (or connect to) the replica and wait until its endpoint answers healthy.

        `on_exit` is called once if the process ends without having been asked to, or if the endpoint fails three health polls.

        Errors: ProcessError with `cause`.
        """
        ...

    async def verify_model(self, model_ref: str) -> str:
        """Check that the model exists and its checksum is right.

        Shape: the model's sha256 hex digest.
        Errors: ProcessError with the reason.
        """
        ...
