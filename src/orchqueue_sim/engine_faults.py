"""What goes wrong in a simulated engine's streams, on demand."""

from __future__ import annotations

import asyncio
import json
import os
from random import Random
from typing import Any, Protocol

import msgspec

UNTIL_TOLD = -1


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """What goes wrong. Counts are tokens into a stream; 0 or less: never. `times`: for how many completions, −1 all.

    `queue_ms`: a request takes that long to reach a slot, and is not cancelled on the way. `not_deterministic`: the same request
    gives other texts. `ignore_abort_ms`: a slot works on after its client has gone, `UNTIL_TOLD` until other faults are set or
    none. `late_close_ms`: the response is completed that long after its last event. `double_close`: the last event comes twice.
    `keep_alives`: comments between the events. `prefix_caching`: the server says that it reuses what it has read.
    """

    times: int = -1
    status: int = 0
    first_token_delay_ms: int = 0
    queue_ms: int = 0
    silent_after: int = 0
    eof_after: int = 0
    error_after: int = 0
    broken_utf8_after: int = 0
    broken_json_after: int = 0
    exit_after: int = 0
    exit_code: int = 1
    split_frames: bool = False
    ignore_abort_ms: int = 0
    late_close_ms: int = 0
    double_close: bool = False
    keep_alives: bool = False
    not_deterministic: bool = False
    unhealthy: bool = False
    hide_slots: bool = False
    prefix_caching: bool = False
    template_fails: bool = False
    template_delay_ms: int = 0


class Speaker(Protocol):
    """What a stream asks of its engine."""

    @property
    def server(self) -> str:
        """Name the server."""
        ...

    @property
    def text_field(self) -> str:
        """Name the JSON member that holds text."""
        ...

    def frame(self, data: bytes) -> bytes:
        """Make an event of data."""
        ...

    def stream_error(self) -> bytes:
        """Give the frame of an error in the middle of a stream."""
        ...

    def struck(self, fault: str) -> None:
        """Learn that a fault has met somebody."""
        ...


class FaultyStream:
    """Chunked server-sent events, with faults at the token where they are due."""

    def __init__(self, engine: Speaker, writer: asyncio.StreamWriter, faults: Faults, cuts: Random) -> None:
        self.faults = faults
        self._engine = engine
        self._writer = writer
        self._cuts = cuts

    def begin(self) -> None:
        """Send the head."""
        if self.faults.split_frames:
            self._engine.struck("split_frames")
        self._writer.write(
            f"HTTP/1.1 200 OK\r\nServer: {self._engine.server}\r\n".encode()
            + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    async def event(self, fields: dict[str, Any] | bytes, said: int = 0) -> None:
        """Send one event, or what a fault makes of it."""
        faults, engine = self.faults, self._engine
        data = fields if isinstance(fields, bytes) else json.dumps(fields, ensure_ascii=False).encode()
        if _due(faults.exit_after, said):
            os._exit(faults.exit_code)
        for after, name in (
            (faults.silent_after, "silence"),
            (faults.eof_after, "early_eof"),
            (faults.error_after, "engine_error"),
            (faults.broken_utf8_after, "broken_utf8"),
            (faults.broken_json_after, "broken_json"),
        ):
            if _due(after, said):
                engine.struck(name)
        if _due(faults.silent_after, said):
            await asyncio.Event().wait()
        if _due(faults.eof_after, said):
            self._writer.transport.abort()
            raise ConnectionResetError
        if _due(faults.error_after, said):
            await self._chunk(engine.stream_error())
            await asyncio.Event().wait()
        if _due(faults.broken_utf8_after, said):
            field = f'"{engine.text_field}": "'.encode()
            data = data.replace(field, field + b"\xf0\x9f\x98")
        if _due(faults.broken_json_after, said):
            data = data[: len(data) // 2]
        if faults.keep_alives:
            await self._chunk(b": still here\n\n")
        await self._chunk(engine.frame(data))

    async def last(self, events: list[dict[str, Any] | bytes]) -> None:
        """Send the last events, and complete the response."""
        faults = self.faults
        for event in events:
            await self.event(event)
        if faults.double_close:
            self._engine.struck("double_close")
            for event in events:
                await self.event(event)
        if faults.late_close_ms:
            self._engine.struck("late_close")
            await asyncio.sleep(faults.late_close_ms / 1000)
        await self._write(b"0\r\n\r\n")

    async def _chunk(self, data: bytes) -> None:
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def _write(self, data: bytes) -> None:
        while self.faults.split_frames and data:
            size = self._cuts.randint(1, 7)
            self._writer.write(data[:size])
            await self._writer.drain()
            await asyncio.sleep(0)
            data = data[size:]
        self._writer.write(data)
        await self._writer.drain()


def _due(after: int, said: int) -> bool:
    return 0 < after <= said
