"""What one strict stream was, in a form that two runs can be compared by.

Req: ORCH-3045, ORCH-4240
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import msgspec

FIRST_TOKENS = 32
CONTEXT_TOKENS = 6


class Snapshot(msgspec.Struct, frozen=True):
    """One stream. `first_tokens`: the first 32 pieces of text; `digest`: sha256 of the whole text, as the receipt has it.

    Units: `decode_ms` is told and never compared.
    """

    engine: str
    engine_version: str
    model_digest: str
    seed: int
    first_tokens: tuple[str, ...]
    digest: str
    decode_ms: int


def dump(snapshots: Sequence[Snapshot]) -> str:
    """Write one snapshot a line."""
    return "".join(msgspec.json.encode(one).decode() + "\n" for one in snapshots)


def parse(text: str) -> list[Snapshot]:
    """Read what `dump` wrote.

    Errors: ValueError with the number of the broken line.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(msgspec.json.decode(line, type=Snapshot))
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number} is not a snapshot: {error}") from error
    return found


def difference(one: Snapshot, other: Snapshot) -> str | None:
    """Say where two streams part; None when they are equal in everything but time.

    Req: ORCH-4287
    """
    for name in ("engine", "engine_version", "model_digest", "seed"):
        if getattr(one, name) != getattr(other, name):
            return f"not comparable: {name} is {getattr(one, name)!r} and {getattr(other, name)!r}"
    for index, (left, right) in enumerate(zip_longest(one.first_tokens, other.first_tokens)):
        if left != right:
            before = "".join(one.first_tokens[max(0, index - CONTEXT_TOKENS) : index])
            return f"seed {one.seed}: token {index} differs after {before!r}: {left!r} and {right!r}"
    if one.digest != other.digest:
        return f"seed {one.seed}: equal for {len(one.first_tokens)} tokens, then different: {one.digest} and {other.digest}"
    return None
