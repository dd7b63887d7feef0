"""An incremental server-sent-events parser that does no I/O.

Follows the event-stream section of the WHATWG HTML standard: three line endings, a leading byte-order mark,
comments, several data lines, `id` without NUL, `retry` of digits only, an unfinished event dropped at the end.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """One event grew past the limit, so the stream is not one of ours."""


class SseEvent(NamedTuple):
    """One dispatched event. `last_event_id` is the newest id seen up to and including this event."""

    event: str
    data: str
    last_event_id: str
    has_own_id: bool


class SseParser:
    r"""Turn bytes, cut anywhere, into events.

    >>> parser = SseParser()
    >>> parser.feed(b"id: 2:ab\nevent: token\nda")
    []
    >>> [event.data for event in parser.feed(b"ta: hi\n\n")]
    ['hi']
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._data_bytes = 0
        self._at_start = True
        self._skip_line_feed = False
        self._event = ""
        self._data: list[str] = []
        self._has_own_id = False
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self.comments = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes and return the events that they complete.

        Errors: EventTooLarge when one event exceeds the limit.
        Cost: linear in the bytes; a long line cut into many chunks is joined once.
        """
        if self._skip_line_feed and chunk:
            self._skip_line_feed = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if not chunk:
            return []
        self._partial_bytes += len(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            self._partial.append(chunk)
            self._check_size()
            return []
        # A carriage return at the very end may be half of a pair: end the line now, forget a line feed later.
        self._skip_line_feed = chunk.endswith(b"\r")
        lines = _LINE_END.split(b"".join([*self._partial, chunk]))
        rest = lines.pop()
        self._partial = [rest] if rest else []
        events: list[SseEvent] = []
        for line in lines:
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(_BOM)
            if line:
                self._take_field(line)
            else:
                self._dispatch(events)
        self._partial_bytes = len(rest)
        self._check_size()
        return events

    def _check_size(self) -> None:
        if self._partial_bytes + self._data_bytes > self._max_event_bytes:
            raise EventTooLarge(f"one event exceeds {self._max_event_bytes} bytes")

    def _take_field(self, line: bytes) -> None:
        name, _, raw_value = line.partition(b":")
        if not name:
            self.comments += 1
            return
        value = raw_value.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(line)
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if "\0" not in value:
                self.last_event_id = value
                self._has_own_id = True
        elif name == b"retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value[:12])

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            name = self._event or "message"
            events.append(SseEvent(name, "\n".join(self._data), self.last_event_id, self._has_own_id))
        self._event = ""
        self._data = []
        self._data_bytes = 0
        self._has_own_id = False
