"""Where two runs of one request part, to the token.

Bytes are compared, never cuts: an engine, or a connection, may put the same text into other pieces.
"""

from __future__ import annotations

from itertools import takewhile

import msgspec

from orchqueue.verify.snapshot import Snapshot

CONTEXT_TOKENS = 8
AFTER_TOKENS = 4
_SAME = ("engine", "engine_version", "model_digest", "seed", "prompt", "params_digest")


class Side(msgspec.Struct, frozen=True):
    """One of two runs, around the place where they part.

    Shape: `token` is the piece that differs, None where the run had ended; `before` and `after` are the pieces around it.
    """

    replica_id: str
    token_index: int
    before: tuple[str, ...]
    token: str | None
    after: tuple[str, ...]
    digest: str
    tokens_out: int
    finish_reason: str


class Divergence(msgspec.Struct, frozen=True):
    """Two runs that should be equal and are not. `byte_offset`: how many bytes of text they have in common.

    Req: ORCH-4287
    """

    seed: int
    prompt: str
    byte_offset: int
    one: Side
    other: Side


class NotComparable(ValueError):
    """Two runs are not of the same request, engine and model."""


def compare(one: Snapshot, other: Snapshot) -> Divergence | None:
    """Say where two runs part; None when text and end are equal.

    Errors: NotComparable.
    Req: ORCH-3045, ORCH-4287
    """
    for name in _SAME:
        if getattr(one, name) != getattr(other, name):
            raise NotComparable(
                f"seed {one.seed} on {one.replica_id or '?'} and {other.replica_id or '?'} cannot be compared:"
                f" {name} is {getattr(one, name)!r} and {getattr(other, name)!r}"
            )
    ends = (one.finish_reason, one.tokens_out) == (other.finish_reason, other.tokens_out)
    if one.text == other.text and ends:
        return None
    characters = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one.text, other.text, strict=False)))
    byte_offset = len(one.text[:characters].encode())
    return Divergence(one.seed, one.prompt, byte_offset, _side(one, characters), _side(other, characters))


def _side(run: Snapshot, characters: int) -> Side:
    """Find the piece that holds the first character after those that both runs have."""
    tokens, index, passed = run.tokens, 0, 0
    while index < len(tokens) and passed + len(tokens[index]) <= characters:
        passed += len(tokens[index])
        index += 1
    return Side(
        replica_id=run.replica_id,
        token_index=index,
        before=tokens[max(0, index - CONTEXT_TOKENS) : index],
        token=tokens[index] if index < len(tokens) else None,
        after=tokens[index + 1 : index + 1 + AFTER_TOKENS],
        digest=run.digest,
        tokens_out=run.tokens_out,
        finish_reason=run.finish_reason,
    )
