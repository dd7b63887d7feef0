"""What `orchestratord` exits with; docs/exit-codes.md says the same to people."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The meaning of each exit status; 128 + the signal's number when a signal ended it.

    Req: ORCH-4028
    """

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    DATA_UNUSABLE = 3
    KEYS_UNUSABLE = 4
    CANNOT_LISTEN = 5
    ENGINE_UNREACHABLE = 6
    NOT_VERIFIED = 7
