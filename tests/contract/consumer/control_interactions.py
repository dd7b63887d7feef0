"""What the client asks of the control plane."""

from __future__ import annotations

from pact import match

from orchqueue.client import AsyncClient
from orchqueue.client.errors import Forbidden, NotFound, Unavailable
from tests.contract.consumer import shapes
from tests.contract.consumer.recording import Interaction, failing
from tests.contract.consumer.shapes import BACKOFF, CORRELATION, NAME, POOL_ID, one_of

_READY: dict[str, dict[str, object]] = {"a ready pool": {}}
_POOL = f"/v1/pools/{POOL_ID}"
_JSON = {"Content-Type": "application/json"}
_COUNT = match.integer(1)
_MODEL = match.like("bundled:smollm2-135m-instruct-q4_1")
_ENGINE = match.like("llamacpp")
_POOL_NAME = match.regex(POOL_ID, regex=f"^{NAME}$")


async def _pools(client: AsyncClient) -> None:
    [pool] = await client.pools()
    assert (pool.id, pool.ready, pool.queue_depth.batch) == (POOL_ID, True, 1)


async def _health(client: AsyncClient) -> None:
    health = await client.pool_health(POOL_ID)
    assert health.replicas[0].state == "ready"
    assert health.last_error is None


async def _unknown(client: AsyncClient) -> None:
    await failing(client.pool_health("nowhere"), NotFound, "INVALID_PARAMS")


async def _drain(client: AsyncClient) -> None:
    begun = await client.drain(POOL_ID, 5000)
    assert (begun.operation, begun.pool_id) == ("drain", POOL_ID)


async def _drain_denied(client: AsyncClient) -> None:
    await failing(client.drain(POOL_ID, 5000), Forbidden, None)


async def _capabilities(client: AsyncClient) -> None:
    capabilities = await client.capabilities()
    assert (capabilities.api_version, capabilities.pools[0].workloads) == ("v1", ["completion"])


async def _models(client: AsyncClient) -> None:
    [model] = await client.models()
    assert model.pool_ids == [POOL_ID]


async def _replica_sets(client: AsyncClient) -> None:
    [one] = await client.replica_sets()
    assert one.pool_ids == [POOL_ID]


async def _lives(client: AsyncClient) -> None:
    assert (await client.healthz()).status == "ok"


async def _ready(client: AsyncClient) -> None:
    assert (await client.readyz()).pools_ready == 1


async def _not_ready(client: AsyncClient) -> None:
    await failing(client.readyz(), Unavailable, "POOL_UNREADY")


def _pool_info() -> dict[str, object]:
    return {
        "id": POOL_ID,
        "engine": _ENGINE,
        "model": _MODEL,
        "ready": True,
        "draining": False,
        "mode": "serving",
        "allow_cpu": match.boolean(True),
        "ctx_tokens": match.integer(2048),
        "determinism": one_of("strict", "best_effort"),
        "sampler_profile_version": match.like("v1"),
        "replicas_total": match.integer(2),
        "replicas_ready": match.integer(2),
        "slots_total": match.integer(2),
        "slots_free": match.integer(0),
        "queue_depth": {"interactive": match.integer(3), "batch": match.integer(1)},
        "queue_capacity": match.integer(256),
    }


def _pool_health() -> dict[str, object]:
    return {
        "id": POOL_ID,
        "live": True,
        "ready": True,
        "draining": False,
        "mode": "serving",
        "last_error": None,
        "model": _MODEL,
        "allow_cpu": match.boolean(True),
        "metrics": {"queue_depth": match.integer(4), "tasks_running": match.integer(2)},
        "replicas": match.each_like(
            {
                "replica_id": match.regex("default-0", regex=f"^{NAME}$"),
                "state": one_of("ready", "down", "starting", "suspect", "stopping", "backoff", "broken"),
                "slots_total": _COUNT,
                "slots_free": match.integer(0),
                "restarts": match.integer(0),
                "last_error": None,
            },
            min=1,
        ),
    }


def _capabilities_body() -> dict[str, object]:
    return {
        "api_version": "v1",
        "version": match.like("0.1.0"),
        "limits": {
            "body_bytes_max": match.integer(8388608),
            "header_bytes_max": match.integer(32768),
            "readers_per_task_max": match.integer(16),
        },
        "pools": match.each_like(
            {
                "id": _POOL_NAME,
                "engine": _ENGINE,
                "model": _MODEL,
                "engine_version": match.like("xllamacpp-2026.10.1"),
                "ctx_tokens_max": match.integer(2048),
                "slots": match.integer(2),
                "workloads": match.each_like(one_of("completion", "embedding", "rerank"), min=1),
                "determinism": one_of("strict", "best_effort"),
                "prompt_form": one_of("raw", "chat"),
                "sampler_profile_versions": match.each_like(match.like("v1"), min=1),
                "limits": {"max_tokens": match.integer(2048), "queue_capacity": match.integer(256)},
            },
            min=1,
        ),
    }


def _replica_set() -> dict[str, object]:
    return {
        "id": match.like("5d41402abc4b2a76"),
        "engine": _ENGINE,
        "model": _MODEL,
        "ctx_tokens": match.integer(2048),
        "engine_version": match.like("xllamacpp-2026.10.1"),
        "sampler_profile_version": match.like("v1"),
        "pool_ids": match.each_like(_POOL_NAME, min=1),
        "replica_ids": match.each_like(match.regex("default-0", regex=f"^{NAME}$"), min=1),
        "load": match.number(0.5),
        "queue_depth": match.integer(0),
        "slots_total": match.integer(2),
        "slots_free": match.integer(1),
        "slo": [],
    }


POOLS = (
    Interaction(
        "the pools", _READY, "GET", "/v1/pools", 200, _pools, headers=CORRELATION, body={"pools": [_pool_info()]}
    ),
    Interaction(
        "the health of a pool", _READY, "GET", f"{_POOL}/health", 200, _health, headers=CORRELATION, body=_pool_health()
    ),
    Interaction(
        "the health of an unknown pool",
        _READY,
        "GET",
        "/v1/pools/nowhere/health",
        404,
        _unknown,
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "no such pool", retriable=False),
    ),
    Interaction(
        "the drain of a pool",
        _READY,
        "POST",
        f"{_POOL}/drain",
        202,
        _drain,
        request_headers=_JSON,
        request_body={"deadline_ms": 5000},
        headers=CORRELATION,
        body={"pool_id": POOL_ID, "operation": "drain", "links": {"health": f"{_POOL}/health"}},
    ),
    Interaction(
        "the drain of a pool with a key that has only the tasks scope",
        {"a key": {"key": "pact-tasks-key", "scopes": ["tasks"]}},
        "POST",
        f"{_POOL}/drain",
        403,
        _drain_denied,
        request_headers={**_JSON, "Authorization": "Bearer pact-tasks-key"},
        request_body={"deadline_ms": 5000},
        api_key="pact-tasks-key",
        headers=CORRELATION,
        body={"message": match.like("not allowed"), "correlation_id": match.like("c-1")},
    ),
)

OVERVIEWS = (
    Interaction(
        "what the deployment can do",
        _READY,
        "GET",
        "/v1/capabilities",
        200,
        _capabilities,
        headers=CORRELATION,
        body=_capabilities_body(),
    ),
    Interaction(
        "the models",
        _READY,
        "GET",
        "/v1/models",
        200,
        _models,
        headers=CORRELATION,
        body={
            "models": [
                {"ref": _MODEL, "digest": match.like("sha256:ab"), "pool_ids": match.each_like(_POOL_NAME, min=1)}
            ]
        },
    ),
    Interaction(
        "the replica sets",
        _READY,
        "GET",
        "/v1/replicasets",
        200,
        _replica_sets,
        headers=CORRELATION,
        body={"replica_sets": match.each_like(_replica_set(), min=1)},
    ),
    Interaction(
        "whether the daemon lives", _READY, "GET", "/healthz", 200, _lives, headers=CORRELATION, body={"status": "ok"}
    ),
    Interaction(
        "whether tasks are admitted",
        _READY,
        "GET",
        "/readyz",
        200,
        _ready,
        headers=CORRELATION,
        body={"status": "ready", "pools_ready": _COUNT, "pools_total": _COUNT},
    ),
    Interaction(
        "whether tasks are admitted while nothing is ready",
        {"a pool that is loading": {}},
        "GET",
        "/readyz",
        503,
        _not_ready,
        headers={**CORRELATION, **BACKOFF},
        body=shapes.envelope("POOL_UNREADY", "no pool is ready", retriable=True, retry_after_ms=match.integer(2400)),
    ),
)

CONTROL: tuple[Interaction, ...] = (*POOLS, *OVERVIEWS)
