"""What must hold of a whole stream beyond the schema of each event: order, positions, one end.

Req: ORCH-2002, ORCH-4234
"""

from __future__ import annotations

import zlib
from hashlib import sha256

from orchqueue.client.sse import SseEvent, SseParser
from orchqueue.schema.contract import JsonValue
from orchqueue.schema.validation import decode_json
from tests.contract.openapi.checks import event_faults

TERMINAL = ("end", "error")


def stream_faults(body: bytes, after: str | None = None) -> list[str]:
    """Read a stream that was read to its end and name all that is wrong with it.

    `after` is the `Last-Event-ID` that the reader came with; without it the stream must begin at its start.
    """
    events = SseParser().feed(body)
    found = [f"event {index} ({event.event}): {fault}" for index, event in enumerate(events) for fault in _own(event)]
    if found:
        return found  # what is no event of ours says nothing about the order either
    return [
        *_ending_faults(events, body),
        *_order_faults(events, resumed=after is not None),
        *_text_faults(events, after),
    ]


def as_item(event: SseEvent) -> dict[str, JsonValue]:
    """Form the event as the contract's item schema sees it."""
    item: dict[str, JsonValue] = {"event": event.event, "data": event.data}
    return {**item, "id": event.last_event_id} if event.has_own_id else item


def _own(event: SseEvent) -> list[str]:
    return [str(fault) for fault in event_faults(as_item(event))]


def _data(event: SseEvent) -> dict[str, JsonValue]:
    value, _ = decode_json(event.data.encode())
    assert isinstance(value, dict)
    return value


def _ending_faults(events: list[SseEvent], body: bytes) -> list[str]:
    ends = [index for index, event in enumerate(events) if event.event in TERMINAL]
    if not ends:
        return ["the stream has no terminal event"]
    found = [] if len(ends) == 1 else [f"the stream has {len(ends)} terminal events"]
    last = body.rstrip(b"\n").rpartition(b"\n\n")[2]
    if ends[0] != len(events) - 1 or not any(b"event: " + kind.encode() in last for kind in TERMINAL):
        found.append("something follows the terminal event")
    if not body.endswith(b"\n\n"):
        found.append("the last event is not finished")
    return found


def _order_faults(events: list[SseEvent], *, resumed: bool) -> list[str]:
    kinds = [event.event for event in events]
    found = []
    if kinds.count("started") > (0 if resumed else 1):
        found.append(f"started comes {kinds.count('started')} times" + (" to a reader who had it" if resumed else ""))
    if "token" in kinds and not resumed and "started" not in kinds[: kinds.index("token")]:
        found.append("a token comes before started")
    indexes = [_data(event)["i"] for event in events if event.event == "token"]
    if indexes:
        first = indexes[0]
        assert isinstance(first, int)
        if not resumed and first != 0:
            found.append(f"the first token has i {first}")
        if indexes != list(range(first, first + len(indexes))):
            found.append(f"the tokens' i has a gap: {indexes}")
    return found


def _failed_before(event: SseEvent, text_bytes: int) -> bool:
    """Tell whether a task failed short of where the reader says it stands: how it failed is true for that reader too."""
    return event.event == "error" and int(str(event.last_event_id).split(":")[0]) < text_bytes


def _text_faults(events: list[SseEvent], after: str | None) -> list[str]:
    """Follow the positions: bytes and crc32 of the text up to and including each event."""
    text_bytes, crc = (int(after.split(":")[0]), int(after.split(":")[1], 16)) if after else (0, 0)
    text = b""
    found = []
    for event in events:
        data = _data(event)
        if event.event == "token":
            piece = str(data["t"]).encode()
            text += piece
            text_bytes, crc = text_bytes + len(piece), zlib.crc32(piece, crc)
        if event.event == "metrics":
            continue
        position = f"{text_bytes}:{crc:08x}" + (":end" if event.event in TERMINAL else "")
        if event.last_event_id != position and not (after and not text and _failed_before(event, text_bytes)):
            found.append(f"{event.event} has the id {event.last_event_id}, its position is {position}")
        receipt = data.get("receipt")
        if after is None and isinstance(receipt, dict) and receipt["digest"] != sha256(text).hexdigest():
            found.append("the receipt's digest is not that of the text")
        if event.event == "end" and data["canceled"] is not (data["finish_reason"] == "canceled"):
            found.append("canceled and finish_reason contradict each other")
    return found
