"""Who is calling, as a port.

Req: ORCH-3036, ORCH-4193
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from orchqueue.core.ids import Tenant

Scope = Literal["tasks", "control"]


class Identity(msgspec.Struct, frozen=True):
    """A known caller and what it may do. `key_id` is public, unlike the key."""

    tenant: Tenant
    key_id: str
    scopes: frozenset[Scope]


class Authenticator(Protocol):
    """Knows keys."""

    def verify(self, token: str) -> Identity | None:
        """Tell whose key it is; None when it is nobody's, was revoked or has expired.

        Cost: the same for keys that exist and keys that do not.
        """
        ...
