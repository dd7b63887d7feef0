"""One task's stream as an append-only byte log, and the readers that are cursors on it.

Every frame is encoded once per task. A reader that keeps up gets each append as it happens; one that is paused gets
nothing and catches up from the log in bounded pieces when its socket can take more.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

from orchqueue.core.ids import TaskId, TaskKey, task_id_of
from orchqueue.runtime.stream_frames import HEARTBEAT, Position, ReceiptView, as_chunk, diverged_frame, token_frame

PIECE_BYTES = 64 * 1024
INDEX_BYTES = 16
HEARTBEAT_CHUNK = as_chunk(HEARTBEAT)


class Sink(Protocol):
    """The socket side of a reader. Neither method raises or blocks; either may call the reader's `pause` or `detach`."""

    def write(self, frames: bytes, framed: bytes) -> None:
        """Send whole bytes of the stream; `framed` is the same as one HTTP chunk."""
        ...

    def ended(self) -> None:
        """Learn that nothing will follow and that everything was written: the response can be completed."""
        ...

    def dropped(self) -> None:
        """Learn that this reader was given up with bytes missing: the connection is to be closed at once."""
        ...


class Reader:
    """One follower of a task. It starts paused; its owner calls `resume` when its socket is ready.

    `offset` counts bytes of the log's frames already sent; it is meaningful only while the reader is not live.
    `ahead` is the position a reader waits for that has read more than the log holds.
    """

    __slots__ = ("ahead", "live", "log", "offset", "paused", "paused_ticks", "prefix", "resumed", "sink")

    def __init__(self, log: StreamLog, sink: Sink) -> None:
        self.log: StreamLog | None = log
        self.sink = sink
        self.offset = 0
        self.prefix = b""
        self.resumed = False
        self.ahead: Position | None = None
        self.live = False
        self.paused = True
        self.paused_ticks = 0

    def pause(self) -> None:
        """Take nothing more until `resume`: the socket's buffer is full."""
        if self.paused or self.log is None:
            return
        self.paused = True
        self.paused_ticks = 0
        if self.live:
            self.offset = len(self.log.frames)
            self.log.retire(self)

    def resume(self) -> None:
        """Catch up from the log and follow it again."""
        if self.paused and self.log is not None:
            self.paused = False
            self.log.catch_up(self)

    def detach(self) -> None:
        """Leave. Nothing is called on the sink afterwards."""
        log, self.log = self.log, None
        if log is not None:
            log.leave(self)

    def drop(self) -> None:
        """Give the reader up and have its connection closed."""
        if self.log is not None:
            self.detach()
            self.sink.dropped()


class StreamLog:
    """The frames and the text of one task.

    `live` readers have everything and are not paused; all others are found in `readers` only. `is_result`: the text is the JSON of an
    embedding or rerank task's result.

    Units: `frame_ends[i]` and `text_ends[i]` are the byte counts of frames and of text after token event i.
    Req: ORCH-2002, ORCH-4104
    """

    __slots__ = (
        "_crc", "_terminal_offset", "ahead_ticks", "correlation_id", "frame_ends", "frames", "is_result", "key", "live", "on_leave",
        "quiet_ticks", "readers", "receipt", "started_bytes", "terminal", "text", "text_ends",
    )  # fmt: skip

    def __init__(self, key: TaskKey, correlation_id: str, on_leave: Callable[[StreamLog, Reader], None]) -> None:
        self.key = key
        self.correlation_id = correlation_id
        self.on_leave = on_leave
        self.is_result = False
        self.frames = bytearray()
        self.text = bytearray()
        self.frame_ends = array("Q")
        self.text_ends = array("Q")
        self.started_bytes = 0
        self.terminal: Position | None = None
        self.receipt: ReceiptView | None = None
        self.readers: list[Reader] = []
        self.live: tuple[Reader, ...] = ()
        self.quiet_ticks = 0
        self.ahead_ticks = 0
        self._crc = 0
        self._terminal_offset: int | None = None

    @property
    def task_id(self) -> TaskId:
        """Name the task as its clients do."""
        return task_id_of(self.key)

    @property
    def position(self) -> Position:
        """Tell where the log ends now."""
        return Position(len(self.text), self._crc)

    @property
    def retained_bytes(self) -> int:
        """Count the bytes that this log keeps."""
        return len(self.frames) + len(self.text) + INDEX_BYTES * len(self.text_ends)

    def append_started(self, frame: bytes) -> int:
        """Append the `started` event, once. Readers that resumed have seen it and are not told again.

        Shape: bytes kept for it.
        """
        if self.started_bytes:
            return 0
        assert self.terminal is None, f"{self.key}: started after the terminal event"
        assert not self.text_ends, "started precedes every token"
        self.started_bytes = len(frame)
        self.frames += frame
        for reader in self.readers:
            if reader.resumed and not reader.live:
                reader.offset = self.started_bytes
        self._send_live(frame, but_resumed=True)
        return len(frame)

    def append_tokens(self, texts: tuple[str, ...]) -> int:
        """Append a `token` event for each piece of text and send all of them in one write.

        Shape: bytes kept for them.
        Cost: one encoding per event, one write per live reader.
        """
        assert self.terminal is None, f"{self.key}: a token after the terminal event"
        crc = self._crc
        begin = text_bytes = len(self.text)
        index = len(self.text_ends)
        encoded: list[bytes] = []
        frames_bytes = len(self.frames)
        for text in texts:
            raw = text.encode()
            if not raw:
                continue
            crc = zlib.crc32(raw, crc)
            text_bytes += len(raw)
            frame = token_frame(text_bytes, crc, text, index)
            frames_bytes += len(frame)
            index += 1
            self.text += raw
            self.text_ends.append(text_bytes)
            self.frame_ends.append(frames_bytes)
            encoded.append(frame)
        if not encoded:
            return 0
        self._crc = crc
        frames = encoded[0] if len(encoded) == 1 else b"".join(encoded)
        self.frames += frames
        self._send_live(frames)
        if len(self.live) != len(self.readers):
            self._admit_ahead()
        return len(frames) + text_bytes - begin + INDEX_BYTES * len(encoded)

    def append_terminal(self, frame: bytes, *, failed: bool) -> int:
        """Append the one terminal event and let every reader that has everything go. `failed`: it is an `error`.

        Shape: bytes kept for it.
        """
        assert self.terminal is None, f"{self.key}: two terminal events"
        self.terminal = Position(len(self.text), self._crc, ended=True)
        self._terminal_offset = len(self.frames) if failed else None
        self.frames += frame
        self._send_live(frame)
        for reader in tuple(self.readers):
            if reader.ahead is not None:
                self._settle_ahead(reader)
            elif reader.live:
                self._let_go(reader)
        return len(frame)

    def send_unkept(self, frame: bytes) -> None:
        """Send bytes to those who keep up; whoever is behind never sees them.

        Req: ORCH-4096
        """
        self._send_live(frame)

    def heartbeat(self) -> None:
        """Send a comment to everyone who keeps up and has nothing to read, so that neither side takes silence for death."""
        self._send_live(HEARTBEAT)

    def heartbeat_ahead(self) -> None:
        """Send a comment to those who wait for the log to reach them: nothing of what the others hear is sent to them."""
        for reader in tuple(self.readers):
            if reader.ahead is not None and not reader.paused:
                reader.sink.write(HEARTBEAT, HEARTBEAT_CHUNK)

    def seek(self, reader: Reader, position: Position | None) -> bool:
        """Put a reader where it left off; False when its bytes are not ours.

        Errors: none; a position beyond the log is settled when the log reaches it.
        Req: ORCH-4101, ORCH-4102
        """
        if position is None:
            return True
        reader.resumed = True
        reader.offset = self.started_bytes
        if position.text_bytes > len(self.text):
            if self.terminal is None:
                reader.ahead = position
                return True
            if self._terminal_offset is None:
                return False
            reader.offset = self._terminal_offset  # how the task failed is true whatever this reader has
            return True
        return self._seek_inside(reader, position)

    def catch_up(self, reader: Reader) -> None:
        """Send what a reader lacks, piece by piece, until it pauses or has everything.

        Req: ORCH-4100
        """
        if reader.ahead is not None:
            self._settle_ahead(reader)
            return
        if reader.prefix:
            prefix, reader.prefix = reader.prefix, b""
            reader.sink.write(prefix, as_chunk(prefix))
        while not reader.paused and reader.log is self and reader.offset < len(self.frames):
            piece = bytes(self.frames[reader.offset : reader.offset + PIECE_BYTES])
            reader.offset += len(piece)
            reader.sink.write(piece, as_chunk(piece))
        if reader.paused or reader.log is not self:
            return
        if self.terminal is not None:
            self._let_go(reader)
        else:
            reader.live = True
            self.live = (*self.live, reader)

    def retire(self, reader: Reader) -> None:
        """Stop sending appends to a reader as they happen."""
        reader.live = False
        self.live = tuple(other for other in self.live if other is not reader)

    def leave(self, reader: Reader) -> None:
        """Drop a reader."""
        if reader.live:
            self.retire(reader)
        self.readers.remove(reader)
        self.on_leave(self, reader)

    def release(self) -> None:
        """Let every reader go before the end; whoever lacks bytes is dropped. All of them may resume later."""
        for reader in tuple(self.readers):
            if reader.live or (reader.ahead is not None and not reader.paused):
                self._let_go(reader)
            else:
                reader.drop()

    def _send_live(self, frames: bytes, *, but_resumed: bool = False) -> None:
        live = self.live
        if not live:
            return
        self.quiet_ticks = 0
        framed = as_chunk(frames)
        for reader in live:
            if not (but_resumed and reader.resumed):
                reader.sink.write(frames, framed)

    def _let_go(self, reader: Reader) -> None:
        if reader.log is self:
            reader.detach()
            reader.sink.ended()

    def _seek_inside(self, reader: Reader, position: Position) -> bool:
        text_bytes = position.text_bytes
        if zlib.crc32(memoryview(self.text)[:text_bytes]) != position.crc:
            return False
        chunk = bisect_right(self.text_ends, text_bytes)
        if chunk == len(self.text_ends):
            # everything is read; what is left is the terminal event, if it is there
            reader.offset = self.frame_ends[-1] if self.frame_ends else self.started_bytes
            return True
        begin = self.text_ends[chunk - 1] if chunk else 0
        if text_bytes == begin:
            reader.offset = self.frame_ends[chunk - 1] if chunk else self.started_bytes
            return True
        if self.text[text_bytes] & 0xC0 == 0x80:
            return False  # no event of ours ever ended inside a character
        end = self.text_ends[chunk]
        rest = bytes(self.text[text_bytes:end]).decode()
        reader.prefix = token_frame(end, zlib.crc32(memoryview(self.text)[:end]), rest, chunk)
        reader.offset = self.frame_ends[chunk]
        return True

    def _admit_ahead(self) -> None:
        for reader in tuple(self.readers):
            if reader.ahead is not None and reader.ahead.text_bytes <= len(self.text):
                self._settle_ahead(reader)

    def _settle_ahead(self, reader: Reader) -> None:
        """Decide about a reader that was ahead: 1. wait; 2. its bytes are ours; 3. the task failed; 4. tell it so."""
        wanted = reader.ahead
        assert wanted is not None
        reached = wanted.text_bytes <= len(self.text)
        if reader.paused or (not reached and self.terminal is None):
            return
        reader.ahead = None
        if reached and self._seek_inside(reader, wanted):
            self.catch_up(reader)
        elif not reached and self._terminal_offset is not None:
            reader.offset = self._terminal_offset
            self.catch_up(reader)
        else:
            frame = diverged_frame(self.task_id, wanted, self.correlation_id)
            reader.sink.write(frame, as_chunk(frame))
            self._let_go(reader)
