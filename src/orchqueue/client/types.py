"""The contract's types under the names that the client speaks of."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from orchqueue.schema.data import AdmissionResponse, EndEvent, ErrorEnvelope, MetricsEvent, StartedEvent, TokenEvent

Admission: TypeAlias = AdmissionResponse
Started: TypeAlias = StartedEvent
Token: TypeAlias = TokenEvent
Metrics: TypeAlias = MetricsEvent
End: TypeAlias = EndEvent
ErrorEvent: TypeAlias = ErrorEnvelope
Event: TypeAlias = Started | Token | Metrics | End | ErrorEvent


class Completion(msgspec.Struct, frozen=True):
    """A finished task.

    Shape: `verified` says whether `text` was compared with the receipt's digest, which needs it from its first byte.
    """

    task_id: str
    text: str
    end: End
    started: Started | None
    verified: bool
