"""Who is calling, and whether a web page could be behind it.

Req: ORCH-3036
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from functools import lru_cache
from typing import Literal, Protocol

import msgspec

from orchqueue.core.ids import Tenant
from orchqueue.http.messages import Request
from orchqueue.http.problems import AuthFailure

OpScope = Literal["tasks", "control"]

ANONYMOUS_TENANT = Tenant("local")
UNKNOWN = "a valid API key is required"
NOT_ALLOWED = "not allowed"
FORWARDING = (b"forwarded", b"x-forwarded-for", b"x-real-ip")
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Identity(Protocol):
    """A verified caller."""

    @property
    def tenant(self) -> str:
        """Name who pays."""
        ...

    @property
    def key_id(self) -> str:
        """Name the key that was shown."""
        ...

    @property
    def scopes(self) -> Collection[str]:
        """List what the key may be used for: `tasks`, `control`."""
        ...


class Authenticator(Protocol):
    """Who knows the keys."""

    def verify(self, token: str) -> Identity | None:
        """Find the owner of a key; None when it is unknown or revoked."""
        ...


class Caller(msgspec.Struct, frozen=True):
    """Who a request comes from."""

    tenant: Tenant
    client_id: str
    anonymous: bool


class Access(msgspec.Struct, frozen=True):
    """The rules: keys, if there are any, and whether this machine's own users need one."""

    authenticator: Authenticator | None = None
    allow_anonymous_loopback: bool = True

    def admit(self, request: Request, scope: OpScope) -> Caller:
        """Let a request in.

        1. A shown key decides alone. 2. Without one only this machine's users come in, where that is allowed, not those
        of a proxy on it, 3. only under a name of this machine, so that no foreign page reaches us by renaming itself, and
        4. never from a page of another origin when the request changes something.

        Errors: AuthFailure.
        Req: ORCH-4069, ORCH-4193
        """
        token = _token(request)
        if token is not None:
            return self._by_key(token, scope)
        direct = _is_loopback(request.client_host) and not _was_forwarded(request)
        if not (self.allow_anonymous_loopback and direct):
            raise AuthFailure(401, UNKNOWN)
        host = request.value(b"host") or ""
        if host and not _is_local_name(host):
            raise AuthFailure(403, "not allowed under this host name")
        if request.method in UNSAFE and _comes_from_elsewhere(request, host):
            raise AuthFailure(403, "not allowed from a page of another origin")
        return Caller(ANONYMOUS_TENANT, "", anonymous=True)

    def _by_key(self, token: str, scope: OpScope) -> Caller:
        identity = self.authenticator.verify(token) if self.authenticator is not None else None
        if identity is None:
            raise AuthFailure(401, UNKNOWN)
        if scope not in identity.scopes:
            raise AuthFailure(403, NOT_ALLOWED)
        return Caller(Tenant(identity.tenant), identity.key_id, anonymous=False)


def _token(request: Request) -> str | None:
    """Read the credential; two different ones are none that is known.

    Req: ORCH-4192
    """
    shown: set[str] = set()
    for value in request.values(b"authorization"):
        kind, _, token = value.partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise AuthFailure(401, UNKNOWN)
        shown.add(token.strip())
    shown.update(value.strip() for value in request.values(b"x-api-key"))
    if len(shown) > 1 or "" in shown:
        raise AuthFailure(401, UNKNOWN)
    return shown.pop() if shown else None


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == ""  # a Unix socket has no address
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _was_forwarded(request: Request) -> bool:
    """Tell whether a proxy stands between us and the caller, who may then be anyone.

    Req: ORCH-4070
    """
    return any(request.value(name) is not None for name in FORWARDING)


def _is_local_name(host: str) -> bool:
    """Tell whether a `Host` header names this machine.

    >>> _is_local_name("localhost:8080"), _is_local_name("[::1]:8080"), _is_local_name("127.0.0.1.evil.example")
    (True, True, False)
    """
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    else:
        name = name.partition(":")[0]
    if name.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _comes_from_elsewhere(request: Request, host: str) -> bool:
    site = request.value(b"sec-fetch-site")
    if site is not None and site.strip().lower() not in ("same-origin", "none"):
        return True
    origin = request.value(b"origin")
    if origin is None:
        return False
    return origin.strip().lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
