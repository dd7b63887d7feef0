"""Where a reader stands in a task's text, and the proof that what it holds is the server's text."""

from __future__ import annotations

import re
import zlib
from hashlib import sha256
from typing import Final

import msgspec

from orchqueue.client.errors import ReceiptMismatch, StreamMismatch

_FORM: Final = re.compile(r"(0|[1-9][0-9]{0,15}):([0-9a-f]{8})(:end)?")


class Position(msgspec.Struct, frozen=True):
    """A point in a task's text.

    Units: `text_bytes` counts UTF-8 bytes up to here; `crc32` is the checksum of exactly those bytes.

    >>> str(Position(2, 0xAB))
    '2:000000ab'
    """

    text_bytes: int = 0
    crc32: int = 0
    ended: bool = False

    @classmethod
    def parse(cls, event_id: str) -> Position:
        """Read an SSE id of the form `<bytes>:<crc32>` or `<bytes>:<crc32>:end`.

        Errors: ValueError when it has another form.
        """
        match = _FORM.fullmatch(event_id)
        if match is None:
            raise ValueError(f"not a stream position: {event_id[:40]!r}; the form is BYTES:CRC32, as in 42:1c291ca3")
        return cls(int(match[1]), int(match[2], 16), match[3] is not None)

    def __str__(self) -> str:
        return f"{self.text_bytes}:{self.crc32:08x}{':end' if self.ended else ''}"


class Transcript:
    """The text received so far, compared with every id that arrives.

    A piece that overlaps what is already here is checked and only its new part is kept, so a server or a proxy
    that starts over does no harm; a hole or different bytes are never passed on.

    Shape: `begin` is where this reader started; text before it is known by checksum only.
    Req: ORCH-4039
    """

    def __init__(self, begin: Position | None = None) -> None:
        self._begin_bytes = begin.text_bytes if begin else 0
        self._crc32 = begin.crc32 if begin else 0
        self._received = bytearray()
        self._sha256 = sha256()

    @property
    def position(self) -> Position:
        """Tell where the text stands now."""
        return Position(self._begin_bytes + len(self._received), self._crc32)

    @property
    def text(self) -> str:
        """Return everything received, without what lies before `begin`."""
        return self._received.decode()

    @property
    def is_whole(self) -> bool:
        """Tell whether the text is known from its first byte."""
        return self._begin_bytes == 0

    def append(self, text: str, end: Position) -> str:
        """Add a piece that ends at `end` and return its new part, empty when all of it was known.

        Errors: StreamMismatch on a hole, on different bytes, or when the checksum of the id is not ours.
        """
        piece = text.encode()
        have = self._begin_bytes + len(self._received)
        piece_begin = end.text_bytes - len(piece)
        if piece_begin < 0 or piece_begin > have:
            raise StreamMismatch(f"the stream jumped from byte {have} to byte {piece_begin}")
        known = piece[: have - piece_begin]
        if known:
            self._check_known(known, piece_begin)
        fresh = piece[have - piece_begin :]
        if not fresh:
            return ""
        try:
            fresh_text = fresh.decode()
        except UnicodeDecodeError:
            raise StreamMismatch(f"the stream was cut inside a character at byte {have}") from None
        crc32 = zlib.crc32(fresh, self._crc32)
        if crc32 != end.crc32:
            raise StreamMismatch(
                f"after byte {end.text_bytes} the server's checksum is {end.crc32:08x}, ours is {crc32:08x}"
            )
        self._received += fresh
        self._sha256.update(fresh)
        self._crc32 = crc32
        return fresh_text

    def check_end(self, end: Position, digest: str) -> None:
        """Compare the whole text with the terminal id and the receipt.

        Errors: StreamMismatch when text is missing or differs; ReceiptMismatch when the digest is another text's.
        Req: ORCH-4229
        """
        here = self.position
        if (end.text_bytes, end.crc32) != (here.text_bytes, here.crc32):
            raise StreamMismatch(f"the stream ended at {end}, but what arrived ends at {here}")
        if self.is_whole and self._sha256.hexdigest() != digest:
            raise ReceiptMismatch(f"the receipt's digest is {digest}, the text's is {self._sha256.hexdigest()}")

    def _check_known(self, known: bytes, piece_begin: int) -> None:
        # What lies before `begin` was never here, so only the rest can be compared.
        offset = piece_begin - self._begin_bytes
        if offset < 0:
            known, offset = known[-offset:], 0
        if self._received[offset : offset + len(known)] != known:
            raise StreamMismatch(f"the server repeated bytes from {piece_begin} on, but they are not the same")
