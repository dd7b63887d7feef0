"""What `orchq` exits with; docs/exit-codes.md says the same to people."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The meaning of each exit status, signals aside (128 + the signal's number)."""

    OK = 0
    TASK_FAILED = 1
    USAGE = 2
    TRY_LATER = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5
    CANNOT_CONNECT = 6
    NOT_VERIFIED = 7
    SERVER_FAULT = 8


class UsageError(Exception):
    """The command line, or a file that it names, cannot be used."""


def code_of(error: Exception) -> ExitCode:
    """Choose the exit status of a failure that the client raised.

    Req: ORCH-4028

    >>> from orchqueue.client.errors import Refused
    >>> code_of(Refused(429, "full")).name
    'TRY_LATER'
    """
    from orchqueue.client import errors

    table: tuple[tuple[type[Exception] | tuple[type[Exception], ...], ExitCode], ...] = (
        (UsageError, ExitCode.USAGE),
        (errors.TaskFailed, ExitCode.TASK_FAILED),
        ((errors.InvalidRequest, errors.Conflict, errors.BadSetting), ExitCode.USAGE),
        ((errors.Refused, errors.Unavailable), ExitCode.TRY_LATER),
        (errors.NotFound, ExitCode.NOT_FOUND),
        ((errors.Unauthorized, errors.Forbidden), ExitCode.NOT_ALLOWED),
        ((errors.StreamMismatch, errors.ReceiptMismatch), ExitCode.NOT_VERIFIED),
        (errors.ConnectFailed, ExitCode.CANNOT_CONNECT),
    )
    return next((code for kinds, code in table if isinstance(error, kinds)), ExitCode.SERVER_FAULT)
