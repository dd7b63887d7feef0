"""What is done when the journal fills up: ended tasks go first, then nobody new comes in."""

from __future__ import annotations

from itertools import islice

from orchqueue.core.effects import Note
from orchqueue.core.ending import forget
from orchqueue.core.state import State

FORGOTTEN_AT_ONCE = 256


def on_measured(state: State, held_bytes: int, max_bytes: int) -> None:
    """Forget the oldest ended tasks from fifteen sixteenths on; admit nothing from the bound on.

    What was accepted goes on and is recorded: a journal that took no ends could never free anything.

    Units: `max_bytes` 0: there is no bound.
    Cost: FORGOTTEN_AT_ONCE tasks at most; the next interval goes on.
    Req: ORCH-4374
    """
    full = 0 < max_bytes <= held_bytes
    if full != state.journal_full:
        state.journal_full = full
        detail = f"the journal holds {held_bytes} of {max_bytes} bytes"
        state.emit(
            Note("error" if full else "info", "journal_full" if full else "journal_has_room", {"detail": detail})
        )
    if not max_bytes:
        return
    excess_bytes = held_bytes - (max_bytes - max_bytes // 16)
    for key in tuple(islice(state.retained, FORGOTTEN_AT_ONCE)):
        if excess_bytes <= 0:
            break
        excess_bytes -= state.retained[key]
        forget(state, key)
