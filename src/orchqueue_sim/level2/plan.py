"""What one seed of level 2 draws: sizes, settings and the subset of faults that it switches on."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec

from orchqueue.core.ids import PoolId, ReplicaId
from orchqueue.core.settings import (
    CanaryLevels,
    PoolSettings,
    ReplicaSettings,
    Retention,
    SessionLimits,
    Settings,
    Supervision,
    Timeouts,
)
from orchqueue_sim.plan import classes

ENGINE_FAULTS = (
    "slow_first_token",
    "silence",
    "early_eof",
    "engine_error",
    "engine_500",
    "overloaded",
    "rejected",
    "broken_utf8",
    "broken_json",
    "split_frames",
    "ignored_abort",
    "late_close",
    "double_close",
    "late_to_slot",
    "hidden_slots",
    "failing_start",
    "never_ready",
    "port_clash",
    "odd_version",
    "engine_killed",
    "engine_deaf",
    "zombie",
    "diverging_engine",
)
JOURNAL_FAULTS = ("busy_disk", "failing_disk", "full_disk", "torn_tail", "crash_before_commit", "crash_after_commit")
VANISHING = (
    "vanishing_before_reply",
    "vanishing_before_started",
    "vanishing_between_tokens",
    "vanishing_before_end",
)
CLIENT_FAULTS = (*VANISHING, "slow_reader", "duplicates", "cancels", "resumes", "malformed", "odd_requests")
WORLD_FAULTS = ("daemon_killed", "shutdown", "clock_pause", "wall_jump", "cut_writes", "slow_network", "operators")
FAULTS = (*ENGINE_FAULTS, *JOURNAL_FAULTS, *CLIENT_FAULTS, *WORLD_FAULTS)
# How often a family of faults is in play at all; what one family does shows best while the others are quiet.
FAMILIES = ((ENGINE_FAULTS, 0.6), (JOURNAL_FAULTS, 0.4), (CLIENT_FAULTS, 0.9), (WORLD_FAULTS, 0.6))

TOURS: tuple[tuple[frozenset[str], int], ...] = (
    (frozenset({"early_eof"}), 16),
    (frozenset({"shutdown", "silence", "slow_first_token"}), 16),
    (frozenset({"rejected", "double_close", "late_close"}), 6),
    (frozenset({"cancels", "ignored_abort"}), 6),
    (frozenset({"operators", "silence"}), 20),
    (frozenset({"engine_500", "overloaded"}), 8),
    (frozenset({"vanishing_before_end", "vanishing_between_tokens", "resumes"}), 8),
    (frozenset({"failing_disk", "busy_disk"}), 6),
    (frozenset({"silence", "late_to_slot"}), 8),
    (frozenset({"daemon_killed", "resumes", "vanishing_between_tokens"}), 8),
)
"""Runs with just these faults, so many of each: here what is rare elsewhere happens often."""


BROKEN_OFF = frozenset({"early_eof", "resumes"})
KILLED = frozenset({"daemon_killed", "engine_killed", "resumes", "vanishing_between_tokens"})
"""What befalls strict tasks on two replicas in the middle of their text, in runs where nothing else does."""


class Plan(msgspec.Struct, frozen=True):
    """One run's frame.

    Units: `span_ms` is how long anything may fail; at `peak_ms` a burst comes, and trouble likes to come just then; `fault_ratio`
    of completions meet one of the engine's faults;
    `send_buffer_bytes` is what a reader's socket holds.
    """

    seed: int
    faults: frozenset[str]
    settings: Settings
    tasks: int
    span_ms: int
    peak_ms: int
    token_ms: int
    disk_ms: int
    fault_ratio: float
    sessions: int
    send_buffer_bytes: int
    stall_ms: int

    def has(self, fault: str) -> bool:
        """Tell whether a fault is switched on."""
        return fault in self.faults

    @property
    def engines_fail(self) -> bool:
        """Tell whether anything may go wrong with an engine, or an operator may take a pool away."""
        return bool(
            self.faults
            & {*ENGINE_FAULTS, "operators", "clock_pause"}
            - {"slow_first_token", "split_frames", "late_close", "double_close", "diverging_engine"}
        )

    @property
    def engines_change(self) -> bool:
        """Tell whether an engine may refuse what another took, or be another one than before."""
        return bool(self.faults & {"rejected", "odd_version", "operators"})

    @property
    def story(self) -> str:
        """Describe the run in one line."""
        pools = ", ".join(
            f"{p.pool_id}({len(p.replicas)}x{p.slots}{' strict' if p.strict else ''} room {p.capacity})"
            for p in self.settings.pools
        )
        return f"{self.tasks} tasks in {self.span_ms} ms on {pools}; faults: {', '.join(sorted(self.faults)) or 'none'}"


def draw(seed: int, faults: frozenset[str] | None = None) -> Plan:
    """Draw a run from its seed; `faults` replaces the faults that it would draw."""
    rng = Random(f"level 2 plan {seed}")
    span_ms = rng.choice((2_000, 5_000, 12_000))
    drawn: set[str] = set()
    for family, chance in FAMILIES:
        share = rng.choice((0.15, 0.4, 0.7)) if rng.random() < chance else 0.0
        drawn |= {fault for fault in family if rng.random() < share}
    return Plan(
        seed=seed,
        faults=frozenset(drawn) if faults is None else faults,
        settings=_settings(rng),
        tasks=rng.choice((5, 12, 25)),
        span_ms=span_ms,
        peak_ms=rng.randint(span_ms // 4, span_ms),
        token_ms=rng.choice((2, 20, 60)),
        disk_ms=rng.choice((0, 3, 30)),
        fault_ratio=rng.choice((0.1, 0.3, 0.6)),
        sessions=rng.choice((0, 2)),
        send_buffer_bytes=rng.choice((512, 64 * 1024)),
        stall_ms=rng.choice((200, 10_000)),
    )


def tours() -> Iterator[Plan]:
    """Draw the runs that go where others seldom come."""
    for faults, count in TOURS:
        yield from (draw(seed, faults) for seed in range(count))
    for seed, faults in enumerate((BROKEN_OFF, BROKEN_OFF | {"diverging_engine"}, KILLED, KILLED | BROKEN_OFF) * 3):
        yield msgspec.structs.replace(straight(seed), faults=faults, fault_ratio=0.5, token_ms=20, span_ms=8_000)


def straight(seed: int) -> Plan:
    """Give the run without a fault: twenty tasks on two replicas, every stream read to its end."""
    replicas = (ReplicaSettings(ReplicaId("p0r0")), ReplicaSettings(ReplicaId("p0r1")))
    pool = PoolSettings(PoolId("p0"), "llamacpp", "file:m0", replicas, ctx=512, strict=True, launch_digest="strict")
    settings = Settings(pools=(pool,), retention=Retention(600_000, 600_000))
    return Plan(seed, frozenset(), settings, 20, 2_000, 1_000, 5, 3, 0.0, 0, 64 * 1024, 10_000)


def _settings(rng: Random) -> Settings:
    pools = tuple(_pool(rng, index) for index in range(rng.choice((1, 1, 2))))
    return Settings(
        pools=pools,
        sessions=SessionLimits(ttl_ms=rng.choice((2_000, 600_000)), max_turns=rng.choice((2, 8))),
        retention=Retention(600_000, 600_000),
        disconnect_grace_ms=rng.choice((100, 2_000)),
        poison_kills=rng.choice((1, 3, 3)),
    )


def _pool(rng: Random, index: int) -> PoolSettings:
    strict = rng.random() < 0.6
    pool_id = PoolId(f"p{index}")
    replicas = tuple(ReplicaSettings(ReplicaId(f"{pool_id}r{i}")) for i in range(rng.choice((1, 2, 2))))
    return PoolSettings(
        pool_id=pool_id,
        engine="llamacpp",
        model_ref="file:m0",
        replicas=replicas,
        ctx=512,
        slots=1 if strict else rng.choice((1, 2, 3)),
        strict=strict,
        launch_digest="strict" if strict else "",
        capacity=rng.choice((2, 8, 64)),
        classes=classes(rng),
        timeouts=Timeouts(
            rng.choice((800, 60_000, 60_000)), rng.choice((300, 5_000, 5_000)), rng.choice((None, None, 400))
        ),
        supervision=Supervision(breaker_failures=rng.choice((2, 5)), breaker_open_ms=20_000),
        max_attempts=rng.choice((1, 3, 5, 5)),
        canary=CanaryLevels(tasks=4, errors_per_mille=400, first_token_ms=400),
    )
