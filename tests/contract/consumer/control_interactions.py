"""What the client asks of the control plane."""

from __future__ import annotations

from pact import match

from orchqueue.client import AsyncClient
from orchqueue.client.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tests.contract.consumer import shapes
from tests.contract.consumer.recording import Interaction, failing
from tests.contract.consumer.shapes import CORRELATION, NAME, POOL_ID, one_of

_READY: dict[str, dict[str, object]] = {"a ready pool": {}}
_POOL = f"/v1/pools/{POOL_ID}"
_JSON = {"Content-Type": "application/json"}
NEXT_MODEL = "file:models/next.gguf"
_COUNT = match.integer(1)
_MODEL = match.like("bundled:smollm2-135m-instruct-q4_1")
_ENGINE = match.like("llamacpp")


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


async def _reload(client: AsyncClient) -> None:
    begun = await client.reload(POOL_ID, NEXT_MODEL)
    assert (begun.operation, begun.model, begun.canary_percent) == ("reload", NEXT_MODEL, 100)


async def _canary_alone(client: AsyncClient) -> None:
    await failing(client.reload(POOL_ID, NEXT_MODEL, 10), Conflict, "INVALID_PARAMS")


async def _rollback(client: AsyncClient) -> None:
    assert (await client.rollback(POOL_ID)).operation == "rollback"


async def _nothing_to_roll_back(client: AsyncClient) -> None:
    await failing(client.rollback(POOL_ID), Conflict, "INVALID_PARAMS")


async def _reload_config(client: AsyncClient) -> None:
    reloaded = await client.reload_config()
    assert (reloaded.applied, reloaded.needs_restart) == ([], [])


async def _rollback_config(client: AsyncClient) -> None:
    back = await client.rollback_config()
    assert (back.applied, back.needs_restart) == (["/pools/0/queue/capacity"], [])


async def _no_config_to_go_back_to(client: AsyncClient) -> None:
    await failing(client.rollback_config(), Conflict, "INVALID_PARAMS")


async def _reload_faulty_config(client: AsyncClient) -> None:
    refused = await failing(client.reload_config(), InvalidRequest, "INVALID_PARAMS")
    assert [fault.pointer for fault in refused.faults] == ["/pools/0/replicaz"]


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


POOLS = (
    Interaction(
        "the pools",
        _READY,
        "GET",
        "/v1/pools",
        200,
        _pools,
        req=("ORCH-2103",),
        headers=CORRELATION,
        body={"pools": [_pool_info()]},
    ),
    Interaction(
        "the health of a pool",
        _READY,
        "GET",
        f"{_POOL}/health",
        200,
        _health,
        req=("ORCH-3018", "ORCH-4132"),
        headers=CORRELATION,
        body=_pool_health(),
    ),
    Interaction(
        "the health of an unknown pool",
        _READY,
        "GET",
        "/v1/pools/nowhere/health",
        404,
        _unknown,
        req=("ORCH-2006", "ORCH-4132"),
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
        req=("ORCH-2101", "ORCH-4123"),
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
        req=("ORCH-4193",),
        request_headers={**_JSON, "Authorization": "Bearer pact-tasks-key"},
        request_body={"deadline_ms": 5000},
        api_key="pact-tasks-key",
        headers=CORRELATION,
        body={"message": match.like("not allowed"), "correlation_id": match.like("c-1")},
    ),
)

CHANGES = (
    Interaction(
        "the reload of a pool",
        _READY,
        "POST",
        f"{_POOL}/reload",
        202,
        _reload,
        req=("ORCH-2102", "ORCH-4130"),
        request_headers=_JSON,
        request_body={"new_model_ref": NEXT_MODEL},
        headers=CORRELATION,
        body={
            "pool_id": POOL_ID,
            "operation": "reload",
            "model": NEXT_MODEL,
            "canary_percent": 100,
            "links": {"health": f"{_POOL}/health"},
        },
    ),
    Interaction(
        "a canary in a pool with one replica",
        _READY,
        "POST",
        f"{_POOL}/reload",
        409,
        _canary_alone,
        req=("ORCH-2006", "ORCH-4331"),
        request_headers=_JSON,
        request_body={"new_model_ref": NEXT_MODEL, "canary_percent": 10},
        headers=CORRELATION,
        body=shapes.envelope(
            "INVALID_PARAMS", "a canary needs a second replica", retriable=False, engine=_ENGINE, pool_id=POOL_ID
        ),
    ),
    Interaction(
        "the rollback of a pool that was reloaded",
        {"a pool that was reloaded": {}},
        "POST",
        f"{_POOL}/rollback",
        202,
        _rollback,
        req=("ORCH-3034",),
        headers=CORRELATION,
        body={"pool_id": POOL_ID, "operation": "rollback", "model": _MODEL, "links": {"health": f"{_POOL}/health"}},
    ),
    Interaction(
        "the rollback of a pool that was never reloaded",
        _READY,
        "POST",
        f"{_POOL}/rollback",
        409,
        _nothing_to_roll_back,
        req=("ORCH-3034", "ORCH-2006"),
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "there is no previous model", retriable=False, pool_id=POOL_ID),
    ),
    Interaction(
        "the reload of the configuration",
        _READY,
        "POST",
        "/v1/config/reload",
        200,
        _reload_config,
        req=("ORCH-4205", "ORCH-4206"),
        headers=CORRELATION,
        body={"applied": [], "needs_restart": []},
    ),
    Interaction(
        "the rollback of a configuration that was reloaded",
        {"a configuration that was reloaded": {}},
        "POST",
        "/v1/config/rollback",
        200,
        _rollback_config,
        req=("ORCH-4206", "ORCH-4207"),
        headers=CORRELATION,
        body={"applied": ["/pools/0/queue/capacity"], "needs_restart": []},
    ),
    Interaction(
        "the rollback of a configuration that was taken back",
        {"a configuration that was taken back": {}},
        "POST",
        "/v1/config/rollback",
        409,
        _no_config_to_go_back_to,
        req=("ORCH-2006", "ORCH-4207"),
        headers=CORRELATION,
        body=shapes.envelope("INVALID_PARAMS", "there is no configuration to go back to", retriable=False),
    ),
    Interaction(
        "the reload of a configuration with a fault",
        {"a configuration file with a fault": {}},
        "POST",
        "/v1/config/reload",
        400,
        _reload_faulty_config,
        req=("ORCH-3030", "ORCH-4199", "ORCH-4205"),
        headers=CORRELATION,
        body=shapes.envelope(
            "INVALID_PARAMS",
            "the configuration has problems, so nothing was changed",
            retriable=False,
            faults=[{"pointer": "/pools/0/replicaz", "message": match.like("line 3: unknown field")}],
        ),
    ),
)

CONTROL: tuple[Interaction, ...] = (*POOLS, *CHANGES)
