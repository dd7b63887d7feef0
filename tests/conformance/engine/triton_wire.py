"""What a real tritonserver answered, byte for byte, and the requests that it answered.

`python -m tests.conformance.engine.triton_wire URL METRICS_URL` records again, from `python -m tools.triton_serve`. Two more were taken
by hand: `stream_fails_midway`, its llama.cpp killed, and `stream_model_died`, its Python stub killed.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

RECORDED = Path(__file__).parent / "recorded" / "triton"
READ_TIMEOUT_S = 30.0


class Exchange(NamedTuple):
    """One request; a body is sent as it is."""

    method: str
    path: str
    body: bytes = b""
    metrics: bool = False


def asking(**fields: object) -> bytes:
    """Make the body of a request that the models understand."""
    return json.dumps({"text_input": "Once upon a time", "max_tokens": 4, "stream": True, **fields}).encode()


FULL: dict[str, object] = {
    "temperature": 0.7, "top_k": 40, "top_p": 0.95, "random_seed": 7, "end_id": -1, "exclude_input_in_output": True,
    "return_num_input_tokens": True, "return_num_output_tokens": True,
}  # fmt: skip
BLS = "/v2/models/tensorrt_llm_bls"
ENSEMBLE = "/v2/models/ensemble"
EXCHANGES = {
    "live": Exchange("GET", "/v2/health/live"),
    "ready": Exchange("GET", "/v2/health/ready"),
    "server": Exchange("GET", "/v2"),
    "model": Exchange("GET", BLS),
    "model_ready": Exchange("GET", f"{BLS}/ready"),
    "model_unknown_ready": Exchange("GET", "/v2/models/nope/ready"),
    "config": Exchange("GET", f"{BLS}/config"),
    "config_ensemble": Exchange("GET", f"{ENSEMBLE}/config"),
    "config_unknown": Exchange("GET", "/v2/models/nope/config"),
    "stats": Exchange("GET", f"{BLS}/stats"),
    "index": Exchange("POST", "/v2/repository/index"),
    "stream": Exchange("POST", f"{BLS}/generate_stream", asking(**FULL)),
    "stream_ensemble": Exchange("POST", f"{ENSEMBLE}/generate_stream", asking(**FULL)),
    "stream_uncounted": Exchange("POST", f"{BLS}/generate_stream", asking(random_seed=7)),
    "stream_undeclared_field": Exchange("POST", f"{BLS}/generate_stream", asking(**FULL, no_such_field=1)),
    "stream_model_refuses": Exchange("POST", f"{BLS}/generate_stream", asking(max_tokens=0)),
    "stream_unknown_model": Exchange("POST", "/v2/models/nope/generate_stream", asking()),
    "stream_missing_input": Exchange("POST", f"{BLS}/generate_stream", b'{"text_input":"x"}'),
    "stream_wrong_type": Exchange("POST", f"{BLS}/generate_stream", asking(max_tokens="many")),
    "stream_no_json": Exchange("POST", f"{BLS}/generate_stream", b"nojson"),
    "generate_several": Exchange("POST", f"{BLS}/generate", asking(**FULL)),
    "not_found": Exchange("GET", "/metrics"),
    "metrics": Exchange("GET", "/metrics", metrics=True),
}


def exchange(url: str, what: Exchange) -> bytes:
    """Send one request and give all bytes of its answer."""
    parts = urlsplit(url)
    head = f"{what.method} {what.path} HTTP/1.1\r\nHost: triton\r\nConnection: close\r\nContent-Length: {len(what.body)}\r\n\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=READ_TIMEOUT_S) as connection:
        connection.sendall(head.encode() + what.body)
        answer = b""
        while read := connection.recv(65536):
            answer += read
    return answer


def recorded(name: str) -> bytes:
    """Read one recording."""
    return (RECORDED / f"{name}.http").read_bytes()


class Parsed(NamedTuple):
    """An answer, taken apart."""

    status: int
    content_type: str
    chunked: bool
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """Give the events of a stream."""
        return [json.loads(line[6:]) for line in self.body.split(b"\n") if line.startswith(b"data: ")]


def parse(answer: bytes) -> Parsed:
    """Take an answer apart."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    chunked = headers.get("transfer-encoding") == "chunked"
    body = b""
    while chunked and rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return Parsed(int(first.split(" ")[1]), headers.get("content-type", ""), chunked, body if chunked else rest)


def main(url: str, metrics_url: str) -> None:
    """Record every exchange."""
    RECORDED.mkdir(parents=True, exist_ok=True)
    for name, what in EXCHANGES.items():
        answer = exchange(metrics_url if what.metrics else url, what)
        (RECORDED / f"{name}.http").write_bytes(answer)
        sys.stdout.write(f"{name}: {len(answer)} bytes\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
