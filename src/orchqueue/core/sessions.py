"""Short-lived KV affinity: how long a session lives, how many turns it has, where its KV is."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from orchqueue.core.ids import ReplicaId, SessionKey, Tenant
from orchqueue.core.settings import SessionLimits


class Session(msgspec.Struct):
    """One session.

    Units: `expires_at_ms` unix milliseconds.
    """

    expires_at_ms: int
    turns: int = 0
    warm_on: ReplicaId | None = None
    cached_tokens: int = 0


class Sessions:
    """All sessions. A look never creates one; only an accepted task does.

    Req: ORCH-3021
    """

    def __init__(self, limits: SessionLimits) -> None:
        self.limits = limits
        self._sessions: dict[SessionKey, Session] = {}
        self._by_tenant: dict[Tenant, set[SessionKey]] = {}

    def find(self, key: SessionKey, now_ms: int) -> Session | None:
        """Look a live session up.

        Req: ORCH-4248
        """
        session = self._sessions.get(key)
        if session is None or now_ms >= session.expires_at_ms:
            return None
        return session

    def turns_left(self, key: SessionKey, now_ms: int) -> int:
        """Count the turns that may still be accepted."""
        session = self.find(key, now_ms)
        return self.limits.max_turns - (session.turns if session else 0)

    def count_turn(self, key: SessionKey, now_ms: int) -> Session:
        """Book an accepted turn; the first one begins the session's life.

        The caller has checked `turns_left`.

        Req: ORCH-3022
        """
        session = self.find(key, now_ms)
        if session is None:
            session = self._sessions[key] = Session(now_ms + self.limits.ttl_ms)
            self._by_tenant.setdefault(key[0], set()).add(key)
        assert session.turns < self.limits.max_turns, f"session {key[1]} has no turn left"
        session.turns += 1
        return session

    def take_turn_back(self, key: SessionKey) -> None:
        """Undo a turn whose acceptance was withdrawn; a session of which nothing is left never was.

        Req: ORCH-4245
        """
        session = self._sessions.get(key)
        if session is None:
            return
        session.turns -= 1
        if session.turns <= 0:
            self.evict(key)

    def evict(self, key: SessionKey) -> Session | None:
        """Forget a session."""
        own = self._by_tenant.get(key[0], set())
        own.discard(key)
        if not own:
            self._by_tenant.pop(key[0], None)
        return self._sessions.pop(key, None)

    def expire(self, key: SessionKey, now_ms: int) -> Session | None:
        """Forget a session if its time is over (a newer one of that name may live)."""
        session = self._sessions.get(key)
        if session is not None and now_ms >= session.expires_at_ms:
            return self.evict(key)
        return None

    def warm(self, key: SessionKey, replica_id: ReplicaId, cached_tokens: int, now_ms: int) -> None:
        """Note where a finished turn left its KV."""
        session = self.find(key, now_ms)
        if session is not None:
            session.warm_on, session.cached_tokens = replica_id, cached_tokens

    def measure(self, key: SessionKey, replica_id: ReplicaId, cached_tokens: int, now_ms: int) -> None:
        """Take the engine's own figure for what a session left there.

        Req: ORCH-4255
        """
        session = self.find(key, now_ms)
        if session is not None and session.warm_on == replica_id:
            session.cached_tokens = cached_tokens

    def chill(self, replica_id: ReplicaId) -> None:
        """Note that a replica's KV is gone.

        Req: ORCH-3023
        """
        for session in self._sessions.values():
            if session.warm_on == replica_id:
                session.warm_on, session.cached_tokens = None, 0

    def live_of(self, tenant: Tenant, now_ms: int) -> Iterator[tuple[SessionKey, Session]]:
        """Yield a tenant's live sessions.

        Cost: walks that tenant's sessions.
        """
        for key in self._by_tenant.get(tenant, ()):
            session = self._sessions[key]
            if now_ms < session.expires_at_ms:
                yield key, session

    def __len__(self) -> int:
        return len(self._sessions)
