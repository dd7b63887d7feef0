"""Gauges, from the core's pictures.

Req: ORCH-4272, ORCH-4280
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from orchqueue.adapters.metrics import Labels, MetricsRegistry
from orchqueue.core.events import DeviceFigures
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.snapshots import PoolPicture, ReplicaPicture

Series = Iterator[tuple[Labels, float]]
FIRST_TOKEN_SLO = "first_token"
UP = (ReplicaState.READY.value, ReplicaState.SUSPECT.value)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def set_gauges(
    metrics: MetricsRegistry,
    pools: Sequence[PoolPicture],
    resident_bytes: Callable[[int], int | None] | None = None,
) -> None:
    """Bring every gauge up to date before a scrape. Reads of the replicas' processes block: call it off the loop.

    Req: ORCH-4273, ORCH-4286
    """
    read = resident_bytes or read_resident_bytes
    metrics.replace_gauge("queue_depth", _depths(pools))
    metrics.replace_gauge("queue_capacity", _capacities(pools))
    metrics.replace_gauge("replicas", _states(pools))
    metrics.replace_gauge("kv_cache_usage_ratio", _figures(pools, lambda replica: replica.kv_usage_ratio))
    metrics.replace_gauge("gpu_utilization", _devices(pools, lambda figures: figures.utilization_percent))
    metrics.replace_gauge("vram_used_bytes", _devices(pools, lambda figures: figures.vram_used_bytes))
    metrics.replace_gauge("host_ram_used_bytes", _figures(pools, lambda replica: _resident(replica, read)))
    metrics.replace_gauge("slo_attainment_ratio", _attainment(pools))


def read_resident_bytes(pid: int) -> int | None:
    """Read how much memory a process really holds; None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return None


def _depths(pools: Sequence[PoolPicture]) -> Series:
    for pool in pools:
        for priority, depth in pool.depths.items():
            yield (*_of_pool(pool), priority), depth


def _capacities(pools: Sequence[PoolPicture]) -> Series:
    for pool in pools:
        for priority, capacity in pool.capacities.items():
            yield (*_of_pool(pool), priority), capacity


def _states(pools: Sequence[PoolPicture]) -> Series:
    for pool in pools:
        for state in ReplicaState:
            yield (*_of_pool(pool), state.value), sum(replica.state == state.value for replica in pool.replicas)


def _figures(pools: Sequence[PoolPicture], read: Callable[[ReplicaPicture], float | None]) -> Series:
    for pool in pools:
        for replica in pool.replicas:
            value = read(replica) if replica.state in UP else None
            if value is not None:
                yield (*_of_pool(pool), replica.replica_id), value


def _devices(pools: Sequence[PoolPicture], read: Callable[[DeviceFigures], float | None]) -> Series:
    for pool in pools:
        for replica in pool.replicas:
            for figures in replica.devices if replica.state in UP else ():
                value = read(figures)
                if value is not None:
                    yield (*_of_pool(pool), replica.replica_id, figures.device), value


def _attainment(pools: Sequence[PoolPicture]) -> Series:
    seen = sum(pool.first_tokens_seen for pool in pools)
    if seen:
        yield ("interactive", FIRST_TOKEN_SLO), sum(pool.first_tokens_in_time for pool in pools) / seen


def _resident(replica: ReplicaPicture, read: Callable[[int], int | None]) -> int | None:
    return None if replica.facts is None or replica.facts.pid is None else read(replica.facts.pid)


def _of_pool(pool: PoolPicture) -> tuple[str, str, str]:
    """Label by engine, engine_version, pool_id; the version is that of the pool's first replica that ever was ready."""
    version = next((replica.facts.engine_version for replica in pool.replicas if replica.facts is not None), "unknown")
    return pool.engine, version, pool.pool_id
