"""What a simulated engine answers: a pure function of request and model, so that anybody can say what is right."""

from __future__ import annotations

from typing import Literal
from zlib import crc32

import msgspec

from orchqueue.core.request import TaskSpec

CHARS_PER_TOKEN = 4
LONG_WORDS = 96
_ALPHABET = "the quiet river läuft über 橋 and naïve 🦊 jump; "
BOOK = "".join(_ALPHABET[crc32(f"{i}".encode()) % len(_ALPHABET)] for i in range(8_192))


class Answer(msgspec.Struct, frozen=True):
    """A whole output."""

    text: str
    tokens_out: int
    finish_reason: Literal["stop", "length"]


def chars_per_token(spec: TaskSpec) -> int:
    """Tell how long the words of an answer are: one prompt in eight gets long ones."""
    return CHARS_PER_TOKEN if crc32(f"{spec.prompt}".encode()) % 8 else LONG_WORDS


def answer(spec: TaskSpec, model_ref: str, said: str = "") -> Answer:
    """Tell what the model answers, or how it goes on from what it is said to have said; one answer in sixteen is empty."""
    mark = crc32(f"{spec.prompt}|{spec.seed}|{model_ref}|{said}".encode())
    limit, chars = min(spec.max_tokens, 64), chars_per_token(spec)
    tokens = 0 if mark % 16 == 0 else 1 + (mark >> 4) % limit
    begin = (mark >> 10) % (len(BOOK) - chars * 64)
    text = BOOK[begin : begin + chars * tokens]
    return Answer(text, tokens, "length" if tokens == spec.max_tokens else "stop")


def distorted(right: Answer, at: int, turn: int) -> Answer:
    """Tell what an engine says that goes wrong at a character: it stops there, says something else once, or from there on."""
    begin, rest = right.text[:at], right.text[at:]
    text = begin + ("", "≠" + rest[1:], rest[::-1])[turn]
    return msgspec.structs.replace(right, text=text)


def count_tokens(spec: TaskSpec) -> int:
    """Count a prompt as the simulated tokenizer does."""
    return spec.prompt_bytes // CHARS_PER_TOKEN + 1
