"""Modelled engines: slots, prefill and decode that slow down as slots fill, and a little seeded noise.

The figures are those of a small model on one accelerator; what matters is their shape, not their size.
"""

from __future__ import annotations

import math
from random import Random

import msgspec

CHUNK_TOKENS = 32
ABORT_MS = 30
NOISE_SIGMA = 0.05


class EnginePool(msgspec.Struct, frozen=True):
    """A pool's engines. With all slots taken a token takes `1 + slow_percent/100 · (slots − 1)` times as long as alone.

    Units: microseconds per token with one slot taken.
    """

    replicas: int = 4
    slots_each: int = 8
    prefill_us: int = 400
    decode_us: int = 20_000
    slow_percent: int = 10

    @property
    def slots(self) -> int:
        """Count the slots of all replicas."""
        return self.replicas * self.slots_each

    def slowed_percent(self, busy: int) -> int:
        """Tell how much longer everything takes with so many slots taken.

        >>> EnginePool().slowed_percent(1), EnginePool().slowed_percent(8)
        (100, 170)
        """
        return 100 + self.slow_percent * (busy - 1)

    def work_us(self, prompt_tokens: int, tokens_out: int) -> int:
        """Tell how long a task holds its slot while all others are taken too."""
        alone_us = prompt_tokens * self.prefill_us + tokens_out * self.decode_us
        return alone_us * self.slowed_percent(self.slots_each) // 100

    def service(self, prompt_tokens: int) -> float:
        """Tell how many tokens of decode a prompt is worth."""
        return prompt_tokens * self.prefill_us / self.decode_us


POOL = EnginePool()


class Engine:
    """One replica's engine. How long a step takes is decided when it begins, from the slots that are taken then."""

    def __init__(self, pool: EnginePool) -> None:
        self.pool = pool
        self.busy = 0

    def prefill_ms(self, prompt_tokens: int, pace: float) -> int:
        """Take as long as the prompt and its first token need."""
        alone_us = prompt_tokens * self.pool.prefill_us + self.pool.decode_us
        return max(1, round(alone_us * self.pool.slowed_percent(self.busy) * pace / 100_000))

    def decode_ms(self, tokens: int, pace: float) -> int:
        """Take as long as the next tokens need."""
        return max(1, round(tokens * self.pool.decode_us * self.pool.slowed_percent(self.busy) * pace / 100_000))


def paces(seed: int, count: int) -> list[float]:
    """Draw how fast each task is decoded, compared to the model: the same for every policy."""
    dice = Random(f"pace {seed}")
    return [math.exp(dice.gauss(0, NOISE_SIGMA)) for _ in range(count)]
