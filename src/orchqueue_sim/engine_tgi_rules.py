"""What TGI's router takes and refuses, its tokenizer's special tokens and its way to stop, without I/O.

Req: ORCH-4454
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

import msgspec

from orchqueue_sim import engine_text
from orchqueue_sim.engine_text import Output

BOS, EOS = "<s>", "</s>"
STOPS_MAX = 4
GENERATION_MAX = 1024
"""How far a request goes that names no `max_new_tokens`."""
_SPECIAL = {BOS: 1, EOS: 2, "<|im_start|>": 3, "<|im_end|>": 4}
_SPECIAL_PATTERN = re.compile("(" + "|".join(re.escape(text) for text in _SPECIAL) + ")")
_PLAIN_PATTERN = re.compile(r"\s?\w{1,4}|\s?[^\w\s]|\s|\x00")
_SEED_MAX = 2**64 - 1


class Parameters(msgspec.Struct):
    """The `parameters` of a request; others are passed over, as the router does."""

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = 100
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: dict[str, Any] | None = None

    @property
    def samples(self) -> bool:
        """Tell whether it samples: any sampler that is named makes it, whatever `do_sample` says."""
        named = (self.top_k, self.top_p, self.typical_p)
        return self.do_sample or self.temperature not in {None, 1.0} or any(value is not None for value in named)


class GenerateRequest(msgspec.Struct):
    """A body of `/generate_stream`; one without any parameters samples."""

    inputs: str
    parameters: Parameters = msgspec.field(default_factory=lambda: Parameters(do_sample=True))


class PromptToken(NamedTuple):
    """One token of a prompt, and where it stands; one that was added stands nowhere."""

    number: int
    text: str
    start: int
    stop: int

    def described(self) -> dict[str, object]:
        """Make its entry in an answer."""
        return {"id": self.number, "text": self.text, "start": self.start, "stop": self.stop}


def tokenize(text: str, *, add_special: bool) -> list[PromptToken]:
    """Cut text into tokens; special ones are read out of it, and one is put before it where that is wanted.

    >>> [token.text for token in tokenize("<s>Good morning", add_special=True)]
    ['', '<s>', 'Good', ' morn', 'ing']
    """
    tokens = [PromptToken(_SPECIAL[BOS], "", 0, 0)] if add_special else []
    at = 0
    for part in _SPECIAL_PATTERN.split(text):
        for piece in [part] if part in _SPECIAL else _PLAIN_PATTERN.findall(part):
            number = _SPECIAL.get(piece) or engine_text.tokenize(piece)[0]
            tokens.append(PromptToken(number, piece, at, at + len(piece)))
            at += len(piece)
    return tokens


def apply_template(messages: list[dict[str, str]]) -> str:
    """Render a chat; like many a model's template this one begins with the token that the tokenizer would add."""
    return BOS + engine_text.apply_template(messages)


def complaint(wanted: GenerateRequest, prompt_tokens: int, total_max: int) -> str:
    """Say what the router refuses of a request; empty where it takes it."""
    asked, added = wanted.parameters, new_tokens(wanted.parameters, prompt_tokens, total_max)
    rules: tuple[tuple[bool, str], ...] = (
        (asked.best_of not in {None, 1}, "`best_of` is for whole answers only"),
        (asked.decoder_input_details, "`decoder_input_details` is for whole answers only"),
        (_is_outside(asked.temperature, 0), "`temperature` has to be above 0"),
        (_is_outside(asked.repetition_penalty, 0), "`repetition_penalty` has to be above 0"),
        (not -2 <= (asked.frequency_penalty or 0) <= 2, "`frequency_penalty` has to be from -2 to 2"),
        (_is_outside(asked.top_p, 0, 1), "`top_p` has to be above 0 and below 1"),
        (_is_outside(asked.typical_p, 0, 1), "`typical_p` has to be above 0 and below 1"),
        (_is_outside(asked.top_k, 0), "`top_k` has to be above 0"),
        (asked.max_new_tokens == 0, "`max_new_tokens` has to be above 0"),
        (len(asked.stop) > STOPS_MAX, f"`stop` takes up to {STOPS_MAX}, not {len(asked.stop)}"),
        (not wanted.inputs, "`inputs` is empty"),
        (_is_outside(asked.truncate, 0, total_max), f"`truncate` has to be above 0 and below {total_max}"),
        (
            prompt_tokens + added > total_max,
            f"{prompt_tokens} tokens of `inputs` and {added} new ones are more than {total_max}",
        ),
        (prompt_tokens >= total_max, f"`inputs` has {prompt_tokens} tokens, above {total_max - 1}"),
    )
    return next((text for holds, text in rules if holds), "") or _grammar_complaint(asked.grammar)


def _is_outside(value: float | None, above: float, below: float = math.inf) -> bool:
    return value is not None and not above < value < below


def new_tokens(asked: Parameters, prompt_tokens: int, total_max: int) -> int:
    """Say how many tokens a request may add."""
    if asked.max_new_tokens is not None:
        return asked.max_new_tokens
    return min(GENERATION_MAX, max(0, total_max - prompt_tokens))


def is_no_request(asked: Parameters) -> bool:
    """Tell whether a number has no room in the router's own types, so that the request cannot even be read."""
    unsigned = (asked.best_of, asked.max_new_tokens, asked.truncate, asked.seed, asked.top_n_tokens)
    return any(value is not None and value < 0 for value in unsigned) or (asked.seed or 0) > _SEED_MAX


def _grammar_complaint(grammar: dict[str, Any] | None) -> str:
    if grammar is None:
        return ""
    schema = grammar.get("value")
    if grammar.get("type") != "json":
        return "this simulator binds to JSON schemas only"
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            return f"the grammar is no JSON: {error}"
    return "" if isinstance(schema, dict) and "properties" in schema else "the grammar has no `properties`"


def written(asked: Parameters, limit: int) -> dict[str, object]:
    """Say a request in the words of `engine_text.write`."""
    return {
        "temperature": (asked.temperature or 1.0) if asked.samples else 0,
        "top_k": asked.top_k, "top_p": asked.top_p, "repeat_penalty": asked.repetition_penalty or 1.0,
        "seed": asked.seed, "n_predict": limit,
        "json_schema": None if asked.grammar is None else asked.grammar["value"],
    }  # fmt: skip


def stopped(output: Output, stops: list[str]) -> Output:
    """End after the token with which the text comes to end with a stop string; the string is part of the text.

    One that ends in the middle of a token is missed.
    """
    text, used = "", 0
    for index, piece in enumerate(output.pieces):
        text += piece.text
        used += piece.tokens
        if used < output.tokens and any(stop and text.endswith(stop) for stop in stops):
            return Output(output.pieces[: index + 1], "word", "", used)
    return output


def token_texts(output: Output) -> list[str]:
    """Give the text of each token; a character of several shows with its last, one that is not whole never.

    >>> token_texts(Output((engine_text.Piece("a", 1), engine_text.Piece("🌍", 2)), "limit", "", 4))
    ['a', '', '🌍', '']
    """
    texts = [text for piece in output.pieces for text in [*[""] * (piece.tokens - 1), piece.text]]
    ending = 1 if output.stop_type == "eos" else 0
    return [*texts, *[""] * (output.tokens - ending - len(texts))]
