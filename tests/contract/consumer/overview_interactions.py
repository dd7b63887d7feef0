"""What the client asks of the deployment as a whole."""

from __future__ import annotations

from pact import match

from orchqueue.client import AsyncClient
from orchqueue.client.errors import Unavailable
from tests.contract.consumer import shapes
from tests.contract.consumer.recording import Interaction, failing
from tests.contract.consumer.shapes import BACKOFF, CORRELATION, NAME, POOL_ID, one_of

_READY: dict[str, dict[str, object]] = {"a ready pool": {}}
_COUNT = match.integer(1)
_MODEL = match.like("bundled:smollm2-135m-instruct-q4_1")
_ENGINE = match.like("llamacpp")
_POOL_NAME = match.regex(POOL_ID, regex=f"^{NAME}$")


async def _metrics(client: AsyncClient) -> None:
    assert "# TYPE queue_depth gauge\n" in await client.metrics()


async def _capabilities(client: AsyncClient) -> None:
    capabilities = await client.capabilities()
    assert (capabilities.api_version, capabilities.pools[0].workloads) == ("v1", ["completion"])


async def _models(client: AsyncClient) -> None:
    [model] = await client.models()
    assert model.pool_ids == [POOL_ID]
    assert (model.state, model.uses[0].role) == ("external", "serving")


async def _replica_sets(client: AsyncClient) -> None:
    [one] = await client.replica_sets()
    assert one.pool_ids == [POOL_ID]


async def _lives(client: AsyncClient) -> None:
    assert (await client.healthz()).status == "ok"


async def _ready(client: AsyncClient) -> None:
    assert (await client.readyz()).pools_ready == 1


async def _not_ready(client: AsyncClient) -> None:
    await failing(client.readyz(), Unavailable, "POOL_UNREADY")


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
        "slo": match.each_like(
            {
                "priority": one_of("interactive", "batch"),
                "slo": match.like("first_token"),
                "target_ratio": match.number(0.95),
                "attainment_ratio": None,
            },
            min=1,
        ),
    }


OVERVIEWS: tuple[Interaction, ...] = (
    Interaction(
        "the metrics",
        _READY,
        "GET",
        "/metrics",
        200,
        _metrics,
        req=("ORCH-4024",),
        headers={**CORRELATION, "Content-Type": match.regex("text/plain", regex="^text/plain(;.*)?$")},
        text="# HELP queue_depth Tasks that wait.\n# TYPE queue_depth gauge\n",
        text_type="text/plain",
        text_pattern=r"^(?:[\s\S]*\n)?# TYPE queue_depth gauge\n[\s\S]*$",
    ),
    Interaction(
        "what the deployment can do",
        _READY,
        "GET",
        "/v1/capabilities",
        200,
        _capabilities,
        req=("ORCH-2060",),
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
        req=("ORCH-4030", "ORCH-4426"),
        any_of={"$.models[*].detail": ("null", "string")},
        headers=CORRELATION,
        body={
            "models": [
                {
                    "ref": _MODEL,
                    "digest": match.like("sha256:ab"),
                    "detail": None,
                    "state": one_of("external", "verified", "verifying", "refused", "unknown"),
                    "pool_ids": match.each_like(_POOL_NAME, min=1),
                    "uses": match.each_like(
                        {
                            "pool_id": _POOL_NAME,
                            "role": one_of("serving", "canary", "next", "previous"),
                            "replica_ids": match.each_like(match.like("default-0"), min=1),
                        },
                        min=1,
                    ),
                }
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
        req=("ORCH-2104", "ORCH-3047", "ORCH-4280"),
        any_of={"$.replica_sets[*].slo[*].attainment_ratio": ("null", "number")},
        headers=CORRELATION,
        body={"replica_sets": match.each_like(_replica_set(), min=1)},
    ),
    Interaction(
        "whether the daemon lives",
        _READY,
        "GET",
        "/healthz",
        200,
        _lives,
        req=("ORCH-4025", "ORCH-4134"),
        headers=CORRELATION,
        body={"status": "ok"},
    ),
    Interaction(
        "whether tasks are admitted",
        _READY,
        "GET",
        "/readyz",
        200,
        _ready,
        req=("ORCH-4133", "ORCH-4134"),
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
        req=("ORCH-2007", "ORCH-4133"),
        headers={**CORRELATION, **BACKOFF},
        body=shapes.envelope("POOL_UNREADY", "no pool is ready", retriable=True, retry_after_ms=match.integer(2400)),
    ),
)
