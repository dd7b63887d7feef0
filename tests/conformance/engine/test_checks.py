"""What the suite holds against an engine, and what it does not: that our own machine stands still is no fault of the engine."""

from __future__ import annotations

import pytest

from orchqueue.adapters.engines.conformance import checks
from orchqueue.adapters.engines.conformance.listening import DisprovedError, Listener
from orchqueue.core.request import TaskSpec
from orchqueue.ports.engine import Completion

pytestmark = pytest.mark.req("ORCH-4433")


@pytest.mark.parametrize(("at_once", "passes"), [(24, True), (10_000, False)], ids=["a pause of ours", "no streaming"])
async def test_a_text_that_is_read_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int, passes: bool) -> None:
    """A short text that arrives while we pause is no sign of an engine that does not stream; a long one is."""

    async def decode(_: object, spec: TaskSpec) -> Listener:
        listener = Listener()
        texts = ("a",) * spec.max_tokens
        for read in [texts] if spec.max_tokens <= at_once else [texts[:1], texts[1:]]:
            listener.chunks(read, spec.max_tokens)
        listener.completed(Completion("length", 3, spec.max_tokens, 1, 1))
        return listener

    monkeypatch.setattr(checks, "decode", decode)
    if passes:
        await checks.streams(Idle())  # type: ignore[arg-type]
    else:
        with pytest.raises(DisprovedError, match="not streamed"):
            await checks.streams(Idle())  # type: ignore[arg-type]


class Idle:
    """Stands for an engine that works on nothing."""

    async def is_idle(self) -> bool:
        """Tell so."""
        return True


class Begun(Listener):
    """An attempt of which text has come by the time of its abort. It is its own handle."""

    def __init__(self, talks_on: bool) -> None:
        super().__init__()
        self.handle = self
        self._talks_on = talks_on
        self.chunks(("before",), 1)

    def abort(self) -> None:
        """Close, perhaps with a last word."""
        if not self.closed_event.is_set():
            if self._talks_on:
                self.chunks(("behind",), 2)
            self.closed()


@pytest.mark.parametrize("talks_on", [False, True])
async def test_text_that_came_before_an_early_abort(monkeypatch: pytest.MonkeyPatch, talks_on: bool) -> None:
    """Where we were too late to abort before the first text, only what comes behind the abort counts."""
    monkeypatch.setattr(checks, "begin", lambda *_: Begun(talks_on))
    if talks_on:
        with pytest.raises(DisprovedError, match="after the abort"):
            await checks.stops_before_it_began(Idle())  # type: ignore[arg-type]
    else:
        await checks.stops_before_it_began(Idle())  # type: ignore[arg-type]
