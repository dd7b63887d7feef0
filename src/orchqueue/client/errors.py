"""Everything that can go wrong in a call, as types that carry what the server said.

Each message says what happened and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchqueue.schema.data import ErrorEnvelope, Fault


class OrchQueueError(Exception):
    """Base of every error that the client raises on purpose."""


class ConnectFailed(OrchQueueError):
    """No answer could be had: wrong address, nobody listening, TLS trouble, or a timeout."""


class BadSetting(ConnectFailed):
    """The base URL, the API key or a TLS file cannot be used as given."""


class AnswerLost(ConnectFailed):
    """The connection broke or went silent after the request was sent; the server may have acted on it."""


class ProtocolBroken(OrchQueueError):
    """The answer is not what the contract promises; most likely something else listens there."""


class StreamMismatch(OrchQueueError):
    """What the server streams is not the continuation of what was received.

    Req: ORCH-4039
    """


class ReceiptMismatch(OrchQueueError):
    """The text received is not the text that the receipt vouches for.

    Req: ORCH-4039
    """


class StreamBroken(ConnectFailed):
    """The stream broke and could not be had again within the patience.

    Shape: `last_event_id` resumes it where it broke; empty when nothing had come.
    """

    def __init__(self, message: str, task_id: str, last_event_id: str) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.last_event_id = last_event_id


class ApiError(OrchQueueError):
    """The server answered with an error.

    Shape: `code` is one of the nine codes, None for 401 and 403, which have none.
    Units: `retry_after_ms` counts from the moment of the answer.
    Req: ORCH-2006
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        envelope: ErrorEnvelope | None = None,
        correlation_id: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.envelope = envelope
        self.correlation_id = correlation_id
        self.retry_after_ms = retry_after_ms

    @property
    def code(self) -> str | None:
        """Return the error code, if the answer had one."""
        return None if self.envelope is None else self.envelope.code

    @property
    def retriable(self) -> bool:
        """Tell whether the same request may succeed later."""
        return self.envelope is not None and self.envelope.retriable

    @property
    def policy_label(self) -> str | None:
        """Return which rule refused, if the answer says so."""
        return None if self.envelope is None else self.envelope.policy_label or None

    @property
    def faults(self) -> Sequence[Fault]:
        """Return each offending field with its JSON pointer."""
        return () if self.envelope is None else (self.envelope.faults or ())


class InvalidRequest(ApiError):
    """400, 405, 408, 413, 415, 431: the request is at fault; sending it again changes nothing."""


class Unauthorized(ApiError):
    """401: no credential, or one that the server does not know."""


class Forbidden(ApiError):
    """403: the credential is known but may not do this."""


class NotFound(ApiError):
    """404: no such task, session or pool among one's own."""


class Conflict(ApiError):
    """409: the task id is taken by another request."""


class Refused(ApiError):
    """429: refused for now; `retry_after_ms` says when to ask again."""


class Unavailable(ApiError):
    """503: no pool can take it now; `retry_after_ms` says when to ask again."""


class ServerFault(ApiError):
    """Any other 5xx."""


class TaskFailed(OrchQueueError):
    """The task was accepted and then ended with an error event.

    Shape: `text` is what had been streamed until then; `code` is one of the nine codes, as WORKER_RESET.
    """

    def __init__(self, envelope: ErrorEnvelope, text: str) -> None:
        super().__init__(f"{envelope.code}: {envelope.message}")
        self.envelope = envelope
        self.text = text

    @property
    def code(self) -> str:
        """Return the error code."""
        return self.envelope.code

    @property
    def retriable(self) -> bool:
        """Tell whether the same task under another id may succeed."""
        return self.envelope.retriable


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: InvalidRequest,
    408: InvalidRequest,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    429: Refused,
    431: InvalidRequest,
    503: Unavailable,
}


def is_absence(error: Exception, *, was_reached: bool) -> bool:
    """Tell whether this failure only says that the server, which was there, is away or not ready again.

    A lost answer is one always. A refused connection, or a proxy that speaks in the server's place, is one when the
    server was reached before: until then the address may be wrong, and waiting would only hide that.

    Req: ORCH-4310
    """
    if isinstance(error, BadSetting | StreamBroken):
        return False
    if isinstance(error, AnswerLost):
        return True
    if isinstance(error, ServerFault):
        return was_reached and error.envelope is None
    return was_reached and isinstance(error, ConnectFailed)


def error_class(status: int) -> type[ApiError]:
    """Choose the exception class of a status."""
    return _BY_STATUS.get(status, ServerFault if status >= 500 else ApiError)
