"""The judge bites: each way to break a promise, doctored into an honest transcript, is found and called by its name."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from hashlib import sha256

import msgspec
import pytest

from tests.chaos.evidence import Account, Book, Connection, Final, Follower, Heard, Piece, Reference
from tests.chaos.judge import Counted, judge

TASK = "6f1c2f5e-2b1e-4b7e-9d7c-0d8f5b3c1a2b"
PIECE = Piece("sim", "repo:test/sim", "Tell", 7, 20, True)
TEXT = "naïve old clerk"
REFERENCES = {PIECE: Reference(TEXT, "length")}
DIGEST = sha256(TEXT.encode()).hexdigest()
FINAL = Final("succeeded", TEXT, "length", "", DIGEST, durable=True)
ONE = Counted(1, 1, 0, 0)
Doctor = Callable[[Account], None]


def token(text: str, before: str, at_s: float = 1.0) -> Heard:
    """Write a token event as the daemon does."""
    so_far = (before + text).encode()
    return Heard("token", f"{len(so_far)}:{zlib.crc32(so_far):08x}", json.dumps({"t": text, "i": 0}), at_s)


def end(text: str = TEXT, **changes: object) -> Heard:
    """Write the terminal event of a finished task."""
    raw = text.encode()
    receipt = {"digest": sha256(raw).hexdigest(), "seed": 7, "durable": True} | changes
    data = {"finish_reason": "length", "canceled": False, "receipt": receipt}
    return Heard("end", f"{len(raw)}:{zlib.crc32(raw):08x}:end", json.dumps(data), 2.0)


def started(determinism: str = "strict") -> Heard:
    """Write the first event."""
    return Heard("started", "0:00000000", json.dumps({"seed": 7, "determinism": determinism}), 0.5)


def honest() -> tuple[Book, Account]:
    """Give a book with one task that was read in two connections, all as promised."""
    book = Book()
    account = book.open(TASK, PIECE, "reader", strict=True)
    account.promises += [(7, "strict"), (7, "strict")]
    first = token("naïve", "")
    account.connections += [
        Connection("", [started(), first, Heard("metrics", "", "{}", 1.0), token(" old", "naïve")]),
        Connection(first.event_id, [token(" old", "naïve"), token(" clerk", "naïve old"), end()]),
        Connection(end().event_id.removesuffix(":end"), [end()]),
    ]
    account.followers.append(Follower(TEXT, "end:length"))
    account.finals += [FINAL, FINAL]
    return book, account


def rules(book: Book, counted: Counted = ONE) -> set[str]:
    """Judge, and name the rules that were broken."""
    return {violation.rule for violation in judge(book, REFERENCES, counted)}


@pytest.mark.req("ORCH-4347")
def test_honest_transcript_is_acquitted() -> None:
    """A task that was read in pieces and kept every promise is not complained of."""
    book, _ = honest()
    assert judge(book, REFERENCES, ONE) == []


def _replace(account: Account, at: int, heard: Heard) -> None:
    account.connections[1].heard[at] = heard


def _finals(account: Account, **changes: str) -> None:
    account.finals[:] = [Final(**{**FINAL._asdict(), **changes})] * 2


def _cancel(account: Account, *, told: str, kept: str) -> None:
    """Have the task cancelled: `told` right after the 204, `kept` in the end."""
    account.told_after_cancel = told
    digest = sha256(kept.encode()).hexdigest()
    _finals(account, state="canceled", text=kept, finish_reason="canceled", digest=digest)
    account.connections[:] = [Connection("", [started(), token(kept, ""), end(kept)])]
    data = json.loads(end(kept).data) | {"finish_reason": "canceled"}
    account.connections[0].heard[-1] = end(kept)._replace(data=json.dumps(data))
    account.followers[:] = [Follower(kept, "end:canceled")]


PLANTED: dict[str, tuple[str, Doctor]] = {
    "a token is missing": ("gap", lambda a: a.connections[1].heard.__delitem__(0)),
    "a token comes twice": ("double", lambda a: a.connections[1].heard.insert(1, token(" old", "naïve"))),
    "a byte comes twice": ("double", lambda a: _replace(a, 1, token("d clerk", "naïve ol"))),
    "a byte is suppressed": ("gap", lambda a: _replace(a, 0, token("old", "naïve "))),
    "another byte comes": ("bytes", lambda a: _replace(a, 0, token(" odd", "naïve"))),
    "a checksum is another text's": (
        "id",
        lambda a: _replace(a, 0, token(" old", "naïve")._replace(event_id="10:00000000")),
    ),
    "a token has no id": ("id", lambda a: _replace(a, 0, token(" old", "naïve")._replace(event_id=""))),
    "there are two ends": ("after-end", lambda a: a.connections[1].heard.append(end())),
    "a token follows the end": ("after-end", lambda a: a.connections[1].heard.append(token("!", TEXT))),
    "the end is early": ("gap", lambda a: a.connections[1].heard.__delitem__(1)),
    "no end was ever heard": ("end", lambda a: a.connections.__delitem__(slice(1, None))),
    "the task is lost": ("end", lambda a: a.finals.append(Final("unknown", "", "", "", "", durable=True))),
    "the task was lost for a while": ("end", lambda a: setattr(a, "unknown", 1)),
    "the task never ends": ("end", lambda a: a.finals.append(Final("queued", "", "", "", "", durable=True))),
    "the end changed later": ("end", lambda a: a.finals.insert(0, FINAL._replace(text="naïve", finish_reason="stop"))),
    "one reader was told another end": ("end", lambda a: a.connections.append(Connection("", [error("INTERNAL")]))),
    "the text is not the undisturbed one": ("text", lambda a: _finals(a, text=TEXT.replace("c", "C"))),
    "the finish reason is not": ("text", lambda a: _finals(a, finish_reason="stop")),
    "the kept digest is wrong": ("digest", lambda a: _finals(a, digest="0" * 64)),
    "the receipt's digest is wrong": ("end", lambda a: _replace(a, 2, end(digest="0" * 64))),
    "the receipt tells another seed": ("promise", lambda a: _replace(a, 2, end(seed=8))),
    "two answers promise different seeds": ("promise", lambda a: a.promises.append((8, "strict"))),
    "another determinism is promised": ("promise", lambda a: a.promises.append((7, "best_effort"))),
    "it starts with another seed": (
        "promise",
        lambda a: a.connections[0].heard.__setitem__(
            0, started()._replace(data=json.dumps({"seed": 8, "determinism": "strict"}))
        ),
    ),
    "started comes in the middle": ("id", lambda a: a.connections[0].heard.append(started())),
    "a token comes after a 204": ("cancel", lambda a: _cancel(a, told="naïve", kept="naïve old")),
    "a canceled text is another": ("text", lambda a: _cancel(a, told="other", kept="other")),
    "nobody asked for a cancel": ("cancel", lambda a: _finals(a, state="canceled", finish_reason="canceled")),
    "it fails without a reason": ("reset", lambda a: _finals(a, state="failed", error_code="WORKER_RESET")),
    "it fails with a bug of ours": ("reset", lambda a: _finals(a, state="failed", error_code="INTERNAL")),
    "the library handed on too much": ("bytes", lambda a: a.followers.append(Follower(TEXT + "!", "", left=True))),
    "the library handed on too little": ("bytes", lambda a: a.followers.append(Follower("naïve", "end:length"))),
    "a reader who stayed got no end": ("end", lambda a: a.followers.append(Follower("naïve"))),
    "an event nobody knows": ("id", lambda a: _replace(a, 2, end()._replace(name="finish"))),
}


def error(code: str) -> Heard:
    """Write the terminal event of a failed task."""
    return Heard("error", "0:00000000:end", json.dumps({"code": code}), 1.0)


@pytest.mark.req("ORCH-4347")
@pytest.mark.parametrize(("rule", "doctor"), PLANTED.values(), ids=PLANTED.keys())
def test_doctored_transcript_is_convicted(rule: str, doctor: Doctor) -> None:
    """One lie in an otherwise honest transcript breaks the rule that it should."""
    book, account = honest()
    doctor(account)
    assert rule in rules(book)


@pytest.mark.req("ORCH-4347")
def test_honest_cancel_is_acquitted() -> None:
    """A task that was cancelled keeps the text that it had, which is the beginning of the undisturbed one."""
    book, account = honest()
    _cancel(account, told="naïve", kept="naïve")
    assert rules(book, Counted(1, 0, 0, 1)) == set()


@pytest.mark.req("ORCH-4347")
@pytest.mark.parametrize(
    "counted", [Counted(2, 2, 0, 0), Counted(2, 1, 0, 0), Counted(0, 0, 0, 0), Counted(1, 0, 1, 0)]
)
def test_task_that_is_counted_otherwise_is_noticed(counted: Counted) -> None:
    """A task that ran twice, was never counted or ended otherwise shows in the daemon's own count."""
    book, _ = honest()
    assert rules(book, counted) == {"count"}


@pytest.mark.req("ORCH-4347")
def test_refused_task_that_runs_all_the_same_is_noticed() -> None:
    """Whoever was refused is not to find the task done."""
    book, account = honest()
    account.promises.clear()
    assert rules(book, Counted(0, 0, 0, 0)) == {"end"}


@pytest.mark.req("ORCH-4347")
def test_undurable_end_may_be_replaced() -> None:
    """An end that said itself that it was not durable may be another one after a crash."""
    book, account = honest()
    early = FINAL._replace(text="naïve", finish_reason="stop", durable=False)
    account.finals.insert(0, early)
    account.connections.append(Connection("", [started(), token("naïve", ""), end("naïve", durable=False)]))
    assert rules(book) == set()


@pytest.mark.req("ORCH-4347")
@pytest.mark.parametrize(
    ("strict", "act", "rule"),
    [(True, "kill_daemon", {"bytes", "end", "after-end"}), (False, "kill_daemon", set()), (False, "cut", {"bytes"})],
)
def test_only_a_best_effort_reader_may_be_parted_from(strict: bool, act: str, rule: set[str]) -> None:
    """A reader whose last words a crash took is told so; a strict one never is, and nobody is for less than a crash."""
    book, account = honest()
    account.strict = strict
    account.promises[:] = [(7, "strict" if strict else "best_effort")]
    account.connections[0].heard[0] = started("strict" if strict else "best_effort")
    lost = [token("naïve", ""), token(" older", "naïve"), error("WORKER_RESET")]
    account.connections.append(Connection("", [started("strict" if strict else "best_effort"), *lost]))
    account.mismatches.append((1.0, "it does not go on"))
    book.strike(act)
    assert (rules(book) & rule != set()) if rule else not rules(book)


@pytest.mark.req("ORCH-4347")
@pytest.mark.parametrize(("heard", "act", "broken"), [
    (" old", "kill_daemon", False), (" odd", "kill_daemon", True), (" old", "cut", True),
])  # fmt: skip
def test_crash_may_take_last_words_of_a_cancelled_task(heard: str, act: str, broken: bool) -> None:
    """What a reader heard before a crash may be missing from a cancelled task, but it was the undisturbed text."""
    book, account = honest()
    _cancel(account, told="naïve", kept="naïve")
    account.connections.append(Connection("", [started(), token("naïve", ""), token(heard, "naïve")]))
    account.followers.append(Follower("naïve" + heard, left=True))
    book.strike(act)
    assert ("bytes" in rules(book, Counted(1, 0, 0, 1))) is broken


@pytest.mark.req("ORCH-4347")
@pytest.mark.parametrize("durable", [True, False])
def test_crash_after_an_end_excuses_only_what_was_told_undurable(durable: bool) -> None:
    """A best_effort task whose undurable end a crash took may end with another text; a durable end is kept."""
    book, account = honest()
    account.strict = False
    account.promises[:] = [(7, "best_effort")]
    account.settled_at_s = 1e-9
    account.connections[:] = [Connection("", [started("best_effort"), token("naïve cat", ""), end("naïve cat")])]
    account.connections[0].heard[-1] = end("naïve cat", durable=durable)
    account.followers[:] = [Follower("naïve cat", "end:length")]
    book.strike("kill_daemon")
    assert bool(rules(book)) is durable


@pytest.mark.req("ORCH-4347")
@pytest.mark.parametrize(
    ("strict", "code", "acts", "rule"),
    [
        (True, "WORKER_RESET", ("kill_replica",) * 2, {"reset"}),
        (True, "WORKER_RESET", ("kill_replica",) * 3, set()),
        (False, "WORKER_RESET", ("kill_replica",), set()),
        (False, "WORKER_RESET", ("cut",), {"reset"}),
        (False, "POOL_UNAVAILABLE", ("drain",), {"reset"}),
    ],
)
def test_failure_wants_a_reason(strict: bool, code: str, acts: tuple[str, ...], rule: set[str]) -> None:
    """A failed task is excused only by what the monkey did while it lived, and as far as the contract allows."""
    book, account = honest()
    account.strict = strict
    account.promises[:] = [(7, "strict" if strict else "best_effort")]
    _finals(account, state="failed", text="", finish_reason="", error_code=code, digest="")
    account.connections[:] = [Connection("", [error(code)])]
    account.followers.clear()
    for act in acts:
        book.strike(act)
    assert rules(book, Counted(1, 0, 1, 0)) == rule


@pytest.mark.req("ORCH-4347")
def test_surprises_are_violations() -> None:
    """What breaks a promise by itself is in the verdict."""
    book, _ = honest()
    book.surprise("life 3 ended by itself")
    assert rules(book) == {"surprise"}
    assert msgspec.json.encode(judge(book, REFERENCES, ONE))
