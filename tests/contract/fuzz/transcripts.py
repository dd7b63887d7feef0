"""What must hold of the bytes of one stream, whoever asked for it and wherever the reader began."""

from __future__ import annotations

from collections.abc import Iterator

from orchqueue.schema.contract import JsonValue
from tests.contract.provider.stream_law import stream_faults

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


def framing_faults(content: bytes) -> list[str]:
    """Tell what is wrong with the bytes themselves, which a tolerant reader would pass over."""
    try:
        list(events_of(content))
    except ValueError as error:
        return [str(error)]
    return []


def transcript_faults(content: bytes, began_at: str | None = None) -> list[str]:
    """List everything that is wrong with a stream that was read to its end.

    `began_at`: the Last-Event-ID that the reader came with, of an event of this stream.
    """
    return framing_faults(content) or stream_faults(content, began_at)
