"""Label values of the core's figures, in the order of the metrics contract."""

from __future__ import annotations

from orchqueue.core.state import Pool


def of_pool(pool: Pool, priority: str) -> tuple[str, ...]:
    """Label by engine, engine_version, pool_id, priority."""
    return (pool.settings.engine, pool.engine_version, pool.pool_id, priority)


def of_replica(pool: Pool, replica_id: str) -> tuple[str, ...]:
    """Label by engine, engine_version, pool_id, replica_id; `-` while unbound."""
    return (pool.settings.engine, pool.engine_version, pool.pool_id, replica_id)
