"""What one seed draws: sizes, settings and the subset of faults that it switches on."""

from __future__ import annotations

from random import Random

import msgspec

from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.settings import (
    CanaryLevels,
    ClassSettings,
    FullPolicy,
    PoolSettings,
    Quotas,
    ReplicaSettings,
    Retention,
    SessionLimits,
    Settings,
    Supervision,
    TenantSettings,
    Timeouts,
)

ENGINE_FAULTS = (
    "slow_first_token",
    "silence",
    "lost_early",
    "lost_late",
    "rejected",
    "overloaded",
    "engine_error",
    "late_close",
    "double_close",
    "chatter_after_abort",
    "completion_after_abort",
    "ignores_abort",
    "diverging_engine",
)
PROCESS_FAULTS = (
    "replica_crash",
    "failing_start",
    "never_ready",
    "port_clash",
    "zombie",
    "odd_version",
    "fewer_slots",
    "stop_as_loss",
)
JOURNAL_FAULTS = (
    "slow_disk",
    "failing_disk",
    "full_disk",
    "daemon_crash",
    "crash_before_commit",
    "crash_after_commit",
    "torn_tail",
)
CLIENT_FAULTS = (
    "lost_replies",
    "vanishing_before_reply",
    "vanishing_before_started",
    "vanishing_between_tokens",
    "vanishing_before_end",
    "odd_requests",
)
CLOCK_FAULTS = ("late_timers", "clock_pause", "wall_jump")
OTHER_FAULTS = ("uncounted_prompts", "drain", "reload", "bad_reload", "settings", "shutdown")
FAULTS = (*ENGINE_FAULTS, *PROCESS_FAULTS, *JOURNAL_FAULTS, *CLIENT_FAULTS, *CLOCK_FAULTS, *OTHER_FAULTS)
TRIAL = CanaryLevels(tasks=2, errors_per_mille=500, first_token_ms=400, late_percent=50)
FAILOVER_FAULTS = (
    "silence",
    "lost_late",
    "late_close",
    "ignores_abort",
    "diverging_engine",
    "replica_crash",
    "odd_version",
    "zombie",
    "slow_disk",
    "daemon_crash",
    "crash_before_commit",
    "torn_tail",
    "shutdown",
)
"""What hits tasks in the middle of their text: one run in four draws of these alone, so that little else keeps text from coming."""
POLICIES: tuple[FullPolicy, ...] = ("reject", "drop-lru", "shed-low-priority")


class Plan(msgspec.Struct, frozen=True):
    """One run's frame.

    Units: `span_ms` is how long clients are active before everything heals; at `peak_ms` a burst comes, and trouble
    likes to come just then. `can_continue` is the share of engines that can go on from a text.
    """

    seed: int
    faults: frozenset[str]
    settings: Settings
    tasks: int
    span_ms: int
    peak_ms: int
    token_ms: int
    disk_ms: int
    sessions: int
    tenants: int
    can_continue: float = 0.0

    def has(self, fault: str) -> bool:
        """Tell whether a fault is switched on."""
        return fault in self.faults

    @property
    def story(self) -> str:
        """Describe the run in one line."""
        pools = ", ".join(
            f"{p.pool_id}({len(p.replicas)}x{p.slots}{' strict' if p.strict else ''}{'' if p.preload else ' asleep'}"
            f" {p.model_ref} room {p.capacity})"
            for p in self.settings.pools
        )
        return f"{self.tasks} tasks in {self.span_ms} ms on {pools}; faults: {', '.join(sorted(self.faults)) or 'none'}"


def draw(seed: int, faults: frozenset[str] | None = None) -> Plan:
    """Draw a run from its seed; `faults` replaces the faults that it would draw."""
    rng = Random(f"plan {seed}")
    share = rng.choice((0.0, 0.1, 0.25, 0.5, 0.75))
    drawn = frozenset(f for f in FAULTS if rng.random() < share)
    if rng.random() < 0.25:
        drawn = frozenset(f for f in FAILOVER_FAULTS if rng.random() < 0.5)
        if rng.random() < 0.2:
            drawn |= {"reload"}
    span_ms = rng.choice((500, 4_000, 30_000))
    return Plan(
        seed=seed,
        faults=drawn if faults is None else faults,
        settings=_sleeping(
            msgspec.structs.replace(_settings(rng), tenants=_tenants(Random(f"quotas {seed}"))),
            Random(f"preload {seed}"),
        ),
        tasks=rng.choice((6, 12, 25, 60)),
        span_ms=span_ms,
        peak_ms=rng.randint(0, span_ms),
        token_ms=rng.choice((1, 5, 20, 60)),
        disk_ms=rng.choice((0, 3, 30)),
        sessions=rng.choice((0, 2, 5)),
        tenants=rng.choice((1, 2)),
        can_continue=rng.choice((0.0, 0.7, 1.0)),
    )


def _settings(rng: Random) -> Settings:
    models = [f"m{i}" for i in range(rng.choice((1, 1, 2)))]
    pools = tuple(_pool(rng, index, rng.choice(models)) for index in range(rng.choice((1, 1, 2, 3))))
    return Settings(
        pools=pools,
        sessions=SessionLimits(ttl_ms=rng.choice((2_000, 600_000)), max_turns=rng.choice((2, 8))),
        retention=Retention(60_000, 120_000, rng.choice((1 << 30, 20_000))),
        disconnect_grace_ms=rng.choice((100, 2_000)),
        poison_kills=rng.choice((1, 3, 3)),
    )


def _sleeping(settings: Settings, rng: Random) -> Settings:
    """Draw which pools wait for their first task before their replicas start: one in ten."""
    pools = (msgspec.structs.replace(pool, preload=rng.random() >= 0.1) for pool in settings.pools)
    return msgspec.structs.replace(settings, pools=tuple(pools))


def _tenants(rng: Random) -> tuple[TenantSettings, ...]:
    """Draw who has quotas, and how tight ones: nobody in two thirds of the runs."""
    if rng.random() < 0.67:
        return ()
    names = rng.choice((("t0",), ("t0", "t1"), ("*",), ("t1", "*")))
    return tuple(TenantSettings(name, 1, _quotas(rng), _quotas(rng)) for name in names)


def _quotas(rng: Random) -> Quotas:
    rate = rng.choice((None, None, 0.5, 5))
    return Quotas(
        requests_per_s=rate,
        burst=None if rate is None else rng.choice((None, 2, 8)),
        tokens_per_minute=rng.choice((None, None, 150, 600, 5_000)),
        concurrent_tasks=rng.choice((None, None, 2, 6, 20)),
        queued_tasks=rng.choice((None, None, 1, 3, 10)),
    )


def _pool(rng: Random, index: int, model_ref: str) -> PoolSettings:
    strict = rng.random() < 0.5
    pool_id = PoolId(f"p{index}")
    replicas = tuple(ReplicaSettings(ReplicaId(f"{pool_id}r{i}")) for i in range(rng.choice((1, 2, 3))))
    return PoolSettings(
        pool_id=pool_id,
        engine="llamacpp",
        model_ref=model_ref,
        replicas=replicas,
        ctx=256,
        slots=1 if strict else rng.choice((1, 2, 4)),
        strict=strict,
        launch_digest="strict" if strict else "",
        capacity=rng.choice((2, 4, 8, 64)),
        classes=classes(rng),
        timeouts=Timeouts(rng.choice((800, 60_000)), rng.choice((300, 5_000)), rng.choice((None, 400))),
        supervision=Supervision(breaker_failures=rng.choice((2, 2, 5)), breaker_open_ms=20_000),
        max_attempts=rng.choice((1, 3, 5, 5)),
        canary=TRIAL,
    )


def classes(rng: Random) -> tuple[ClassSettings, ...]:
    """Draw the bounds and policies of both classes."""
    policy = rng.choice((*POLICIES, "reject"))
    return (
        ClassSettings("interactive", rng.choice((8, 8, 3)), rng.choice((2, 8, 64)), policy),
        ClassSettings(
            "batch", 1, rng.choice((2, 8, 64)), rng.choice((policy, "reject")), rng.choice((None, None, 20.0, 1.5))
        ),
    )
