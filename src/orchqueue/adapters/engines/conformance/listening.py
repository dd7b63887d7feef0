"""Listens to one attempt as the runtime does, and notices where the port's order of calls is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from orchqueue.adapters.engines.replica import EngineReplica
from orchqueue.core.events import AttemptFailure
from orchqueue.core.request import Sampling, TaskSpec
from orchqueue.ports.engine import AttemptHandle, AttemptSink, Completion


class DisprovedError(Exception):
    """An engine does not do what the port promises; the text says what was seen instead."""


def demand(holds: bool, otherwise: str) -> None:
    """Go on where something holds.

    Errors: DisprovedError.
    """
    if not holds:
        raise DisprovedError(otherwise)


class Listener(AttemptSink):
    """Records an attempt. `on_first`: what to do inside the call that brings the first text."""

    def __init__(self, on_first: Callable[[AttemptHandle], None] | None = None) -> None:
        self.reads: list[tuple[str, ...]] = []
        self.counts: list[int] = []
        self.completion: Completion | None = None
        self.failure: tuple[AttemptFailure, str] | None = None
        self.first_text = asyncio.Event()
        self.closed_event = asyncio.Event()
        self.handle: AttemptHandle | None = None
        self._on_first = on_first
        self._over = False
        self._broken = ""

    @property
    def text(self) -> str:
        """Give all text so far."""
        return "".join(text for read in self.reads for text in read)

    def chunks(self, texts: tuple[str, ...], tokens_out: int) -> None:
        """Take text."""
        self._demand(not self._over, "text after the end")
        self._demand(bool(texts) and all(texts), "an empty piece of text")
        self._demand(not self.counts or tokens_out >= self.counts[-1], "the count of tokens went back")
        self.reads.append(texts)
        self.counts.append(tokens_out)
        if not self.first_text.is_set():
            self.first_text.set()
            if self._on_first is not None and self.handle is not None:
                self._on_first(self.handle)

    def completed(self, completion: Completion) -> None:
        """Take the end."""
        self._demand(not self._over, "two ends")
        self._over = True
        self.completion = completion

    def failed(self, failure: AttemptFailure, detail: str) -> None:
        """Take a failure."""
        self._demand(not self._over, "two ends")
        self._over = True
        self.failure = (failure, detail)

    def closed(self) -> None:
        """Take the close."""
        self._demand(not self.closed_event.is_set(), "closed twice")
        self._over = True
        self.closed_event.set()

    async def end(self) -> None:
        """Wait for the close.

        Errors: DisprovedError where the order of calls was broken.
        """
        await self.closed_event.wait()
        demand(not self._broken, self._broken)

    def _demand(self, holds: bool, otherwise: str) -> None:
        # Noted, not raised: an exception from here would end in the connection's read callback.
        if not holds:
            self._broken = self._broken or otherwise


def begin(
    replica: EngineReplica, spec: TaskSpec, *, profile: str = "v1", cache_prompt: bool = False, said: str = "",
    on_first: Callable[[AttemptHandle], None] | None = None,
) -> Listener:  # fmt: skip
    """Start an attempt; `ignore_eos` is left out where the engine does not offer it."""
    if spec.sampling.ignore_eos and "ignore_eos" not in replica.offers:
        spec = msgspec.structs.replace(spec, sampling=msgspec.structs.replace(spec.sampling, ignore_eos=None))
    listener = Listener(on_first)
    listener.handle = replica.start(spec, profile, cache_prompt, listener, said)
    return listener


async def decode(replica: EngineReplica, spec: TaskSpec, *, profile: str = "v1", said: str = "") -> Listener:
    """Run an attempt to its close.

    Errors: DisprovedError.
    """
    listener = begin(replica, spec, profile=profile, said=said)
    await listener.end()
    return listener


async def complete(
    replica: EngineReplica, spec: TaskSpec, *, profile: str = "v1", said: str = ""
) -> tuple[str, Completion]:
    """Run an attempt that must succeed.

    Errors: DisprovedError.
    """
    run = await decode(replica, spec, profile=profile, said=said)
    if run.completion is None:
        raise DisprovedError(f"the attempt failed: {run.failure}")
    return run.text, run.completion


def endless(**wishes: object) -> Sampling:
    """Give a sampling that does not end by itself."""
    return msgspec.convert({"ignore_eos": True, **wishes}, Sampling)
