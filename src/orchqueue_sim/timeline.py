"""Tells the story of one run, a line for everything that happened.

A line begins with the instant and with who acts. What the core wants of it stands below, after a bar; what had to wait
for the journal comes again with `done` when it was carried out. A fault is marked where it strikes.

Req: ORCH-4345
"""

from __future__ import annotations

from typing import get_args

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue_sim.agenda import BEGIN_MS
from orchqueue_sim.telling import say_effect, say_event

SILENT = (fx.Count, fx.Observe, fx.Note, fx.LogDecision, fx.ClearTimer, fx.EmitMetrics, ev.ReplicaScraped, ev.Ticked)
EVENTS, EFFECTS = get_args(ev.AnyEvent), get_args(fx.AnyEffect)
LONGEST = 160
BLANK = " " * 12


class Timeline:
    """Collects lines; `only` keeps those that hold a word, and the line of what they follow from."""

    def __init__(self, only: str = "") -> None:
        self._only = only
        self._cause = ""
        self.lines: list[str] = []

    def note(self, now_ms: int, kind: str, what: object) -> None:
        """Write one line."""
        if isinstance(what, SILENT):
            return
        at = f"{now_ms - BEGIN_MS:>9} ms"
        wanted = False
        if isinstance(what, EVENTS):
            who, text = say_event(what)
            line = f"{at}  {who:<9}{text}"
        elif isinstance(what, EFFECTS):
            wanted, text = kind != "done", say_effect(what)
            line = f"{BLANK}  {'':<9}| {text}" if wanted else f"{at}  {'done':<9}{text}"
        else:
            line = f"{at}  {f'!! {kind}' if kind == 'fault' else kind:<9}{what}"
        if len(line) > LONGEST:
            line = line[:LONGEST] + "…"
        if self._only in line:
            if wanted and self._cause:
                self.lines.append(self._cause)
            self.lines.append(line)
            self._cause = ""
        elif isinstance(what, EVENTS):
            self._cause = line
