"""A deployment that answers as an honest one would, but for the one thing that a test plants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from orchqueue.client import AsyncClient
from orchqueue.verify.haiku import Clock, Haiku, Plan, write_haiku
from orchqueue.verify.haiku_modes import MODES
from tests.unit.client.scripted_server import (
    Asked,
    Reply,
    admission,
    envelope,
    frame,
    json_reply,
    position_of,
    serving,
    stream_reply,
)

VERSION = "xllamacpp-2026.10"
DIGEST = "ab" * 32


def wished(asked: dict[str, Any]) -> tuple[str, str]:
    """Read the minute's words and the nonce out of a request of mode `plain`."""
    words = asked["messages"][-1]["content"].partition("the words ")[2].partition(", spelled")[0]
    minute, _, nonce = words.partition(" and ")
    return minute, nonce


def honest(asked: dict[str, Any]) -> str:
    """Write what was wished for."""
    minute, nonce = wished(asked)
    return f"The bell has struck {minute},\nsomebody answers {nonce},\nthen the snow is still."


@dataclass
class Deployment:
    """What it says; each field is one promise that a test may break."""

    write: Callable[[dict[str, Any]], str] = honest
    tokens_out: int = 20
    counts: int = 20
    digest: str | None = None
    attempts: int = 1
    seed: int | None = None
    started_version: str = VERSION
    receipt_version: str = VERSION
    capabilities_version: str = VERSION
    started_model: str = DIGEST
    health_model: str = DIGEST
    metrics_status: int = 200
    fails: bool = False
    silent: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    canceled: int = 0
    counter: int = 1000

    def answer(self, asked: Asked) -> Reply:
        """Answer one call."""
        path = asked.target.partition("?")[0]
        if path == "/metrics":
            return self._metrics()
        if path == "/v1/capabilities":
            return json_reply(200, _capabilities(self.capabilities_version))
        if path == "/v1/pools/default/health":
            return json_reply(200, _health(self.health_model))
        if path.endswith("/cancel"):
            self.canceled += 1
            return Reply(204)
        if asked.method == "POST":
            self.requests.append(asked.json)
            return json_reply(202, admission(str(asked.json["task_id"])))
        return stream_reply(ending="silence") if self.silent else stream_reply(self._stream())

    def _metrics(self) -> Reply:
        if self.metrics_status != 200:
            return json_reply(self.metrics_status, {"message": "not allowed", "correlation_id": "c"})
        labels = f'engine="llamacpp",engine_version="{self.receipt_version}",pool_id="default"'
        text = (
            f'# TYPE tokens_out_total counter\ntokens_out_total{{{labels},replica_id="default-0"}} {self.counter}.0\n'
            f'tokens_out_total{{{labels},replica_id="default-1"}} {7 * self.counter}.0\n'
        )
        return Reply(200, {"content-type": "text/plain; version=0.0.4"}, text.encode())

    def _stream(self) -> bytes:
        self.counter += self.counts
        request = self.requests[-1]
        text, seed = self.write(request), self.seed or request["seed"]
        started = {
            "queue_position": 0,
            "predicted_start_ms": 0,
            "seed": seed,
            "pool_id": "default",
            "replica_id": "default-0",
            "engine_version": self.started_version,
            "model_digest": self.started_model,
            "determinism": "strict",
            "queue_time_ms": 1,
        }
        out = frame("started", started, position_of(""))
        if self.fails:
            return out + frame("error", envelope("WORKER_RESET", "the engine was lost"), f"{position_of('')}:end")
        out += frame("token", {"t": text, "i": 0}, position_of(text)) if text else b""
        return out + frame("end", self._end(text, seed), f"{position_of(text)}:end")

    def _end(self, text: str, seed: int) -> dict[str, object]:
        receipt = {
            "digest": self.digest or sha256(text.encode()).hexdigest(),
            "seed": seed,
            "params_digest": "0" * 64,
            "sampler_profile_version": "v1",
            "engine": "llamacpp",
            "engine_version": self.receipt_version,
            "model_digest": DIGEST,
            "attempts": self.attempts,
            "durable": True,
        }
        end = {"tokens_out": self.tokens_out, "decode_ms": 9, "finish_reason": "stop", "canceled": False}
        return {**end, "receipt": receipt}


def _capabilities(version: str) -> dict[str, object]:
    pool = {
        "id": "default",
        "engine": "llamacpp",
        "model": "bundled:m",
        "engine_version": version,
        "ctx_tokens_max": 2048,
        "slots": 1,
        "workloads": ["completion"],
        "determinism": "strict",
        "prompt_form": "chat",
        "sampler_profile_versions": ["v1"],
        "limits": {"max_tokens": 2048, "queue_capacity": 256},
    }
    limits = {"body_bytes_max": 8388608, "header_bytes_max": 32768, "readers_per_task_max": 64}
    return {"api_version": "v1", "version": "0.1.0", "limits": limits, "pools": [pool]}


def _health(digest: str) -> dict[str, object]:
    replica = {
        "replica_id": "default-0",
        "state": "ready",
        "slots_total": 1,
        "slots_free": 0,
        "restarts": 0,
        "last_error": None,
        "model_digest": digest,
    }
    return {
        "id": "default",
        "live": True,
        "ready": True,
        "draining": False,
        "mode": "serving",
        "last_error": None,
        "model": "bundled:m",
        "allow_cpu": True,
        "metrics": {"queue_depth": 0, "tasks_running": 1},
        "replicas": [replica],
    }


@contextlib.asynccontextmanager
async def deployed(deployment: Deployment) -> AsyncIterator[str]:
    """Serve it; yields its address."""
    async with serving(deployment.answer) as server:
        yield server.url
        await asyncio.sleep(0)


async def verified(
    deployment: Deployment,
    checkout: Path,
    clock: Clock = lambda: 42,
    *,
    limit_s: float = 20.0,
    reads_control: bool = True,
) -> Haiku:
    """Ask it for one poem in one sentence, so that what is planted decides alone."""
    plan = Plan(MODES["plain"], limit_s=limit_s, reads_control=reads_control, checkout=checkout)
    async with deployed(deployment) as url, AsyncClient(url) as client:
        return await write_haiku(client, plan, clock)
