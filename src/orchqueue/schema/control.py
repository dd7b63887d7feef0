"""Types of the control plane, generated from contracts/openapi/control.yaml by `make gen`; do not edit."""

from __future__ import annotations

from msgspec import UNSET, UnsetType
from orchqueue.schema.data import Priority
from orchqueue.schema.wire import Wire


class DrainRequest(Wire, frozen=True, kw_only=True, omit_defaults=True):
    deadline_ms: int = 30000
    p: Priority | UnsetType = UNSET
