"""What one stream was, in a form that two runs can be compared by.

Req: ORCH-3045, ORCH-4240
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from orchqueue.verify.prompts import FIRST_TOKENS


class Snapshot(msgspec.Struct, frozen=True):
    """One stream.

    Shape: `first_tokens` are the first 32 pieces of text as they came, `later_tokens` those after them; a character of
    several tokens is one piece. `digest` is the sha256 of the whole text, as the receipt has it.
    Units: `decode_ms` is told and never compared.
    """

    engine: str
    engine_version: str
    model_digest: str
    seed: int
    first_tokens: tuple[str, ...]
    digest: str
    decode_ms: int
    prompt: str
    params_digest: str
    later_tokens: tuple[str, ...]
    finish_reason: str
    tokens_out: int
    pool_id: str
    replica_id: str

    @property
    def tokens(self) -> tuple[str, ...]:
        """Give every piece."""
        return self.first_tokens + self.later_tokens

    @property
    def text(self) -> str:
        """Give the whole text."""
        return "".join(self.tokens)


def split(tokens: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Part the pieces of a stream into the first 32 and the rest."""
    return tuple(tokens[:FIRST_TOKENS]), tuple(tokens[FIRST_TOKENS:])


def dump(snapshots: Iterable[Snapshot]) -> str:
    """Write one snapshot a line."""
    return "".join(msgspec.json.encode(one).decode() + "\n" for one in snapshots)


def parse(text: str) -> list[Snapshot]:
    """Read what `dump` wrote.

    Errors: ValueError with the number of the line that is broken, or whose digest is not that of its text.
    Req: ORCH-4401
    """
    found = []
    # Only a line feed ends a line: the text of a stream may hold other characters that Python splits at.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            one = msgspec.json.decode(line, type=Snapshot)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number} is not a snapshot: {error}") from error
        if sha256(one.text.encode()).hexdigest() != one.digest:
            raise ValueError(f"line {number}: the digest of seed {one.seed} is not that of its text")
        found.append(one)
    return found
