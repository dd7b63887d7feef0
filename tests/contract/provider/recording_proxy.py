"""A small proxy between the Pact verifier and the daemon: it records what was really said, and may be told to lie."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Headers = tuple[tuple[str, str], ...]
# They speak of one connection only, and the proxy has two.
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ANSWER_TIMEOUT_S = 30.0


def values_of(headers: Headers, name: str) -> list[str]:
    """List the values of a header, in any case."""
    return [value for known, value in headers if known.lower() == name.lower()]


@dataclass(frozen=True)
class Answer:
    """What the daemon answered. `whole` is false when the connection broke, or fell silent, before its end."""

    status: int
    headers: Headers
    body: bytes
    whole: bool = True


@dataclass(frozen=True)
class Exchange:
    """One request as it came from the verifier, and its answer. `target` is path and query."""

    method: str
    target: str
    headers: Headers
    answer: Answer


@dataclass
class RecordingProxy:
    """Forwards everything to `target_url`.

    `keys` maps credentials that the pact names to real ones; `default_key` goes with requests that show none; `heard` is
    told each piece of a body as it comes; `doctor` changes answers on their way, as a daemon that breaks the contract would
    give them.
    """

    target_url: str = ""
    default_key: str | None = None
    keys: dict[str, str] = field(default_factory=dict)
    heard: Callable[[bytes], None] | None = None
    doctor: Callable[[Answer], Answer] | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    url: str = ""

    def forward(self, method: str, target: str, headers: Headers, body: bytes) -> Answer:
        """Ask the daemon and record what it answered."""
        answer = _ask(self.target_url, method, target, self._with_real_key(headers), body, self.heard)
        if self.doctor is not None:
            answer = self.doctor(answer)
        self.exchanges.append(Exchange(method, target, headers, answer))
        return answer

    def _with_real_key(self, headers: Headers) -> Headers:
        """Put the credential in place that exists: keys are random, so a pact can only name stand-ins.

        Every interaction is played by a tenant of its own, which is what keeps their tasks apart in one daemon.
        """
        if not values_of(headers, "authorization"):
            return headers if self.default_key is None else (*headers, ("authorization", f"Bearer {self.default_key}"))
        return tuple((name, self._real(value) if name.lower() == "authorization" else value) for name, value in headers)

    def _real(self, credential: str) -> str:
        token = credential.removeprefix("Bearer ")
        return f"Bearer {self.keys.get(token, token)}"


def _ask(
    url: str, method: str, target: str, headers: Headers, body: bytes, heard: Callable[[bytes], None] | None
) -> Answer:
    parts = urlsplit(url)
    assert parts.hostname is not None, f"no daemon to ask: {url!r}"
    connection = HTTPConnection(parts.hostname, parts.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        if body:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        pieces: list[bytes] = []
        whole = True
        try:
            while piece := response.read1(65_536):
                pieces.append(piece)
                if heard is not None:
                    heard(piece)
        except (OSError, HTTPException):
            whole = False
        return Answer(response.status, tuple(response.getheaders()), b"".join(pieces), whole)
    finally:
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(self) -> None:
        """Forward one request."""
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        answer = self.server.proxy.forward(self.command, self.path, tuple(self.headers.items()), body)
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing: what was exchanged is recorded."""


for _method in METHODS:
    setattr(_Handler, f"do_{_method}", _Handler.answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: RecordingProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy


@contextmanager
def in_background(server: ThreadingHTTPServer) -> Iterator[None]:
    """Have a server serve in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(10)


@contextmanager
def running_proxy() -> Iterator[RecordingProxy]:
    """Run a proxy on a free port."""
    proxy = RecordingProxy()
    with _Server(proxy) as server, in_background(server):
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield proxy
