"""The contract's types under the names that the client speaks of."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from orchqueue.schema.control import (
    CanaryHealth,
    Capabilities,
    ConfigReloaded,
    Liveness,
    ModelInfo,
    ModelUse,
    PoolHealth,
    PoolInfo,
    PoolOperation,
    Readiness,
    ReplicaHealth,
    ReplicaSet,
)
from orchqueue.schema.data import (
    AdmissionResponse,
    EndEvent,
    ErrorEnvelope,
    Explanation,
    Fault,
    Message,
    MetricsEvent,
    Moment,
    Placement,
    QuotaUse,
    Receipt,
    Sampling,
    SessionInfo,
    StartedEvent,
    TaskInfo,
    TaskRequest,
    TaskSummary,
    TokenEvent,
    Usage,
    UsageRow,
)

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


__all__ = [
    "Admission",
    "CanaryHealth",
    "Capabilities",
    "Completion",
    "ConfigReloaded",
    "End",
    "ErrorEnvelope",
    "ErrorEvent",
    "Event",
    "Explanation",
    "Fault",
    "Liveness",
    "Message",
    "Metrics",
    "ModelInfo",
    "ModelUse",
    "Moment",
    "Placement",
    "PoolHealth",
    "PoolInfo",
    "PoolOperation",
    "QuotaUse",
    "Readiness",
    "Receipt",
    "ReplicaHealth",
    "ReplicaSet",
    "Sampling",
    "SessionInfo",
    "Started",
    "TaskInfo",
    "TaskRequest",
    "TaskSummary",
    "Token",
    "Usage",
    "UsageRow",
]
