"""Stop strings for engines that do not cut them themselves, without I/O: text in, text out, however it was cut."""

from __future__ import annotations

from collections.abc import Iterable


class StopFilter:
    """Let text through up to the first stop string, which is no part of it.

    1. The first stop string is the one that is whole first; of those that are whole at the same character the longest.
    2. Text that may be the beginning of a stop string is held back until more of it is known.
    3. After a match nothing comes through any more, and `matched` names it.

    How the text is cut into pieces makes no difference to what comes through in all.

    Req: ORCH-4062, ORCH-4451
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._beginnings = frozenset(stop[:length] for stop in self._stops for length in range(1, len(stop)))
        self._longest = max((len(stop) for stop in self._stops), default=1) - 1
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Take a piece and give what is certain to stand before every stop string.

        Cost: one search for each stop string, and a look at the last characters, as many as the longest has.
        """
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at]
        certain = len(text) - self._uncertain(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Learn that no more text comes, and give what was held back."""
        held, self._held = self._held, ""
        return held

    def _uncertain(self, text: str) -> int:
        """Count the last characters that may be the beginning of a stop string."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0
