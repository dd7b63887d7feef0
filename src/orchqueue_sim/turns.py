"""The auditor's own count of session turns.

Req: ORCH-3021, ORCH-3022
"""

from __future__ import annotations

from orchqueue.core.ids import SessionKey
from orchqueue.core.records import Accepted
from orchqueue.core.settings import SessionLimits


class Turns:
    """How many turns each session has had since its first accepted task."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._had: dict[SessionKey, tuple[int, int]] = {}

    def life_over(self) -> None:
        """Begin anew: what ended before a restart is not counted again."""
        self._had.clear()

    def accepted(self, record: Accepted) -> str:
        """Count a turn; tell what is wrong with it, empty when nothing is."""
        if record.spec.session_id is None:
            return ""
        key = (record.tenant, record.spec.session_id)
        turns, until_ms = self._had.get(key, (0, 0))
        if not turns or record.accepted_at_ms >= until_ms:
            turns, until_ms = 0, record.accepted_at_ms + self._limits.ttl_ms
        self._had[key] = (turns + 1, until_ms)
        if turns >= self._limits.max_turns:
            return f"session {key[1]} was given turn {turns + 1} of {self._limits.max_turns}"
        return ""

    def refused(self, key: SessionKey) -> str:
        """Judge a refusal for lack of turns, which also ends the session."""
        turns, _ = self._had.pop(key, (0, 0))
        if turns < self._limits.max_turns:
            return f"session {key[1]} was refused after {turns} of {self._limits.max_turns} turns"
        return ""

    def withdrawn(self, key: SessionKey) -> None:
        """Uncount a turn whose client was told that it was not accepted."""
        turns, until_ms = self._had.get(key, (0, 0))
        if turns > 1:
            self._had[key] = (turns - 1, until_ms)
        else:
            self._had.pop(key, None)

    def deleted(self, key: SessionKey) -> None:
        """Forget a session."""
        self._had.pop(key, None)
