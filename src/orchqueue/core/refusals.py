"""The latest refusals, so that a refused task can be explained too.

Req: ORCH-4003
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from orchqueue.core.ids import TaskKey
from orchqueue.core.outcome import Fault, Refusal

REFUSALS_AT_MOST = 1_000
FAULTS_AT_MOST = 8
TEXT_AT_MOST = 512


class Refused(msgspec.Struct, frozen=True):
    """One refusal and when it was given.

    Units: unix milliseconds.
    """

    refused_at_ms: int
    refusal: Refusal


class Refusals:
    """A ring of refusals by task key, so that no tenant ever finds another's.

    Shape: at most `REFUSALS_AT_MOST`, each cut to `FAULTS_AT_MOST` faults and `TEXT_AT_MOST` characters a text: never
    more than about 10 MB, usually far below one.
    Req: ORCH-4087
    """

    def __init__(self, at_most: int = REFUSALS_AT_MOST) -> None:
        self._at_most = at_most
        self._refused: OrderedDict[TaskKey, Refused] = OrderedDict()

    def __len__(self) -> int:
        return len(self._refused)

    def note(self, key: TaskKey, refusal: Refusal, now_ms: int) -> None:
        """Remember a refusal; the oldest goes when there are too many, and an earlier one of the same id at once."""
        faults = tuple(Fault(f.pointer[:TEXT_AT_MOST], f.message[:TEXT_AT_MOST]) for f in refusal.faults)
        kept = msgspec.structs.replace(refusal, message=refusal.message[:TEXT_AT_MOST], faults=faults[:FAULTS_AT_MOST])
        self._refused.pop(key, None)
        self._refused[key] = Refused(now_ms, kept)
        if len(self._refused) > self._at_most:
            self._refused.popitem(last=False)

    def find(self, key: TaskKey) -> Refused | None:
        """Look a refusal up."""
        return self._refused.get(key)

    def forget(self, key: TaskKey) -> None:
        """Forget a refusal: a task of that id was accepted after all."""
        self._refused.pop(key, None)
