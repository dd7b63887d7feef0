"""What every part of the configuration file is made of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000, description="Milliseconds, at most one day.")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts of the file: a field that is not known is a mistake."""
