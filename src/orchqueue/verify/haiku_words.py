"""The minute in English words, the nonce, and how both are found in a poem."""

from __future__ import annotations

import datetime as dt
import re
import secrets
import string
import unicodedata
import zoneinfo
from typing import Final

NONCE_CHARACTERS: Final = 8
_UNITS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_SMALL: Final = {word: number for number, word in enumerate(_UNITS)}
# Unicode files these three hyphens under other kinds of characters than its dashes.
_MORE_HYPHENS: Final = frozenset("\u00ad\u02d7\u2043\u2212")
_WORD: Final = re.compile(r"[^\W\d_]+")


def minute_of(instant: dt.datetime) -> int:
    """Give the minute of the hour that clocks in Amsterdam show, whatever this machine's own zone is.

    >>> minute_of(dt.datetime(2026, 11, 28, 9, 41, tzinfo=dt.UTC))
    41
    """
    try:
        return instant.astimezone(zoneinfo.ZoneInfo("Europe/Amsterdam")).minute
    except zoneinfo.ZoneInfoNotFoundError:
        # Amsterdam has been a whole number of hours from UTC since 1940: without the zone's data the minute is UTC's.
        return instant.astimezone(dt.UTC).minute


def minute_now() -> int:
    """Read the minute of the hour in Amsterdam."""
    return minute_of(dt.datetime.now(dt.UTC))


def in_words(minute: int) -> str:
    """Write a minute in English.

    >>> [in_words(minute) for minute in (0, 19, 40, 42)]
    ['zero', 'nineteen', 'forty', 'forty-two']
    """
    if minute < len(_UNITS):
        return _UNITS[minute]
    ten = next(word for word, number in _TENS.items() if number == minute // 10 * 10)
    return f"{ten}-{_UNITS[minute % 10]}" if minute % 10 else ten


def new_nonce() -> str:
    """Make 8 random letters that nobody can know beforehand.

    Letters, because a small model copies them more faithfully than digits.
    """
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(NONCE_CHARACTERS))


def folded(text: str) -> str:
    r"""Fold case, width, every kind of hyphen and of space; drop what nobody sees.

    >>> folded("Forty\u2011TWO\u00a0x\u200b")
    'forty-two x'
    """
    return "".join(_folded(character) for character in unicodedata.normalize("NFKC", text).casefold())


def _folded(character: str) -> str:
    if character in _MORE_HYPHENS:
        return "-"
    kind = unicodedata.category(character)
    return {"Pd": "-", "Zs": " ", "Cf": ""}.get(kind, character)


def minutes_named(text: str) -> frozenset[int]:
    """List every minute that a text names in words.

    A ten followed by a unit, with a hyphen or white space between, names one minute: `forty-two` names neither 40 nor 2.

    >>> sorted(minutes_named("Forty Two herons, six past twenty"))
    [6, 20, 42]
    """
    plain = folded(text)
    words = list(_WORD.finditer(plain))
    found = set()
    at = 0
    while at < len(words):
        word = words[at].group()
        at += 1
        ten = _TENS.get(word)
        if ten is None:
            found.add(_SMALL.get(word, -1))
            continue
        unit = _SMALL.get(words[at].group(), 0) if at < len(words) else 0
        if 1 <= unit <= 9 and not plain[words[at - 1].end() : words[at].start()].strip("-\t\n\r "):
            found.add(ten + unit)
            at += 1
        else:
            found.add(ten)
    return frozenset(found - {-1})


def lines_of(poem: str) -> list[str]:
    """List the lines of a poem that hold a word."""
    return [line.strip() for line in poem.splitlines() if _WORD.search(line)]
