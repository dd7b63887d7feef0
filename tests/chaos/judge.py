"""What must hold of every promise, checked against what was heard. The judge never asks the daemon anything.

Rules, by name:

- `end`: an accepted task is known after the storm and has reached one end, and everybody was told the same one.
- `promise`: every 202 of a task tells the same seed and determinism, and `started` keeps to them.
- `id`, `gap`, `double`: on each connection positions go on from where the reader stood, byte by byte.
- `bytes`: every byte heard is the byte of the one text that the task has; what the library handed on is the same.
- `after-end`: nothing comes after the terminal event, and a connection has one at most.
- `digest`: a receipt's digest is that of the text.
- `text`: a strict task's text is the undisturbed one to the byte; where it was ended early, its beginning.
- `cancel`: after a cancel was answered, the text is what it was; nobody is cancelled who did not ask.
- `reset`: a task fails only for a reason that the contract knows and the monkey gave.

Req: ORCH-4347
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from orchqueue.client.position import Position
from tests.chaos.evidence import Account, Book, Connection, Final, Heard, Piece, Reference

POISON_KILLS = 3
REPLICA_STROKES = (
    "kill_replica", "freeze_replica", "starve_replica", "end_starved", "kill_daemon", "stop_daemon", "reload"
)  # fmt: skip
CRASHES = ("kill_daemon",)
DRAIN_STROKES = ("drain_asked", "drain", "drain_missed", "reload_asked", "reload", "reload_missed")


class Violation(NamedTuple):
    """A broken promise."""

    task_id: str
    rule: str
    detail: str

    def line(self) -> str:
        """Say it in one line."""
        return f"{self.rule}: task {self.task_id}: {self.detail}"


class Counted(NamedTuple):
    """The daemon's own count of this tenant's tasks, after the storm."""

    accepted: int
    succeeded: int
    failed: int
    canceled: int


def judge(book: Book, references: Mapping[Piece, Reference], counted: Counted) -> list[Violation]:
    """Check everything; the empty list is an acquittal."""
    found = [Violation("-", "surprise", text) for text in book.surprises]
    for account in book.accepted():
        found += judge_account(account, references[account.piece], book)
    found += [
        Violation(account.task_id, "end", f"it was refused, and is {account.finals[-1].state} all the same")
        for account in book.accounts.values()
        if not account.accepted and account.finals and account.finals[-1].state != "unknown"
    ]
    return found + list(_judge_counts(book.accepted(), counted))


def judge_account(account: Account, reference: Reference, book: Book) -> list[Violation]:
    """Check one accepted task."""
    return [Violation(account.task_id, rule, detail) for rule, detail in _findings(account, reference, book)]


Finding = tuple[str, str]


def _findings(account: Account, reference: Reference, book: Book) -> Iterator[Finding]:
    promises = set(account.promises)
    if promises != {(account.piece.seed, "strict" if account.strict else "best_effort")}:
        yield "promise", f"asked with seed {account.piece.seed}, strict {account.strict}, promised {sorted(promises)}"
    if account.unknown:
        yield "end", f"it was accepted, and {account.unknown} times there was no such task"
    if not account.finals or account.finals[-1].state == "unknown":
        yield "end", "it was accepted and is lost"
        return
    final = account.finals[-1]
    if not final.ended:
        yield "end", f"it is still {final.state}"
        return
    # An end that was told as not durable may be undone by a crash; then the one after it counts.
    if len({(f.text, f.finish_reason, f.error_code) for f in account.finals if f.ended and f.durable}) > 1:
        yield "end", f"it had several ends: {[(f.finish_reason or f.error_code, len(f.text)) for f in account.finals]}"
    yield from _judge_end(account, final, reference, book)
    measure = _measure_of(account, final, reference, book)
    if account.mismatches and not measure.may_part:
        yield "bytes", f"a reader could not go on: {account.mismatches}"
    for number, connection in enumerate(account.connections):
        for rule, detail in _walk(connection, measure, account, final):
            yield rule, f"connection {number} of {len(account.connections)}: {detail}"
    for follower in account.followers:
        handed = follower.text.encode()
        text = handed if measure.text is None else measure.text
        if not text.startswith(handed) or (follower.end and handed != final.text.encode() and not measure.may_part):
            yield "bytes", f"a reader was handed {len(handed)} bytes that are not the text of {len(text)}"
        if not (follower.end or follower.left or account.mismatches or account.unknown):
            yield "end", "a reader who stayed was never told an end"
    if not any(heard.name in ("end", "error") for c in account.connections for heard in c.heard):
        yield "end", "nobody ever heard its end"


class _Measure(NamedTuple):
    """What heard bytes are compared with; None: nothing. `may_part`: a reader may hold more than the task has."""

    text: bytes | None
    may_part: bool


def _measure_of(account: Account, final: Final, reference: Reference, book: Book) -> _Measure:
    """Choose what was to be heard.

    1. As a rule, the text of the task and nothing else.
    2. The last words before a crash of the daemon need not be in the journal. A strict task says them again, unless it is
       ended before it gets so far: then what was heard is the undisturbed text, and may be more than the task has.
    3. A best_effort task cannot say them again: what it says instead is another text.
    4. An end that said itself that it was not durable settles nothing: the task may say its last words again.
    """
    until_s = book.now_s() if _was_told_undurable(account) else account.settled_at_s or book.now_s()
    crashed = book.strokes_between(CRASHES, account.accepted_at_s, until_s) > 0
    if not crashed or (account.strict and final.finish_reason in ("stop", "length")):
        return _Measure(final.text.encode(), may_part=False)
    return _Measure(reference.text.encode() if account.strict else None, may_part=True)


def _was_told_undurable(account: Account) -> bool:
    ends = (heard.data for connection in account.connections for heard in connection.heard if heard.name == "end")
    return any(not json.loads(data)["receipt"].get("durable", True) for data in ends)


def _judge_end(account: Account, final: Final, reference: Reference, book: Book) -> Iterator[Finding]:
    whole = final.finish_reason in ("stop", "length")
    if account.strict:
        if whole and (final.text, final.finish_reason) != reference:
            yield "text", _difference(final.text, reference.text)
        elif not reference.text.startswith(final.text):
            yield "text", "the beginning: " + _difference(final.text, reference.text)
    if final.digest and final.digest != sha256(final.text.encode()).hexdigest():
        yield "digest", f"{final.digest} is not the digest of its {len(final.text.encode())} bytes"
    if account.told_after_cancel is not None and account.told_after_cancel != final.text:
        yield "cancel", f"{len(final.text) - len(account.told_after_cancel)} characters more after its 204"
    asked = account.told_after_cancel is not None or account.may_vanish
    if final.finish_reason == "canceled" and not asked:
        yield "cancel", "it was cancelled, and nobody asked for it"
    if final.error_code and not _excused(account, final.error_code, book):
        yield "reset", f"it failed with {final.error_code} after {len(final.text)} characters"


def _excused(account: Account, code: str, book: Book) -> bool:
    """Tell whether a failure is one that the contract knows and the monkey gave a reason for."""
    until_s = account.settled_at_s or book.now_s()

    def strokes(acts: tuple[str, ...]) -> int:
        return book.strokes_between(acts, account.accepted_at_s, until_s)

    match code:
        case "POOL_UNAVAILABLE":
            return account.piece.pool_id == "side" and strokes(DRAIN_STROKES) > 0
        case "WORKER_RESET":
            return strokes(REPLICA_STROKES) >= (POISON_KILLS if account.strict else 1)
        case "DECODE_TIMEOUT":
            return strokes(REPLICA_STROKES) >= POISON_KILLS
    return False


def _walk(connection: Connection, measure: _Measure, account: Account, final: Final) -> Iterator[Finding]:
    """Go along one connection's events and compare each with where the reader stands in the text."""
    text = measure.text
    at = Position.parse(connection.resumed_from).text_bytes if connection.resumed_from else 0
    began_at, terminal = at, ""
    for heard in connection.heard:
        if terminal:
            yield "after-end", f"{heard.name} after {terminal}"
            return
        if heard.name == "metrics":
            continue
        data: dict[str, Any] = json.loads(heard.data)
        if heard.name == "started":
            if at != began_at:
                yield "id", f"started at byte {at}"
            if (data["seed"], data["determinism"]) not in account.promises:
                yield "promise", f"started with seed {data['seed']}, {data['determinism']}"
            continue
        position = _position(heard)
        if position is None:
            yield "id", f"{heard.name} came with id {heard.event_id!r}"
            return
        if heard.name == "token":
            piece = str(data["t"]).encode()
            begin = position.text_bytes - len(piece)
            if begin != at:
                yield ("gap" if begin > at else "double"), f"a token begins at byte {begin}, the reader stood at {at}"
                return
            at = position.text_bytes
            if text is None:
                continue
            if text[begin:at] != piece:
                yield "bytes", f"bytes {begin} to {at} are {piece[:40]!r}, in the text {text[begin:at][:40]!r}"
                return
            if position.crc32 != zlib.crc32(text[:at]):
                yield "id", f"the checksum at byte {at} is not the text's"
            continue
        terminal = heard.name
        if measure.may_part and terminal == "error" and data["code"] == "WORKER_RESET":
            continue  # this reader alone was told to begin anew
        yield from _judge_terminal(heard, data, position, at, account, final)


def _judge_terminal(
    heard: Heard, data: dict[str, Any], position: Position, at: int, account: Account, final: Final
) -> Iterator[Finding]:
    text = final.text.encode()
    if heard.name == "error":
        if data["code"] != final.error_code:
            yield "end", f"it was told {data['code']}, and has {final.error_code or final.finish_reason}"
        return
    if heard.name != "end":
        yield "id", f"an event of the name {heard.name!r}"
        return
    receipt = data["receipt"]
    told = (data["finish_reason"], receipt["digest"])
    if told != (final.finish_reason, sha256(text).hexdigest()) and receipt.get("durable", True):
        yield "end", f"it was told {told[0]}, and has {final.finish_reason or final.error_code}, or another digest"
    if (position.text_bytes, position.ended) != (at, True):
        yield "gap", f"the end is at byte {position.text_bytes}, the reader stood at {at}"
    if receipt["seed"] != account.piece.seed:
        yield "promise", f"the receipt's seed is {receipt['seed']}"


def _judge_counts(accepted: Iterable[Account], counted: Counted) -> Iterator[Violation]:
    """Compare the daemon's count with what was promised: a task that ran twice would be counted twice."""
    ends = Counter(
        "failed" if final.error_code else "canceled" if final.finish_reason == "canceled" else "succeeded"
        for final in (account.finals[-1] for account in accepted if account.finals)
        if final.ended
    )
    promised = Counted(sum(1 for _ in accepted), ends["succeeded"], ends["failed"], ends["canceled"])
    if counted != promised:
        yield Violation("-", "count", f"the daemon counted {counted}, promised were {promised}")


def _position(heard: Heard) -> Position | None:
    try:
        return Position.parse(heard.event_id)
    except ValueError:
        return None


def _difference(text: str, wanted: str) -> str:
    at = next((n for n, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b), min(len(text), len(wanted)))
    return f"from character {at} on it is {text[at : at + 20]!r}, undisturbed {wanted[at : at + 20]!r}"
