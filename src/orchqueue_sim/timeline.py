"""Tells the story of one run, a line for everything that happened."""

from __future__ import annotations

import re

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue_sim.agenda import BEGIN_MS

SILENT = (fx.Count, fx.Observe, fx.Note, fx.LogDecision, fx.ClearTimer, fx.EmitMetrics, ev.ReplicaScraped, ev.Ticked)
LEADS = {"event": "->", "effect": "      ", "done": "   =>"}
LONGEST = 220


class Timeline:
    """Collects lines; `only` keeps those that hold a word."""

    def __init__(self, only: str = "") -> None:
        self._only = only
        self.lines: list[str] = []

    def note(self, now_ms: int, kind: str, what: object) -> None:
        """Write one line."""
        if isinstance(what, SILENT):
            return
        text = re.sub(r"x{40,}", "x…", repr(what))
        text = re.sub(r"([0-9a-f]{8})-[0-9a-f]{4}-4[0-9a-f-]{22}", r"\1", text)
        if self._only and self._only not in text:
            return
        if len(text) > LONGEST:
            text = text[:LONGEST] + "…"
        lead = LEADS.get(kind, f"== {kind}:")
        self.lines.append(f"{now_ms - BEGIN_MS:>9} ms {lead} {text}")
