"""What a port raises when the world does not cooperate."""

from __future__ import annotations

from orchqueue.core.events import CrashCause


class PortError(Exception):
    """Something outside the process failed. The message says what, where, and what to do."""


class EngineError(PortError):
    """An engine cannot be reached, refused, or broke its protocol."""


class JournalError(PortError):
    """The journal cannot be opened, read or committed to."""


class ProcessError(PortError):
    """A replica process cannot be started or stopped; `cause` tells supervision why."""

    def __init__(self, cause: CrashCause, message: str) -> None:
        super().__init__(message)
        self.cause: CrashCause = cause


class CannotListen(PortError):
    """The address cannot be served."""
