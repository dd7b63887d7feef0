"""What is known of each model: its file, its checksum, and who uses it as what.

Req: ORCH-4030, ORCH-4426
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from orchqueue.core.snapshots import PoolPicture
from orchqueue.http.problems import unset
from orchqueue.ports.models import ModelCatalog
from orchqueue.schema import control

Role = Literal["serving", "canary", "next", "previous"]
IN_USE = ("serving", "canary")


def models(pools: Sequence[PoolPicture], catalog: ModelCatalog) -> control.ModelList:
    """List the models that pools serve, try, are about to get or may roll back to."""
    users: dict[str, list[tuple[PoolPicture, Role]]] = {}
    for pool in pools:
        for ref, role in _roles(pool):
            users.setdefault(ref, []).append((pool, role))
    return control.ModelList(models=[_model(ref, users[ref], catalog) for ref in sorted(users)])


def told_while_verified(pool: PoolPicture, catalog: ModelCatalog) -> PoolPicture:
    """Put how far a checksum has come where the replicas that wait for it, and their pool, tell what is wrong.

    Req: ORCH-4425
    """
    waiting = {r.model_ref for r in pool.replicas if r.state == "starting"} | {pool.wanted_model_ref or ""}
    found = {ref: catalog.find(ref) for ref in waiting}
    doing = {ref: record.detail for ref, record in found.items() if record is not None and record.state == "verifying"}
    if not doing:
        return pool
    replicas = tuple(
        msgspec.structs.replace(r, last_error=doing[r.model_ref])
        if r.state == "starting" and r.model_ref in doing
        else r
        for r in pool.replicas
    )
    return msgspec.structs.replace(pool, replicas=replicas, last_error=min(doing.values()))


def _roles(pool: PoolPicture) -> Iterator[tuple[str, Role]]:
    """Say what a pool does with which model; what it serves is not also what it would go back to."""
    yield pool.model_ref, "serving"
    if pool.canary is not None:
        yield pool.canary.model_ref, "canary"
    if pool.wanted_model_ref not in (None, pool.model_ref):
        yield pool.wanted_model_ref, "next"
    if pool.previous_model_ref not in (None, pool.model_ref, pool.wanted_model_ref):
        yield pool.previous_model_ref, "previous"


def _model(ref: str, using: list[tuple[PoolPicture, Role]], catalog: ModelCatalog) -> control.ModelInfo:
    record = catalog.find(ref)
    said = next(filter(None, (_digest(pool, ref) for pool, _ in using)), None)
    elsewhere = any(replica.url for pool, _ in using for replica in pool.replicas)
    uses = [control.ModelUse(pool_id=p.pool_id, role=role, replica_ids=_ready_with(p, ref)) for p, role in using]
    pool_ids = [use.pool_id for use in uses if use.role in IN_USE]
    if record is None:
        state: Literal["external", "unknown"] = "external" if elsewhere else "unknown"
        return control.ModelInfo(ref=ref, digest=said, state=state, detail=None, pool_ids=pool_ids, uses=uses)
    return control.ModelInfo(
        ref=ref,
        digest=record.digest or said,
        state=record.state,
        detail=record.detail or None,
        pool_ids=pool_ids,
        uses=uses,
        size_bytes=unset(record.size_bytes),
        architecture=unset(record.architecture),
        quant=unset(record.quantisation),
        ctx_tokens=unset(record.ctx_tokens),
        verified_at_ms=unset(record.verified_at_ms),
    )


def _ready_with(pool: PoolPicture, ref: str) -> list[str]:
    return sorted(r.replica_id for r in pool.replicas if r.state == "ready" and (r.model_ref or pool.model_ref) == ref)


def _digest(pool: PoolPicture, ref: str) -> str | None:
    serving = (r for r in pool.replicas if (r.model_ref or pool.model_ref) == ref)
    return next((replica.facts.model_digest for replica in serving if replica.facts is not None), None)
