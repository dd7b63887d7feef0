"""Read-only pictures of the core's state, for whoever answers a GET.

Units: instants in unix milliseconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from orchqueue.core.events import DeviceFigures, ReplicaFacts
from orchqueue.core.records import Accepted, Basis, Ended


class TaskPicture(msgspec.Struct, frozen=True):
    """One task as its owner may see it. `state`: queued, running, succeeded, failed or canceled."""

    accepted: Accepted
    state: str
    readers: int
    queue_position: int | None = None
    predicted_start_ms: int | None = None
    predicted_end_ms: int | None = None
    basis: Basis = "none"
    replica_id: str | None = None
    started_at_ms: int | None = None
    tokens_out: int = 0
    ended: Ended | None = None


class SessionPicture(msgspec.Struct, frozen=True):
    """One session."""

    session_id: str
    ttl_ms_remaining: int
    turns: int
    kv_bytes: int
    kv_warmth: bool


class ReplicaPicture(msgspec.Struct, frozen=True):
    """One replica; `facts` None until it was ready once. `url`: where one that runs elsewhere is configured to be.

    `set_key` is its pool's, unless it tries another model.
    """

    replica_id: str
    state: str
    slots_total: int
    slots_free: int
    restarts: int
    last_error: str | None
    facts: ReplicaFacts | None
    kv_usage_ratio: float | None
    vram_used_bytes: int | None
    decode_us_per_token: int | None
    prefill_us_per_token: int | None
    url: str = ""
    devices: tuple[DeviceFigures, ...] = ()
    model_ref: str = ""
    set_key: str = ""


class CanaryPicture(msgspec.Struct, frozen=True):
    """Another model on trial. `trying`: its replicas are up; the counts are those of `canary.Canary`."""

    model_ref: str
    percent: int
    replica_ids: tuple[str, ...]
    trying: bool
    starts: int
    tried: int
    ended: int
    errors: int
    first_tokens: int
    late: int


class PoolPicture(msgspec.Struct, frozen=True):
    """One pool. `depths`, `running` and `capacities` are keyed by priority; `mode`: serving, draining, drained or reloading.

    `previous_model_ref`: what a rollback would bring back. `wanted_model_ref`: what a reload is about to bring.
    `first_tokens_in_time` of the latest `first_tokens_seen` interactive tasks had their first token within the objective.
    """

    pool_id: str
    engine: str
    model_ref: str
    ctx: int
    quant: str | None
    allow_cpu: bool
    strict: bool
    workloads: tuple[str, ...]
    sampler_profile_version: str
    device_class: str
    mode: str
    live: bool
    ready: bool
    last_error: str | None
    capacity: int
    depths: dict[str, int]
    running: dict[str, int]
    replicas: tuple[ReplicaPicture, ...]
    set_key: str
    prompt_form: Literal["raw", "chat"] = "raw"
    first_tokens_in_time: int = 0
    first_tokens_seen: int = 0
    capacities: dict[str, int] = {}
    canary: CanaryPicture | None = None
    previous_model_ref: str | None = None
    wanted_model_ref: str | None = None
