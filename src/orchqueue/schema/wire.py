"""The base of every generated type."""

from __future__ import annotations

import msgspec


class Wire(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value that goes over the wire. Absent fields are `UNSET`; fields equal to their default are not sent.

    Req: ORCH-4081
    """
