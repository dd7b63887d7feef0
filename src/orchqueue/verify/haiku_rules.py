"""The rules of the haiku, and the judge of what came: one finding for each rule, with its reason.

Req: ORCH-4241, ORCH-4411, ORCH-4412
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from orchqueue.client.types import End, Started
from orchqueue.verify.haiku_counting import tokens_out
from orchqueue.verify.haiku_tree import Search
from orchqueue.verify.haiku_words import folded, in_words, lines_of, minutes_named

LINES_AT_LEAST: Final = 3
LIMIT_S: Final = 30.0
Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Told:
    """What the control plane tells of the pool that served. `digests`: of its ready replicas."""

    engine_version: str | None
    digests: frozenset[str]


@dataclass(frozen=True)
class Scrapes:
    """The text of /metrics before and after."""

    before: str
    after: str


@dataclass(frozen=True)
class Evidence:
    """All that is known of one poem.

    Shape: `text` is the output as it came, `poem` what the mode takes for the poem; `failure` says why there is no end;
    `scrapes` and `told` are None where nobody was to look.
    """

    minute: int
    minute_after: int
    nonce: str
    prompt: str
    asked_seed: int
    wall_s: float
    limit_s: float
    search: Search
    text: str = ""
    poem: str = ""
    failure: str = ""
    started: Started | None = None
    end: End | None = None
    scrapes: Scrapes | None = None
    told: Told | None = None


@dataclass(frozen=True)
class Finding:
    """What one rule says. `passed` is None where it was not looked at."""

    rule: str
    passed: bool | None
    reason: str


def says_simulated(engine_version: str | None) -> bool:
    """Tell whether an engine calls itself simulated; every simulated engine of this project does."""
    return "simulated" in (engine_version or "").casefold()


def _answered(it: Evidence) -> Verdict:
    if it.end is None or it.started is None:
        return False, it.failure or "the stream brought no start or no end"
    if it.end.canceled:
        return False, "the task was canceled"
    return True, f"{it.end.tokens_out} tokens, {it.end.finish_reason}"


def _real_engine(it: Evidence) -> Verdict:
    version = it.started.engine_version if it.started else ""
    told = it.told.engine_version if it.told else None
    if says_simulated(version) or says_simulated(told):
        return False, f"{version or told}: simulated engines write no poems"
    return (True, version) if version else (False, "no engine said what it is")


def _three_lines(it: Evidence) -> Verdict:
    count = len(lines_of(_own(it)))
    return count >= LINES_AT_LEAST, f"{count} lines"


def _minute(it: Evidence) -> Verdict:
    words, named = in_words(it.minute), minutes_named(_own(it))
    if it.minute in named:
        return True, f"“{words}” stands in it"
    others = ", ".join(in_words(other) for other in sorted(named))
    return False, f"“{words}” does not stand in it" + (f", but {others}" if others else "")


def _nonce(it: Evidence) -> Verdict:
    here = it.nonce in folded(_own(it))
    return here, f"“{it.nonce}” {'stands' if here else 'does not stand'} in it"


def _no_echo(it: Evidence) -> Verdict:
    told, poem = _flat(it.prompt), _own(it)
    lines = lines_of(poem)
    if not lines:
        return False, "nothing is left when the prompt is taken out"
    if _flat(poem) in told or all(_flat(line) in told for line in lines):
        return False, "every line of it stood in the prompt"
    return True, "it is no piece of the prompt"


def _in_time(it: Evidence) -> Verdict:
    return it.wall_s <= it.limit_s, f"{it.wall_s:.1f} s of {it.limit_s:g} s"


def _one_minute(it: Evidence) -> Verdict:
    if it.minute_after != it.minute:
        return False, f"it was {in_words(it.minute)}, then {in_words(it.minute_after)}"
    return True, f"{in_words(it.minute)}, before and after"


def _fresh(it: Evidence) -> Verdict:
    if it.end is None or it.started is None:
        return False, "no receipt"
    receipt = it.end.receipt
    if receipt.digest != sha256(it.text.encode()).hexdigest():
        return False, "the receipt vouches for another text"
    if receipt.attempts < 1:
        return False, "no engine began this task"
    if not it.asked_seed == it.started.seed == receipt.seed:
        return False, f"seed {it.asked_seed} was asked, {it.started.seed} started, {receipt.seed} is in the receipt"
    return True, f"sha256 {receipt.digest[:12]}…, seed {receipt.seed}, {receipt.attempts} attempt(s)"


def _visible(it: Evidence) -> Verdict:
    if it.end is None or it.started is None:
        return False, "no receipt"
    said = {(it.started.engine_version, it.started.model_digest)}
    said.add((it.end.receipt.engine_version, it.end.receipt.model_digest))
    if len(said) > 1:
        return False, f"the stream began and ended with different ones: {sorted(said)}"
    [(version, digest)] = said
    if not version or not digest:
        return False, f"engine_version is {version!r}, model_digest is {digest!r}"
    where = "started and receipt"
    if it.told is not None:
        if it.told.engine_version != version:
            return False, f"the stream says {version}, the capabilities {it.told.engine_version}"
        if digest not in it.told.digests:
            return False, f"the stream says model {digest}, the pool's health {sorted(it.told.digests)}"
        where += ", capabilities, pool health"
    return True, f"{version}, model {digest[:19]}… in {where}"


def _counted(it: Evidence) -> Verdict:
    if it.scrapes is None:
        return None, "not looked at, as you asked"
    if it.end is None or it.started is None:
        return False, "no receipt"
    labels = served_by(it.started, it.end)
    rose = tokens_out(it.scrapes.after, labels) - tokens_out(it.scrapes.before, labels)
    said = f"tokens_out_total rose by {rose:g}, the task has {it.end.tokens_out}"
    return rose >= it.end.tokens_out > 0, said


def _nothing_prepared(it: Evidence) -> Verdict:
    if it.search.root is None:
        return None, "not inside a checkout, so there was nothing to search"
    if it.search.found:
        return False, "; ".join(it.search.found[:3])
    return True, f"nothing in {it.search.root.name} knows both strings"


RULES: Final[tuple[tuple[str, Callable[[Evidence], Verdict]], ...]] = (
    ("answered", _answered),
    ("real_engine", _real_engine),
    ("three_lines", _three_lines),
    ("minute", _minute),
    ("nonce", _nonce),
    ("no_echo", _no_echo),
    ("in_time", _in_time),
    ("one_minute", _one_minute),
    ("fresh", _fresh),
    ("visible", _visible),
    ("counted", _counted),
    ("nothing_prepared", _nothing_prepared),
)


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """Hold one poem against every rule, in the order of RULES.

    Req: ORCH-4411, ORCH-4412
    """
    return tuple(Finding(name, *rule(evidence)) for name, rule in RULES)


def is_verified(findings: tuple[Finding, ...]) -> bool:
    """Tell whether no rule was broken."""
    return all(finding.passed is not False for finding in findings)


def served_by(started: Started, end: End) -> dict[str, str]:
    """Give the labels of the counter that must have moved; a task of several attempts may have ended on another replica."""
    receipt = end.receipt
    labels = {"engine": receipt.engine, "engine_version": receipt.engine_version, "pool_id": started.pool_id}
    return labels | ({"replica_id": started.replica_id} if receipt.attempts == 1 else {})


def _own(it: Evidence) -> str:
    """Return the poem without the sentence that asked for it: what only repeats the wish fulfils nothing."""
    poem = folded(it.poem)
    for line in folded(it.prompt).splitlines():
        if it.nonce in line:
            poem = poem.replace(line, "\n")
    return poem


def _flat(text: str) -> str:
    return " ".join(folded(text).split())
