"""What a simulated engine answers: a pure function of request and model, so that anybody can say what is right."""

from __future__ import annotations

from typing import Literal
from zlib import crc32

import msgspec

from orchqueue.core.request import TaskSpec

CHARS_PER_TOKEN = 4
_ALPHABET = "the quiet river läuft über 橋 and naïve 🦊 jump; "
BOOK = "".join(_ALPHABET[crc32(f"{i}".encode()) % len(_ALPHABET)] for i in range(8_192))


class Answer(msgspec.Struct, frozen=True):
    """A whole output."""

    text: str
    tokens_out: int
    finish_reason: Literal["stop", "length"]


def answer(spec: TaskSpec, model_ref: str) -> Answer:
    """Tell what the model answers; one answer in sixteen is empty."""
    mark = crc32(f"{spec.prompt}|{spec.seed}|{model_ref}".encode())
    limit = min(spec.max_tokens, 64)
    tokens = 0 if mark % 16 == 0 else 1 + (mark >> 4) % limit
    begin = (mark >> 10) % (len(BOOK) - CHARS_PER_TOKEN * 64)
    text = BOOK[begin : begin + CHARS_PER_TOKEN * tokens]
    return Answer(text, tokens, "length" if tokens == spec.max_tokens else "stop")


def count_tokens(spec: TaskSpec) -> int:
    """Count a prompt as the simulated tokenizer does."""
    return spec.prompt_bytes // CHARS_PER_TOKEN + 1
