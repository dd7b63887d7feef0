"""The configuration that a storm runs over, and what tasks ask for in it."""

from __future__ import annotations

from random import Random
from typing import Literal

from tests.chaos.evidence import Piece
from tests.chaos.park import Engine

EngineKind = Literal["real", "simulated", "both"]
SIDE = "side"
SIMULATED_MODEL = "repo:test/sim"
REAL_MODEL = "bundled:smollm2-135m-instruct-q4_1"
_MODELS = {SIDE: SIMULATED_MODEL, "sim": SIMULATED_MODEL, "real": REAL_MODEL}
_PIECES_SEED = 4242
_SUPERVISION = """\
    supervision:
      backoff: {initial_ms: 100, max_ms: 400, stable_after_ms: 1000}
      breaker: {failures: 1000, open_ms: 500}
      restarts_per_minute: 1000
    retry: {max_attempts: 100}
    timeouts: {wall_ms: 600000, idle_ms: 60000}
"""
_REAL = f"""\
  - id: real
    engine: llamacpp
    model: {REAL_MODEL}
    quant: q4_1
    ctx: 512
    allow_cpu: true
    replicas: 2
    slots: 1
    determinism: strict
    prompt_form: chat
    launch: {{args: {{threads: 1}}}}
    queue: {{capacity: 48}}
"""
_REST = """\
server: {{shutdown_grace_ms: 300}}
journal: {{stall_ms: 1500, durability: {durability}}}
retention: {{interactive_s: 86400, batch_s: 86400}}
"""
_WORDS = (
    "Tell",
    "in few words",
    "of the ferry",
    "the 東京 train",
    "a naïve clerk",
    "bread 🍞",
    "two lamps",
    "and rain",
)


def config_text(
    kind: EngineKind, engines: list[Engine], *, capacity: int = 48, batch_weight: int = 1, durability: str = "full"
) -> str:
    """Write the file; the last engine serves the pool that is drained and reloaded."""
    pools = _REAL + _SUPERVISION if kind != "simulated" else ""
    if kind != "real":
        pools += _simulated("sim", engines[:-1], capacity, batch_weight)
    return (
        f"pools:\n{pools}{_simulated(SIDE, engines[-1:], capacity, batch_weight)}{_REST.format(durability=durability)}"
    )


def _simulated(pool_id: str, engines: list[Engine], capacity: int, batch_weight: int) -> str:
    urls = ", ".join(f"'{engine.url}'" for engine in engines)
    return (
        f"  - id: {pool_id}\n    engine: llamacpp\n    model: {SIMULATED_MODEL}\n    ctx: 2048\n    slots: 1\n"
        f"    launch: {{mode: external, urls: [{urls}], allow_simulated: true}}\n"
        f"    queue: {{capacity: {capacity}}}\n"
        f"    admission:\n      priorities: [{{name: batch, weight: {batch_weight}}}]\n" + _SUPERVISION
    )


def simulated_engines(kind: EngineKind) -> int:
    """Tell how many simulated engines a storm of that kind needs."""
    return 1 if kind == "real" else 4


def pieces_of(kind: EngineKind) -> list[Piece]:
    """List what tasks may ask for, always the same. Few and short ones of the real model: each is also run undisturbed."""
    chance = Random(_PIECES_SEED)
    pieces = [_piece(SIDE, chance, chance.randint(10, 60)) for _ in range(8)]
    if kind != "real":
        pieces += [_piece("sim", chance, chance.randint(20, 120)) for _ in range(40)]
    if kind != "simulated":
        pieces += [_piece("real", chance, chance.randint(24, 60)) for _ in range(12)]
    return pieces


def _piece(pool_id: str, chance: Random, max_tokens: int) -> Piece:
    words = chance.sample(_WORDS, chance.randint(3, len(_WORDS)))
    return Piece(
        pool_id, _MODELS[pool_id], " ".join(words), chance.randint(1, 2**31 - 1), max_tokens, chance.random() < 0.7
    )
