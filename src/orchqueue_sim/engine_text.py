"""The text of a simulated engine: words that follow from prompt, seed and parameters, and from nothing else."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from random import Random
from typing import NamedTuple

_WORDS = tuple(
    word
    for line in (
        "the river turned and light fell over old stones while people waited near a small boat with bread salt and time",
        "morning wind carried voices from every open window so nobody heard what she had written in her letter about rain",
    )
    for word in line.split(" ")
)
_RARE = ("naïve", "Žižkov", "東京", "привет", "🌍", "👩‍🚀", "e\u0301clair", "😀", "żółw", "—", "“so”", "\n")
_TOKEN = re.compile(r"\s?\w{1,4}|\s?[^\w\s]|\s|\x00")
_LITERAL_GRAMMAR = re.compile(r'\s*root\s*::=\s*"([^"]*)"\s*')


class Piece(NamedTuple):
    """Text that appears at once, and how many tokens it took: a character of several tokens shows when it is whole."""

    text: str
    tokens: int


class Output(NamedTuple):
    """A whole answer. `stop_type` as llama.cpp names it."""

    pieces: tuple[Piece, ...]
    stop_type: str
    stopping_word: str
    tokens: int


class GrammarError(ValueError):
    """The grammar cannot be parsed."""


def split(text: str) -> list[str]:
    """Cut text into tokens; put together they are the text.

    >>> split("one, two")
    ['one', ',', ' two']
    """
    return _TOKEN.findall(text)


def is_grammar(text: str) -> bool:
    """Tell whether this is the one form of grammar that we can write to."""
    return _LITERAL_GRAMMAR.fullmatch(text) is not None


def tokenize(text: str) -> list[int]:
    """Cut text into tokens, at most four letters each.

    >>> len(tokenize("Hello world"))
    4
    """
    return [int.from_bytes(sha256(part.encode()).digest()[:3], "big") % 49152 for part in split(text)]


def apply_template(messages: list[dict[str, str]]) -> str:
    """Render a chat in the ChatML form."""
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join([*turns, "<|im_start|>assistant\n"])


def embed(inputs: list[str]) -> dict[str, object]:
    """Make vectors that follow from their text alone, in the answer that several engines share."""
    used = sum(len(tokenize(text)) for text in inputs)
    vectors = []
    for index, text in enumerate(inputs):
        random = Random(sha256(text.encode()).digest())
        vectors.append({"object": "embedding", "index": index, "embedding": [random.uniform(-1, 1) for _ in range(8)]})
    return {"object": "list", "data": vectors[::-1], "usage": {"prompt_tokens": used, "total_tokens": used}}


def rank(query: str, documents: list[str]) -> dict[str, object]:
    """Rank documents by the words that they share with the query, the best first."""
    words = set(query.split())
    used = sum(len(tokenize(query + text)) for text in documents)
    scored = [
        {"index": index, "relevance_score": len(words & set(text.split())) / (1 + len(text.split()))}
        for index, text in enumerate(documents)
    ]
    scored.sort(key=lambda one: -one["relevance_score"])
    return {"object": "list", "results": scored, "usage": {"prompt_tokens": used, "total_tokens": used}}


def write(prompt: str, params: dict[str, object], salt: str = "") -> Output:
    """Write the answer to a prompt; greedy sampling does not look at the seed.

    `salt` makes an engine that is not deterministic.

    Errors: GrammarError.
    """
    greedy = params.get("temperature") == 0
    sampled = {name: params.get(name) for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")}
    basis = json.dumps([prompt, None if greedy else params.get("seed"), sampled, salt], sort_keys=True)
    random = Random(sha256(basis.encode()).digest())
    limit = _number(params.get("n_predict"), 256)
    fixed = _fixed_text(params)
    if fixed is not None:
        pieces = [Piece(letter, 1) for letter in fixed]
    else:
        length = limit if params.get("ignore_eos") else random.randint(8, 90)
        pieces = [_piece(random, first=index == 0) for index in range(length)]
    return _stop(_limit(pieces, limit, ended=fixed is not None or not params.get("ignore_eos")), params.get("stop"))


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) and value >= 0 else default


def _piece(random: Random, *, first: bool) -> Piece:
    if random.random() < 0.08:
        word = random.choice(_RARE)
        return Piece(word, max(1, len(word.encode()) // 3))
    return Piece(("" if first else " ") + random.choice(_WORDS), 1)


def _fixed_text(params: dict[str, object]) -> str | None:
    grammar = params.get("grammar")
    if isinstance(grammar, str) and grammar:
        literal = _LITERAL_GRAMMAR.fullmatch(grammar)
        if literal is None:
            raise GrammarError("failed to parse grammar")
        return literal[1]
    return '{"ok": true}' if params.get("json_schema") is not None else None


def _limit(pieces: list[Piece], limit: int, *, ended: bool) -> Output:
    used = 0
    kept: list[Piece] = []
    for piece in pieces:
        if used + piece.tokens > limit:
            # The tokens of a character that is not whole are counted and never shown.
            return Output(tuple(kept), "limit", "", limit)
        used += piece.tokens
        kept.append(piece)
    if used == limit or not ended:
        return Output(tuple(kept), "limit", "", used)
    return Output(tuple(kept), "eos", "", used + 1)


def _stop(output: Output, stops: object) -> Output:
    words = [word for word in stops if isinstance(word, str) and word] if isinstance(stops, list) else []
    text = ""
    used = 0
    for index, piece in enumerate(output.pieces):
        text += piece.text
        used += piece.tokens
        found = [(text.find(word), word) for word in words if word in text]
        if found:
            at, word = min(found)
            kept = output.pieces[:index]
            before = sum(len(p.text) for p in kept)
            if at >= before:
                cut = (*kept, Piece(text[before:at], piece.tokens))
            else:
                cut = _shorten(kept, at)
            return Output(cut, "word", word, used)
    return output


def _shorten(pieces: tuple[Piece, ...], length: int) -> tuple[Piece, ...]:
    kept: list[Piece] = []
    for piece in pieces:
        text = piece.text[: max(0, length)]
        length -= len(piece.text)
        kept.append(Piece(text, piece.tokens))
    return tuple(kept)
