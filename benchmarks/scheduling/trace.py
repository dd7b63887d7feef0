"""A seeded day of bursty traffic of many tenants, and adversaries to put on top of it.

Nothing here knows the core: a trace is what clients do, and the same trace is played against every policy.
"""

from __future__ import annotations

import math
from heapq import merge
from random import Random
from typing import Literal, TypeAlias

import msgspec

from benchmarks.scheduling.engines import POOL, EnginePool

Priority = Literal["interactive", "batch"]
Adversary = Literal["flood", "liar", "resubmitter"]
Spans: TypeAlias = list[tuple[float, float]]

ADVERSARIES: tuple[Adversary, ...] = ("flood", "liar", "resubmitter")
DAY_S = 86_400
TENANTS = 50
OFFERED_PERCENT = 84
MAX_TOKENS_CHOICES = (256, 512, 1024, 2048)


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One task as its client sends it. `tokens_out` is what the model will say; nobody but the engine knows it.

    `patience_ms`: after that long the client cancels and sends the task again, at most `rounds` times; 0 for never.
    """

    at_ms: int
    tenant: str
    priority: Priority
    prompt_tokens: int
    tokens_out: int
    max_tokens: int
    expected_tokens: int | None = None
    patience_ms: int = 0
    rounds: int = 0


class Habit(msgspec.Struct, frozen=True):
    """How one tenant behaves. `load_share` is its part of all work, `on_ratio` the part of the time it sends at all."""

    tenant: str
    weight: int
    load_share: float
    interactive_ratio: float
    prompt_median: float
    output_median: float
    output_sigma: float
    batch_factor: float
    max_tokens: int
    hints: bool
    on_mean_s: float
    on_ratio: float
    peak_s: float


class Trace(msgspec.Struct, frozen=True):
    """Everything that is sent, in order of time."""

    name: str
    seed: int
    length_ms: int
    weights: dict[str, int]
    arrivals: list[Arrival]


def habits(seed: int, tenants: int = TENANTS) -> list[Habit]:
    """Draw the tenants: a few send most of the work, many send little, each has lengths of its own.

    The heaviest send mostly batch work, as such tenants do; of the others most send mostly interactive work. One in ten
    has weight 2.
    """
    dice = Random(f"habits {seed}")
    shares = [1 / (rank + 2) ** 1.1 for rank in range(tenants)]
    drawn = []
    for rank, share in enumerate(shares):
        mostly_interactive = rank >= tenants // 8 and dice.random() < 0.7
        output_median = math.exp(dice.uniform(math.log(100), math.log(700)))
        roomy = [limit for limit in MAX_TOKENS_CHOICES if limit >= 2 * output_median]
        drawn.append(
            Habit(
                tenant=f"tenant-{rank:02}",
                weight=2 if rank % 10 == 3 else 1,
                load_share=share / sum(shares),
                interactive_ratio=dice.uniform(0.7, 1.0) if mostly_interactive else dice.uniform(0.0, 0.3),
                prompt_median=math.exp(dice.uniform(math.log(60), math.log(900))),
                output_median=output_median,
                output_sigma=dice.uniform(0.3, 0.8),
                batch_factor=dice.uniform(1.0, 1.8),
                max_tokens=dice.choice(roomy),
                hints=dice.random() < 0.3,
                on_mean_s=dice.uniform(60, 600),
                on_ratio=dice.uniform(0.1, 0.5),
                peak_s=dice.gauss(14 * 3600, 2 * 3600),
            )
        )
    return drawn


def bursty_day(
    seed: int, length_s: int = DAY_S, tenants: int = TENANTS, pool: EnginePool = POOL, percent: int = OFFERED_PERCENT
) -> Trace:
    """Draw a day: every tenant is on or off by chance, sends at random while it is on, and more around its peak hour.

    `percent` of what the pool can do with every slot taken is offered over the whole length.
    """
    chosen = habits(seed, tenants)
    capacity_us = pool.slots * length_s * 1e6
    streams = []
    for habit in chosen:
        dice = Random(f"trace {seed} {habit.tenant}")
        on = _bursts(dice, habit, length_s)
        strength = sum(_strength(habit, begin, end, length_s) for begin, end in on)
        wanted = capacity_us * percent / 100 * habit.load_share / _mean_work_us(habit, pool)
        streams.append(_arrivals(dice, habit, on, wanted / strength, length_s))
    arrivals = list(merge(*streams, key=lambda a: a.at_ms))
    return Trace("bursty", seed, length_s * 1000, {h.tenant: h.weight for h in chosen}, arrivals)


def with_adversary(base: Trace, kind: Adversary, pool: EnginePool = POOL) -> Trace:
    """Put one tenant on top of a trace that plays against the scheduler, from a third of it to two thirds.

    flood: three times what the pool can do, all interactive. liar: as much as the pool can do, each task claiming one token
    and using a thousand. resubmitter: as much as the pool can do, canceled after 3 s and sent again, four times.
    """
    begin, end = base.length_ms // 3, base.length_ms * 2 // 3
    dice = Random(f"{kind} {base.seed}")
    output, times = {"flood": (200, 3), "liar": (1000, 1), "resubmitter": (200, 1)}[kind]
    work_us = pool.work_us(200, output)
    count = round((end - begin) * 1000 * pool.slots * times / work_us)
    added = [
        Arrival(
            at_ms=at_ms,
            tenant=kind,
            priority="interactive",
            prompt_tokens=200,
            tokens_out=output,
            max_tokens=1024 if kind == "liar" else 512,
            expected_tokens=1 if kind == "liar" else None,
            patience_ms=3_000 if kind == "resubmitter" else 0,
            rounds=4 if kind == "resubmitter" else 0,
        )
        for at_ms in sorted(dice.randrange(begin, end) for _ in range(count))
    ]
    weights = base.weights | {kind: 1}
    return Trace(kind, base.seed, base.length_ms, weights, list(merge(base.arrivals, added, key=lambda a: a.at_ms)))


def _bursts(dice: Random, habit: Habit, length_s: int) -> Spans:
    """Draw when a tenant sends; a short trace gets at least one burst of everyone."""
    on: Spans = []
    off_mean_s = habit.on_mean_s * (1 - habit.on_ratio) / habit.on_ratio
    at_s = -dice.uniform(0, habit.on_mean_s + off_mean_s)
    while at_s < length_s:
        until_s = at_s + dice.expovariate(1 / habit.on_mean_s)
        if until_s > 0:
            on.append((max(0.0, at_s), min(until_s, float(length_s))))
        at_s = until_s + dice.expovariate(1 / off_mean_s)
    return on or [(0.0, float(length_s))]


def _height(habit: Habit, at_s: float, length_s: int) -> float:
    """Tell how busy an hour is: 1.2 at the peak of its tenant, 0.8 at its low. A short trace has its whole day in it."""
    turn = 2 * math.pi * (at_s / length_s - habit.peak_s / DAY_S)
    return 1 + 0.2 * math.cos(turn)


def _strength(habit: Habit, begin_s: float, end_s: float, length_s: int) -> float:
    return (end_s - begin_s) * _height(habit, (begin_s + end_s) / 2, length_s)


def _mean_work_us(habit: Habit, pool: EnginePool) -> float:
    spread = math.exp(habit.output_sigma**2 / 2)
    longer = habit.interactive_ratio + (1 - habit.interactive_ratio) * habit.batch_factor
    return pool.work_us(round(habit.prompt_median * 1.13), round(habit.output_median * spread * longer))


def _arrivals(dice: Random, habit: Habit, on: Spans, rate: float, length_s: int) -> list[Arrival]:
    found = []
    for begin_s, end_s in on:
        middle = rate * _height(habit, (begin_s + end_s) / 2, length_s)
        at_s = begin_s + dice.expovariate(middle)
        while at_s < end_s:
            found.append(_arrival(dice, habit, int(at_s * 1000)))
            at_s += dice.expovariate(middle)
    return found


def _arrival(dice: Random, habit: Habit, at_ms: int) -> Arrival:
    interactive = dice.random() < habit.interactive_ratio
    median = habit.output_median * (1 if interactive else habit.batch_factor)
    tokens_out = min(habit.max_tokens, max(1, round(median * math.exp(dice.gauss(0, habit.output_sigma)))))
    hint = max(1, min(habit.max_tokens, round(tokens_out * math.exp(dice.gauss(0, 0.2))))) if habit.hints else None
    return Arrival(
        at_ms=at_ms,
        tenant=habit.tenant,
        priority="interactive" if interactive else "batch",
        prompt_tokens=max(1, min(4_000, round(habit.prompt_median * math.exp(dice.gauss(0, 0.5))))),
        tokens_out=tokens_out,
        max_tokens=habit.max_tokens,
        expected_tokens=hint,
    )
