"""HTTP/1.1 responses and server-sent events without I/O: bytes in, values out, however the bytes were cut."""

from __future__ import annotations

import httptools
import msgspec

HEAD_MAX_BYTES = 64 * 1024
EVENT_MAX_BYTES = 4 * 1024 * 1024
# As numbers: looking for a byte is many times faster than looking for a string of one.
_LF, _CR = 10, 13


class WireError(Exception):
    """The peer broke the protocol or one of our bounds."""


class Head(msgspec.Struct, frozen=True):
    """Status line and headers; names in lower case, the last value of a repeated name wins."""

    status: int
    headers: dict[bytes, bytes]

    @property
    def content_type(self) -> bytes:
        """Give the media type without parameters."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event; an event without data is never dispatched."""

    data: bytes
    name: bytes = b""


class ResponseReader:
    """Parse one response; interim (1xx) heads are skipped.

    `feed` gives the body bytes that arrived; `head` and `complete` tell how far it is.

    Errors: WireError on malformed framing, on a head over its bound, and on bytes after the end.
    """

    def __init__(self, head_max_bytes: int = HEAD_MAX_BYTES) -> None:
        self.head: Head | None = None
        self.complete = False
        self._head_left_bytes = head_max_bytes
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the socket and give the body bytes in them.

        Cost: no copy where one read holds one chunk.
        """
        if self.complete:
            raise WireError("bytes after the end of the response")
        in_head = self.head is None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise WireError(f"not HTTP/1.1: {error}") from error
        if in_head:
            self._head_left_bytes -= len(data) if self.head is None else 0
            if self._head_left_bytes < 0:
                raise WireError("the response head is too long")
        body = self._body
        if not body:
            return b""
        whole = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return whole

    def feed_eof(self) -> None:
        """Learn that the peer closed.

        Errors: WireError when the response was not whole.
        """
        if self.complete:
            return
        if self.head is None:
            raise WireError("closed before a response")
        headers = self.head.headers
        if b"transfer-encoding" in headers or b"content-length" in headers:
            raise WireError("closed in the middle of a response")
        self.complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header from the parser."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Take the end of the head from the parser."""
        if self.complete:
            raise WireError("bytes after the end of the response")
        status = self._parser.get_status_code()
        if status >= 200:
            self.head = Head(status, self._headers)
        self._headers = {}

    def on_body(self, body: bytes) -> None:
        """Take body bytes from the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Take the end of the message from the parser."""
        if self.head is not None:
            self.complete = True


class SseSplitter:
    """Split a body into events: any cut, LF, CRLF or CR line ends, comments, several data lines.

    A line `error: {…}`, which some engines send, becomes the data of an event named `error`.

    Errors: WireError when one event is longer than its bound.
    Req: ORCH-4215
    """

    def __init__(self, event_max_bytes: int = EVENT_MAX_BYTES) -> None:
        self._event_max_bytes = event_max_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._name = b""
        self._held_bytes = 0
        self._skip_lf = False

    def feed(self, body: bytes) -> list[SseEvent]:
        """Take body bytes and give the events that became whole.

        Cost: one split for a read that holds whole single-line events with LF, as engines send them.
        """
        if not (self._rest or self._data or self._name or self._skip_lf) and body[-2:] == b"\n\n" and _CR not in body:
            # Some servers put a space behind the colon and some none; one does it always the same way.
            lead = b"data: " if body[:6] == b"data: " else b"data:"
            data = body[len(lead) : -2]
            if body[:5] == b"data:" and _LF not in data:
                return [SseEvent(data)]
            blocks = body[:-2].split(b"\n\n")
            if all(_is_plain(block, lead) for block in blocks):
                return [SseEvent(block[len(lead) :]) for block in blocks]
        return self._feed_lines(body)

    def _feed_lines(self, body: bytes) -> list[SseEvent]:
        if self._skip_lf and body:
            self._skip_lf = False
            if body.startswith(b"\n"):
                body = body[1:]
        text = self._rest + body
        self._skip_lf = text.endswith(b"\r")
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()
        events: list[SseEvent] = []
        for line in lines:
            self._take_line(line, events)
        if self._held_bytes + len(self._rest) > self._event_max_bytes:
            raise WireError(f"an event is longer than {self._event_max_bytes} bytes")
        return events

    def _take_line(self, line: bytes, events: list[SseEvent]) -> None:
        if not line:
            if self._data:
                events.append(SseEvent(b"\n".join(self._data), self._name))
            self._data = []
            self._name = b""
            self._held_bytes = 0
            return
        field, colon, value = line.partition(b":")
        if not field and colon:
            return
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            self._data.append(value)
        elif field == b"error":
            self._data.append(value)
            self._name = b"error"
        elif field == b"event":
            self._name = value
        self._held_bytes += len(line)


def _is_plain(block: bytes, lead: bytes) -> bool:
    return block.startswith(lead) and b"\n" not in block and (lead[-1:] == b" " or block[5:6] != b" ")
