"""Joining a new run of a task to the text that was sent already.

Req: ORCH-4010
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Followed(msgspec.Struct, frozen=True):
    """How far a new run agrees.

    Shape: `rest` is what goes beyond the text that was sent; `differs_at` the first byte that is another one.
    Units: `at_bytes` of the sent text have been computed again.
    """

    at_bytes: int
    rest: tuple[str, ...] = ()
    differs_at: int | None = None


def follow(said: bytes | bytearray, at_bytes: int, texts: Sequence[str]) -> Followed:
    """Compare what a new run says from byte `at_bytes` on with what was sent, wherever either of them was cut.

    >>> follow("né and".encode(), 0, ("n", "é a"))
    Followed(at_bytes=5, rest=(), differs_at=None)
    >>> follow("né and".encode(), 5, ("nd ", "on"))
    Followed(at_bytes=7, rest=(' ', 'on'), differs_at=None)
    >>> follow("né and".encode(), 3, (" or",)).differs_at
    4
    """
    rest: list[str] = []
    for text in texts:
        raw = text.encode()
        known = raw[: len(said) - at_bytes]
        sent = said[at_bytes : at_bytes + len(known)]
        if known != sent:
            differs = next(
                index for index, (ours, theirs) in enumerate(zip(known, sent, strict=True)) if ours != theirs
            )
            return Followed(at_bytes, (), at_bytes + differs)
        at_bytes += len(known)
        if len(known) < len(raw):
            # What was sent ends with a whole character, so what goes beyond it begins with one.
            rest.append(raw[len(known) :].decode())
    return Followed(at_bytes, tuple(rest))
