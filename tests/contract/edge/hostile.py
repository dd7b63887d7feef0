"""Hostile and clumsy requests, each with what is documented to come back. Any deployment can be provoked with them.

The table assumes no keys, the default size limits, and time limits of `header_timeout_ms`, `body_timeout_ms` and
`idle_timeout_ms` below `PATIENCE_S`.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse

PATIENCE_S = 30.0
UNKNOWN = "00000000-0000-4000-8000-00000000dead"
MIB = 1 << 20
INVALID = "INVALID_PARAMS"


@dataclass(frozen=True)
class Case:
    """One provocation. `sent`: what goes out, piece by piece. `status` None: the connection ends without an answer.

    `half_close`: the client stops sending afterwards. `drip`: the last piece is repeated for as long as it is taken.
    """

    name: str
    sent: tuple[bytes, ...]
    status: int | None
    code: str | None = INVALID
    pointers: frozenset[str] = frozenset()
    half_close: bool = False
    drip: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int | None
    headers: dict[str, str]
    body: bytes
    closed: bool


def provoke(address: tuple[str, int], case: Case) -> Reply:
    """Play a case on a connection of its own and read the first answer."""
    with socket.create_connection(address, timeout=PATIENCE_S) as wire:
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in case.sent:
                wire.sendall(piece)
            if case.half_close:
                wire.shutdown(socket.SHUT_WR)
        if case.drip:
            _drip(wire, case.sent[-1])
        return read_reply(wire, method="HEAD" if case.sent and case.sent[0].startswith(b"HEAD") else "GET")


def _drip(wire: socket.socket, piece: bytes) -> None:
    """Send a byte now and then until an answer comes; the answer's arrival is the clock."""
    wire.settimeout(0.05)
    for _ in range(int(PATIENCE_S / 0.05)):
        with suppress(TimeoutError, ConnectionResetError):
            if wire.recv(1, socket.MSG_PEEK) is not None:
                break
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.sendall(piece)
    wire.settimeout(PATIENCE_S)


def read_reply(wire: socket.socket, method: str = "GET") -> Reply:
    """Read one answer and see whether the connection ends after it."""
    response = HTTPResponse(wire, method=method)
    try:
        response.begin()
        while response.status == 100:
            response.begin()
    except (ConnectionError, ValueError, OSError):
        return Reply(None, {}, b"", closed=True)
    headers = {name.lower(): value for name, value in response.getheaders()}
    body = response.read()
    return Reply(response.status, headers, body, closed=headers.get("connection") == "close")


def judge(case: Case, reply: Reply) -> None:
    """Compare an answer with what is documented.

    Errors: AssertionError.
    """
    assert reply.status == case.status, f"{case.name}: {reply}"
    if case.status is None:
        return
    assert reply.headers.get("x-correlation-id"), f"{case.name}: no correlation id"
    for name, value in case.headers.items():
        assert reply.headers.get(name) == value, f"{case.name}: {reply.headers}"
    if case.status in (204, 200, 202) or case.sent[0].startswith(b"HEAD"):
        return
    told = json.loads(reply.body)
    assert told["correlation_id"] == reply.headers["x-correlation-id"], case.name
    if case.status in (401, 403):
        assert set(told) == {"message", "correlation_id"}, case.name
        return
    assert told["code"] == case.code, f"{case.name}: {told}"
    pointers = {fault["pointer"] for fault in told.get("faults", [])}
    assert pointers == case.pointers, f"{case.name}: {told}"


def head(
    method: str = "GET", path: str = "/v1/tasks", *lines: str, host: str = "localhost", version: str = "1.1"
) -> bytes:
    """Write a request's head."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", f"Host: {host}", *lines, "", ""]).encode()


def post(body: bytes, *lines: str, path: str = "/v1/tasks", host: str = "localhost") -> tuple[bytes, ...]:
    """Write a POST with a JSON body."""
    kind = () if any(line.lower().startswith("content-type") for line in lines) else ("Content-Type: application/json",)
    return head("POST", path, f"Content-Length: {len(body)}", *kind, *lines, host=host), body


def get(path: str, *lines: str) -> tuple[bytes, ...]:
    """Write a GET."""
    return (head("GET", path, *lines),)


def chunks(piece: bytes, count: int) -> Iterator[bytes]:
    """Repeat a piece as HTTP chunks, without the last one."""
    for _ in range(count):
        yield b"%x\r\n%b\r\n" % (len(piece), piece)


def wrong(name: str, body: bytes, *pointers: str) -> Case:
    """Name a task request whose body is at fault."""
    return Case(name, post(body), 400, pointers=frozenset(pointers))


HI = b'{"prompt":"hi"}'
TASK = f"/v1/tasks/{UNKNOWN}"

BODIES = (
    wrong("empty body", b"", ""),
    wrong("cut JSON", b'{"prompt":', ""),
    wrong("trailing garbage", HI + b" x", ""),
    wrong("two documents", HI + HI, ""),
    wrong("a list", b"[]", ""),
    wrong("null", b"null", ""),
    wrong("a bare word", b"hello", ""),
    wrong("duplicate key", b'{"prompt":"a","prompt":"b"}', "/prompt"),
    wrong("NaN", b'{"prompt":"a","sampling":{"temperature":NaN}}', "/sampling/temperature"),
    wrong("Infinity", b'{"prompt":"a","sampling":{"temperature":-Infinity}}', "/sampling/temperature"),
    wrong("broken UTF-8", b'{"prompt":"\xff\xfe"}', ""),
    wrong("overlong UTF-8", b'{"prompt":"\xc0\xaf"}', ""),
    wrong("UTF-16", '{"prompt":"a"}'.encode("utf-16"), ""),
    wrong("escaped NUL", b'{"prompt":"a\\u0000b"}', "/prompt"),
    wrong("raw NUL", b'{"prompt":"a\x00b"}', ""),
    wrong("lone surrogate", b'{"prompt":"\\ud800"}', "/prompt"),
    wrong("deep nesting", b'{"prompt":' + b"[" * 1_000 + b"]" * 1_000 + b"}", ""),
    wrong("a million values", b'{"prompt":[' + b"0," * 1_000_000 + b"0]}", ""),
    wrong("huge integer", b'{"prompt":"a","seed":1' + b"0" * 400 + b"}", "/seed"),
    wrong("integer beyond 64 bits", b'{"prompt":"a","seed":99999999999999999999}', "/seed"),
    wrong("negative seed", b'{"prompt":"a","seed":-1}', "/seed"),
    wrong("seed of 2^31", b'{"prompt":"a","seed":2147483648}', "/seed"),
    wrong("fractional seed", b'{"prompt":"a","seed":1.5}', "/seed"),
    wrong("no tokens", b'{"prompt":"a","max_tokens":0}', "/max_tokens"),
    wrong("tokens as text", b'{"prompt":"a","max_tokens":"9"}', "/max_tokens"),
    wrong("too many tokens", b'{"prompt":"a","max_tokens":1e30}', "/max_tokens"),
    wrong("nothing to do", b"{}", ""),
    wrong("two kinds of prompt", b'{"prompt":"a","messages":[{"role":"user","content":"b"}]}', ""),
    wrong("empty prompt", b'{"prompt":""}', "/prompt"),
    wrong("a number for a prompt", b'{"prompt":7}', "/prompt"),
    wrong("null for a prompt", b'{"prompt":null}', "/prompt"),
    wrong("no messages", b'{"messages":[]}', "/messages"),
    wrong("message without a role", b'{"messages":[{"content":"b"}]}', "/messages/0/role"),
    wrong("unknown role", b'{"messages":[{"role":"root","content":"b"}]}', "/messages/0/role"),
    wrong("task id that is none", b'{"prompt":"a","task_id":"../../etc"}', "/task_id"),
    wrong("session id that is none", b'{"prompt":"a","session_id":"1"}', "/session_id"),
    wrong("unknown priority", b'{"prompt":"a","priority":"urgent"}', "/priority"),
    wrong("top_p beyond 1", b'{"prompt":"a","sampling":{"top_p":1.01}}', "/sampling/top_p"),
    wrong("empty stop string", b'{"prompt":"a","sampling":{"stop":[""]}}', "/sampling/stop/0"),
    wrong("two shapes", b'{"prompt":"a","sampling":{"grammar":"x","json_schema":{}}}', "/sampling"),
    wrong("deadline in the past", b'{"prompt":"a","deadline_ms":-5}', "/deadline_ms"),
    wrong("pin to nothing", b'{"prompt":"a","placement":{"mode":"pin"}}', "/placement/pool_ids"),
    wrong(
        "many faults at once",
        b'{"prompt":"","max_tokens":0,"seed":-1,"sampling":{"top_p":2,"stop":[""]},"priority":"x"}',
        "/prompt", "/max_tokens", "/seed", "/sampling/top_p", "/sampling/stop/0", "/priority",
    ),
)  # fmt: skip

TYPES = (
    Case("plain text", post(HI, "Content-Type: text/plain"), 415, pointers=frozenset({"/header/Content-Type"})),
    Case("another charset", post(HI, "Content-Type: application/json; charset=utf-16"), 415,
         pointers=frozenset({"/header/Content-Type"})),
    Case("gzip", post(HI, "Content-Encoding: gzip"), 415, pointers=frozenset({"/header/Content-Encoding"})),
    Case("a browser's form", post(HI, "Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: none"), 415,
         pointers=frozenset({"/header/Content-Type"})),
    Case("another origin", post(HI, "Origin: https://evil.example"), 403),
    Case("an opaque origin", post(HI, "Origin: null"), 403),
    Case("another site", post(HI, "Sec-Fetch-Site: cross-site"), 403),
    Case("cancel from another origin", post(b"", "Origin: https://evil.example", path=f"{TASK}/cancel"), 403),
    Case("a foreign host name", post(HI, host="evil.example"), 403),
    Case("a look-alike host name", post(HI, host="localhost.evil.example:8080"), 403),
    Case("a wrong key", get("/v1/tasks", "Authorization: Bearer oq_x_y"), 401),
    Case("a wrong kind of credential", get("/v1/tasks", "Authorization: Basic YTpi"), 401),
)  # fmt: skip

SIZES = (
    Case("50 MB body", (head("POST", "/v1/tasks", f"Content-Length: {50 * MIB}", "Content-Type: application/json"),
                        *[b"x" * MIB] * 50), 413, pointers=frozenset({""})),
    Case("50 MB in chunks", (head("POST", "/v1/tasks", "Transfer-Encoding: chunked", "Content-Type: application/json"),
                             *chunks(b"x" * MIB, 50)), 413, pointers=frozenset({""})),
    Case("a promise of 8 EB", (head("POST", "/v1/tasks", f"Content-Length: {1 << 63}"),), 413, pointers=frozenset({""})),
    Case("a length beyond 64 bits", (head("POST", "/v1/tasks", "Content-Length: 9" + "9" * 40),), 400),
    Case("a negative length", (head("POST", "/v1/tasks", "Content-Length: -1"),), 400),
    Case("a length that is none", (head("POST", "/v1/tasks", "Content-Length: ten"),), 400),
    Case("expects to send 50 MB", (
        head("POST", "/v1/tasks", f"Content-Length: {50 * MIB}", "Expect: 100-continue"),), 413, pointers=frozenset({""})),
    Case("100 kB header", (head("GET", "/healthz", "X-A: " + "a" * 100_000),), 431),
    Case("endless header", (b"GET / HTTP/1.1\r\nX-A: ", *[b"a" * 65_536] * 16), 431),
    Case("five thousand headers", (head("GET", "/healthz", *(f"X-{n}: 1" for n in range(5000))),), 431),
    Case("endless target", (b"GET /", *[b"a" * 65_536] * 4), 431),
    Case("40 kB target", (head("GET", "/" + "a" * 40_000),), 431),
)  # fmt: skip

# These three groups are told apart for who has an edge for each: a limit that a case is not about must not be short, or a
# machine that stalls for as long gives its answer instead.
SLOW_HEADERS = (
    Case("slow headers", (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X"), 408, drip=True),
    Case("half a request line", (b"GET /hea",), 408),
    Case("half the headers", (b"GET /healthz HTTP/1.1\r\nHost: loc",), 408),
    Case("silence", (), None),
    Case("blank lines only", (b"\r\n\r\n\r\n",), None),
)  # fmt: skip

SLOW_BODIES = (
    Case("half a body", (head("POST", "/v1/tasks", "Content-Length: 99", "Content-Type: application/json"), b"{"), 408),
    Case("slow body", (head("POST", "/v1/tasks", "Content-Length: 9999", "Content-Type: application/json"), b"{"), 408,
         drip=True),
)  # fmt: skip

ENDINGS = (
    Case("gone in the headers", (b"GET /healthz HTTP/1.1\r\nHost:",), 400, half_close=True),
    Case("gone in the body", (head("POST", "/v1/tasks", "Content-Length: 99", "Content-Type: application/json"), b"{"), 400,
         half_close=True),
    Case("says no more after a whole request", get("/healthz"), 200, half_close=True),
)  # fmt: skip

PROTOCOL = (
    Case("not HTTP", (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),), 400),
    Case("a word for a request line", (b"HELLO\r\n\r\n",), 400),
    Case("the HTTP/2 preface", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",), 400),
    Case("HTTP/7.3", (head("GET", "/healthz", version="7.3"),), 400),
    Case("length and chunks", (head("POST", "/v1/tasks", "Content-Length: 4", "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
         400),
    Case("two lengths", (head("POST", "/v1/tasks", "Content-Length: 4", "Content-Length: 5"), b"{}  "), 400),
    Case("chunked twice over", (head("POST", "/v1/tasks", "Transfer-Encoding: chunked, identity"), b"0\r\n\r\n"), 400),
    Case("a chunk size that is none", (
        head("POST", "/v1/tasks", "Transfer-Encoding: chunked", "Content-Type: application/json"), b"zz\r\n"), 400),
    Case("no Host", (b"GET /healthz HTTP/1.1\r\n\r\n",), 400),
    Case("two Hosts", (head("GET", "/healthz", "Host: other"),), 400),
    Case("a space before the colon", (head("GET", "/healthz", "X-A : 1"),), 400),
    Case("a NUL in a header", (head("GET", "/healthz", "X-A: a\x00b"),), 400),
    Case("a newline alone", (b"GET /healthz HTTP/1.1\nHost: localhost\n\n",), 400),
    Case("CONNECT", (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",), 400),
    Case("BREW", (head("BREW", "/v1/tasks"),), 400),
    Case("TRACE", (head("TRACE", "/v1/tasks"),), 405, headers={"allow": "GET, POST"}),
    Case("HEAD", (head("HEAD", "/v1/tasks"),), 405, headers={"allow": "GET, POST"}),
    Case("PUT", (head("PUT", "/v1/tasks", "Content-Length: 2"), b"{}"), 405, headers={"allow": "GET, POST"}),
    Case("DELETE of a task", (head("DELETE", TASK),), 405, headers={"allow": "GET"}),
    Case("GET of a cancel", (head("GET", f"{TASK}/cancel"),), 405, headers={"allow": "POST"}),
    Case("OPTIONS of everything", (head("OPTIONS", "*"),), 404),
    Case("an offered upgrade", (head("GET", "/healthz", "Connection: Upgrade", "Upgrade: websocket"),), 200),
    Case("an absolute target", (head("GET", "http://localhost/healthz"),), 200),
)  # fmt: skip

PATHS = (
    Case("unknown path", get("/v2/tasks"), 404),
    Case("the root", get("/"), 404),
    Case("double slash", get("//v1/tasks"), 404),
    Case("dots", get("/v1/../v1/tasks"), 404),
    Case("encoded dots", get("/v1/%2e%2e/tasks"), 404),
    Case("encoded slash", get("/v1%2ftasks"), 404),
    Case("encoded NUL", get("/v1/tasks%00"), 404),
    Case("bytes that are not UTF-8", get("/v1/%ff%fe"), 404),
    Case("trailing slash", get("/v1/tasks/"), 404),
    Case("long path", get("/v1/tasks/" + "a" * 8_000), 400, pointers=frozenset({"/path/task_id"})),
    Case("a task id that is none", get("/v1/tasks/1"), 400, pointers=frozenset({"/path/task_id"})),
    Case("an encoded path for a task id", get("/v1/tasks/%2e%2e%2fetc"), 400, pointers=frozenset({"/path/task_id"})),
    Case("an unknown task", get(TASK), 404, pointers=frozenset({"/path/task_id"})),
    Case("an unknown task's stream", get(f"{TASK}/stream"), 404, pointers=frozenset({"/path/task_id"})),
    Case("cancel of an unknown task", post(b"", path=f"{TASK}/cancel"), 404, pointers=frozenset({"/path/task_id"})),
    Case("an unknown session", get(f"/v1/sessions/{UNKNOWN}"), 404, pointers=frozenset({"/path/session_id"})),
    Case("a limit that is none", get("/v1/tasks?limit=ten"), 400, pointers=frozenset({"/query/limit"})),
    Case("a limit of none", get("/v1/tasks?limit=0"), 400, pointers=frozenset({"/query/limit"})),
    Case("two limits", get("/v1/tasks?limit=1&limit=2"), 400, pointers=frozenset({"/query/limit"})),
    Case("an unknown state", get("/v1/tasks?state=lost&priority=no"), 400,
         pointers=frozenset({"/query/state", "/query/priority"})),
    Case("a foreign cursor", get("/v1/tasks?cursor=!"), 400, pointers=frozenset({"/query/cursor"})),
    Case("an event id that is none", get(f"{TASK}/stream", "Last-Event-ID: 12"), 400,
         pointers=frozenset({"/header/Last-Event-ID"})),
    Case("an unknown pool", get("/v1/pools/nowhere/health"), 404, pointers=frozenset({"/path/pool_id"})),
    Case("a pool name that is none", get("/v1/pools/%20/health"), 400, pointers=frozenset({"/path/pool_id"})),
    Case("a drain that ends before it began", post(b'{"deadline_ms":-1}', path="/v1/pools/default/drain"), 400,
         pointers=frozenset({"/deadline_ms"})),
    Case("a reload of nothing", post(b"{}", path="/v1/pools/default/reload"), 400,
         pointers=frozenset({"/new_model_ref"})),
)  # fmt: skip

CASES = (*BODIES, *TYPES, *SIZES, *SLOW_HEADERS, *SLOW_BODIES, *ENDINGS, *PROTOCOL, *PATHS)
