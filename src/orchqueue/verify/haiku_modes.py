"""The ways to ask for the poem: what is said to the model, what is asked of the engine, and what a pass then shows."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchqueue.client import Message, Sampling
from orchqueue.verify.haiku_words import in_words, new_nonce

DECOYS: Final = 31
_LISTED: Final = (
    "a again alone an and are at autumn bell bird bridge calls clock cold comes dark dawn deep drifts evening falls far field "
    "frog gone green heron hills his i in is it lake leaf light mist moon mountain my night no of old on out over path pine "
    "pond rain river rises says silence sings sleeps slowly snow softly so spring stone still summer sun the there to tree under "
    "up wakes water we when whispers white wind winter with you"
)
VOCABULARY: Final = tuple(_LISTED.split())
_POET: Final = "You are a poet. You use every word that you are given."
_WORDS: Final = "[A-Za-z]{1,9}"
_SPACED: Final = 'before ::= (word gap){0,4}\nafter ::= (gap word){0,4}\ngap ::= ","? " "\n'


@dataclass(frozen=True)
class Wish:
    """What is asked for one poem."""

    messages: list[Message]
    sampling: Sampling

    @property
    def prompt(self) -> str:
        """Return all that the model is told, as one text."""
        return "\n".join(message.content for message in self.messages)


@dataclass(frozen=True)
class Mode:
    """One way to ask.

    Shape: `shows` is what a pass means, `leaves` what it does not show; `poem_of` takes the poem out of the output.
    Req: ORCH-4413
    """

    name: str
    shows: str
    leaves: str
    ask: Callable[[str, str], Wish]
    poem_of: Callable[[str], str]


def _same(text: str) -> str:
    return text


def _plainly(words: str, nonce: str) -> list[Message]:
    wish = f"Write a haiku of three lines. It must hold the words {words} and {nonce}, spelled exactly so. Write only the haiku."
    return [Message(role="user", content=wish)]


def ask_plain(words: str, nonce: str) -> Wish:
    """Ask in one sentence."""
    return Wish(_plainly(words, nonce), Sampling(temperature=0.0))


def _after_examples(words: str, nonce: str, count: int) -> list[Message]:
    """Show poems with other minutes and nonces; the minutes are spread over the hour and never the one that is asked for."""
    minutes = [minute for minute in range(11, 71) if in_words(minute % 60) != words]
    messages = [Message(role="system", content=_POET)]
    for number in range(count):
        other, another = in_words(minutes[number * 23 % len(minutes)] % 60), new_nonce()
        poem = f"The clock says {other},\nthe river whispers {another},\nand night comes softly."
        messages.append(Message(role="user", content=f"{other}, {another}"))
        messages.append(Message(role="assistant", content=poem))
    return [*messages, Message(role="user", content=f"{words}, {nonce}")]


def ask_with_examples(words: str, nonce: str) -> Wish:
    """Show six poems with other minutes and nonces before asking."""
    return Wish(_after_examples(words, nonce, 6), Sampling(temperature=0.0))


def ask_for_a_choice(words: str, nonce: str) -> Wish:
    """Show four poems, and allow any of the 60 minutes, of 32 nonces and of some words; no message names the 31 decoys.

    So the engine keeps the model to words that are spelled right, and the model has to know which.
    """
    nonces = [new_nonce() for _ in range(DECOYS)]
    nonces.insert(secrets.randbelow(len(nonces) + 1), nonce)
    return Wish(_after_examples(words, nonce, 4), Sampling(temperature=0.0, grammar=choice(nonces)))


def choice(nonces: Sequence[str]) -> str:
    """Write the grammar: a line with some minute, a line with one of these nonces, in either order, then a free line."""
    return (
        'root ::= (minute "\\n" nonce | nonce "\\n" minute) "\\n" free\n'
        "minute ::= before a-minute after end\n"
        "nonce ::= before a-nonce after end\n"
        "free ::= word (gap word){2,6} end\n"
        f"{_SPACED}"
        f"word ::= {' | '.join(map(_either_case, VOCABULARY))}\n"
        "end ::= [.,!]?\n"
        f"a-minute ::= {_any_of(map(in_words, range(60)))}\n"
        f"a-nonce ::= {_any_of(nonces)}\n"
    )


def _either_case(word: str) -> str:
    return f"[{word[0].upper()}{word[0]}]" + (f' "{word[1:]}"' if word[1:] else "")


def _any_of(texts: Iterable[str]) -> str:
    return " | ".join(f'"{text}"' for text in texts)


def ask_by_schema(words: str, nonce: str) -> Wish:
    """Demand JSON whose second and third line hold the strings somewhere."""

    def holding(text: str) -> dict[str, str]:
        pattern = f"^({_WORDS},? ){{0,4}}{text}(,? {_WORDS}){{0,4}}[.]?$"
        return {"type": "string", "pattern": pattern}

    free = {"type": "string", "pattern": f"^{_WORDS}(,? {_WORDS}){{2,6}}$"}
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"first": free, "second": holding(words), "third": holding(nonce)},
        "required": ["first", "second", "third"],
        "additionalProperties": False,
    }
    return Wish(_plainly(words, nonce), Sampling(temperature=0.0, json_schema=schema))


def _lines_of_json(text: str) -> str:
    try:
        lines = json.loads(text)
    except ValueError:
        return text
    return "\n".join(str(line) for line in lines.values()) if isinstance(lines, dict) else text


def ask_by_grammar(words: str, nonce: str) -> Wish:
    """Demand three lines of words with both strings in them; in which lines, and where in them, is the model's choice."""
    return Wish(_plainly(words, nonce), Sampling(temperature=0.0, grammar=grammar(words, nonce)))


def grammar(words: str, nonce: str) -> str:
    """Write the grammar in llama.cpp's form: one alternative for each way to spread two strings over three lines."""

    def three(places: Mapping[int, str]) -> str:
        return ' "\\n" '.join(places.get(line, "free") for line in range(3))

    apart = [three({first: "minute", second: "nonce"}) for first in range(3) for second in range(3) if first != second]
    together = [three({line: both}) for line in range(3) for both in ("minute-nonce", "nonce-minute")]
    return (
        f"root ::= {' | '.join(apart + together)}\n"
        "free ::= word (gap word){2,6}\n"
        "minute ::= before the-minute after\n"
        "nonce ::= before the-nonce after\n"
        "minute-nonce ::= before the-minute after gap the-nonce after\n"
        "nonce-minute ::= before the-nonce after gap the-minute after\n"
        f"{_SPACED}"
        "word ::= [A-Za-z] [a-z]{0,8}\n"
        f'the-minute ::= "{words}"\n'
        f'the-nonce ::= "{nonce}"\n'
    )


MODES: Final[Mapping[str, Mode]] = {
    mode.name: mode
    for mode in (
        Mode(
            "plain",
            "the model did what one sentence asked of it, and nothing but its sampling decided its words",
            "nothing more",
            ask_plain,
            _same,
        ),
        Mode(
            "examples",
            "the model read both strings and wrote them into a poem; nothing but its sampling decided its words",
            "that it would have without six poems to take as a pattern, or a poem of another form",
            ask_with_examples,
            _same,
        ),
        Mode(
            "choice",
            "the model read both strings and chose them among 60 minutes and 32 nonces; by chance one poem in 1920 would",
            "that it can spell them by itself: a grammar that came through the API keeps it to a list of words",
            ask_for_a_choice,
            _same,
        ),
        Mode(
            "schema",
            "a live model decoded under a JSON schema that came through the API",
            "that the model would have used the strings by itself: the schema demands them in the second and the third line",
            ask_by_schema,
            _lines_of_json,
        ),
        Mode(
            "grammar",
            "a live model decoded under a grammar that came through the API, and chose where in its lines both strings stand",
            "that the model would have used the strings by itself: the grammar demands them",
            ask_by_grammar,
            _same,
        ),
    )
}
