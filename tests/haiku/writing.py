"""Ask a live model for a poem that nobody could have prepared, and tell one that was.

Req: ORCH-4241
"""

from __future__ import annotations

import datetime as dt
import secrets
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from orchqueue.client import AsyncClient, Message, Sampling, TaskRequest
from orchqueue.client.types import Completion

ROOT = Path(__file__).parents[2]
Answer = TypeVar("Answer")
DEADLINE_MS = 30_000
SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty")
HYPHENS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212 ", "-"))


def minute_now() -> int:
    """Read the minute of the hour in Amsterdam, which is a whole number of hours from UTC."""
    return dt.datetime.now(dt.UTC).minute


def in_words(minute: int) -> str:
    """Write a minute in English.

    >>> [in_words(minute) for minute in (0, 19, 40, 42)]
    ['zero', 'nineteen', 'forty', 'forty-two']
    """
    if minute < len(SMALL):
        return SMALL[minute]
    return TENS[minute // 10] + (f"-{SMALL[minute % 10]}" if minute % 10 else "")


def folded(text: str) -> str:
    """Fold case and the kinds of hyphen."""
    return text.casefold().translate(HYPHENS)


def grammar(words: str, nonce: str) -> str:
    """Fix both strings and leave every other word to the model."""
    return (
        f'root ::= line " {words} " line "\\n" line " {nonce}\\n" line "\\n"\n'
        'line ::= word " " word " " word\n'
        "word ::= [a-z] [a-z] [a-z] [a-z]? [a-z]? [a-z]? [a-z]?\n"
    )


async def poem(url: str, minute: int, nonce: str) -> Completion:
    """Ask for a poem through POST /v1/tasks and its stream; the daemon's deadline bounds it."""
    words = in_words(minute)
    wish = f"Write a haiku of three lines with the words {words} and {nonce}."
    request = TaskRequest(
        messages=[Message(role="user", content=wish)],
        max_tokens=200,
        deadline_ms=DEADLINE_MS,
        sampling=Sampling(grammar=grammar(words, nonce)),
    )
    async with AsyncClient(url) as client, await client.run(request) as stream:
        return await stream.result()


async def refuse_simulated(url: str) -> None:
    """Fail for engines that only pretend.

    Errors: AssertionError.
    """
    async with AsyncClient(url) as client:
        versions = [pool.engine_version for pool in (await client.capabilities()).pools]
    assert not [version for version in versions if "simulated" in str(version)], "simulated engines write no poems"


async def in_one_minute(
    write: Callable[[int, str], Awaitable[Answer]], clock: Callable[[], int] = minute_now
) -> tuple[str, str, Answer]:
    """Return the minute's words, the nonce and the poem; asked again once when the minute flipped meanwhile."""
    for _ in range(2):
        minute, nonce = clock(), secrets.token_hex(4)
        answer = await write(minute, nonce)
        if clock() == minute:
            break
    return in_words(minute), nonce, answer


def prepared(words: str, nonce: str) -> list[str]:
    """List what in the tree could have been an answer made beforehand."""
    found = subprocess.run(["git", "grep", "-F", nonce], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in found.stdout.splitlines() if folded(words) in folded(line)]
    return lines + [str(path) for path in ROOT.rglob("fixtures/haiku*") if ".venv" not in path.parts]
