"""What must hold of the bytes of one stream, whoever asked for it and wherever the reader began."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from hashlib import sha256

from orchqueue.schema.contract import JsonValue
from tests.contract.openapi.checks import event_faults

START = "0:00000000"
TERMINAL = ("end", "error")
COMMENT = ": "

Event = dict[str, JsonValue]


def events_of(content: bytes) -> Iterator[Event]:
    """Cut a stream into its events, comments left out.

    Shape: {event, id where it has one, data}.
    Errors: ValueError for bytes that are not framed as the contract says.
    """
    text = content.decode()
    if text and not text.endswith("\n\n"):
        raise ValueError(f"the stream ends inside an event: {text[-80:]!r}")
    for block in text.split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(COMMENT)]
        event: Event = {}
        for line in lines:
            name, colon, value = line.partition(": ")
            if not colon or name not in ("id", "event", "data") or name in event:
                raise ValueError(f"a line that no event has: {line!r}")
            event[name] = value
        if event:
            yield event


def transcript_faults(content: bytes, began_at: str | None = None) -> list[str]:
    """List everything that is wrong with a stream that was read to its end.

    `began_at`: the Last-Event-ID that the reader came with, of an event of this stream.
    """
    try:
        events = list(events_of(content))
    except ValueError as error:
        return [str(error)]
    faults = [f"{event}: {fault.pointer} {fault.message}" for event in events for fault in event_faults(dict(event))]
    if faults:
        return faults
    kinds = [str(event["event"]) for event in events]
    ends = [index for index, kind in enumerate(kinds) if kind in TERMINAL]
    if len(ends) != 1:
        return [f"{len(ends)} terminal events instead of one: {kinds[-5:]}"]
    if ends[0] != len(kinds) - 1:
        return [f"{kinds[ends[0] + 1 :]} after the terminal event"]
    return [*_order_faults(kinds, resumed=began_at is not None), *_text_faults(events, began_at)]


def _order_faults(kinds: list[str], *, resumed: bool) -> Iterator[str]:
    started = [index for index, kind in enumerate(kinds) if kind == "started"]
    tokens = [index for index, kind in enumerate(kinds) if kind == "token"]
    if len(started) > 1:
        yield "started came twice"
    if tokens and not resumed and (not started or started[0] > tokens[0]):
        yield "a token came before started"


def _text_faults(events: list[Event], began_at: str | None) -> Iterator[str]:
    """Compare positions and digest with the text; what a resumed reader had before is known by its length and crc only."""
    length, crc = _position(began_at or START)
    text = b""
    index: int | None = 0 if began_at is None else None
    for event in events:
        data = json.loads(str(event["data"]))
        if event["event"] == "token":
            piece = str(data["t"]).encode()
            text += piece
            length, crc = length + len(piece), zlib.crc32(piece, crc)
            if event["id"] != f"{length}:{crc:08x}":
                yield f"id {event['id']} where the text so far makes {length}:{crc:08x}"
            if index is not None and data["i"] != index:
                yield f"token {data['i']} where {index} was due"
            index = int(data["i"]) + 1
        elif event["event"] in TERMINAL and event["id"] != f"{length}:{crc:08x}:end":
            yield f"the terminal id is {event['id']} where the text makes {length}:{crc:08x}:end"
        if event["event"] == "end" and began_at is None and data["receipt"]["digest"] != sha256(text).hexdigest():
            yield "the receipt's digest is not that of the text"


def _position(event_id: str) -> tuple[int, int]:
    length, crc = event_id.split(":")[:2]
    return int(length), int(crc, 16)
