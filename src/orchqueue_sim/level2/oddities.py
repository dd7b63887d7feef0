"""What no client should send: requests that no pool can do, and what is no request at all."""

from __future__ import annotations

from random import Random
from typing import Any

from orchqueue_sim.level2.caller import encode

ODDITIES: tuple[dict[str, Any], ...] = (
    {"model_ref": "no-such-model"},
    {"engine": "triton"},
    {"workload": "embedding", "inputs": ["a river", "a stone"]},
    {"placement": {"mode": "pin", "pool_ids": ["nowhere"]}},
    {"sampler_profile_version": "v9"},
    {"ctx": 100_000},
    {"max_tokens": 10_000},
    {"deadline_ms": 1},
)
"""What no pool can do: unknown names, a workload that nobody serves, what cannot fit or be in time."""


def make_odd(body: dict[str, Any], rng: Random) -> dict[str, Any]:
    """Make a good request into one that no pool can do."""
    odd = rng.choice(ODDITIES)
    kept = {name: value for name, value in body.items() if "inputs" not in odd or name not in {"prompt", "messages"}}
    return kept | odd


def nonsense(tenant: str, request: bytes) -> list[bytes]:
    """List ways to say something wrong, some made from a good request."""
    head, body = request.split(b"\r\n\r\n", 1)
    return [
        b"good morning\r\n\r\n",
        request[: len(head) // 2],
        request[: len(head) + 10],
        request.replace(body, b"!" * len(body)),
        head.replace(b"Host", b"X-Padding: " + b"x" * 40_000 + b"\r\nHost") + b"\r\n\r\n" + body,
        request.replace(b"application/json", b"text/html"),
        request.replace(b"Content-Length: ", b"Content-Length: 99999"),
        encode("POST", "/v1/tasks", tenant, {"prompt": 5}),
        encode("POST", "/v1/tasks", tenant, {"max_tokens": 5}),
        encode("DELETE", "/v1/tasks", tenant),
        encode("GET", "/v1/tasks/none-such/stream", tenant),
        encode("GET", "/v1/nowhere", tenant),
    ]
