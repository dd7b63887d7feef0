"""Runs as a test wants them."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from orchqueue.verify.snapshot import Snapshot, split


def snapshot(tokens: str | list[str] = "a b c", seed: int = 1001, **changes: object) -> Snapshot:
    """Make the run of a text whose pieces are words, or the pieces that are given."""
    pieces = (
        tokens if isinstance(tokens, list) else [word if not n else f" {word}" for n, word in enumerate(tokens.split())]
    )
    first, later = split(pieces)
    made = Snapshot(
        engine="llamacpp",
        engine_version="1",
        model_digest="00",
        seed=seed,
        first_tokens=first,
        digest=sha256("".join(pieces).encode()).hexdigest(),
        decode_ms=12,
        prompt="p",
        params_digest="11",
        later_tokens=later,
        finish_reason="length",
        tokens_out=len(pieces),
        pool_id="first",
        replica_id="first-0",
    )
    return msgspec.structs.replace(made, **changes)
