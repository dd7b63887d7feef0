"""What was promised and what was heard: all that the judge may know. Nothing here comes from inside the daemon."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import msgspec

from orchqueue.client import Placement, Sampling, TaskRequest

Role = Literal["reader", "pair", "slow", "returner", "at_once", "canceler", "deserter", "flood"]


class Piece(NamedTuple):
    """What a task asks for: the same piece gives the same text wherever it is strict."""

    pool_id: str
    model_ref: str
    prompt: str
    seed: int
    max_tokens: int
    ignore_eos: bool

    def request(
        self, task_id: str, *, strict: bool = True, batch: bool = False, stays: bool = True, pinned: bool = True
    ) -> TaskRequest:
        """Write the request. `stays`: the task goes on without a reader."""
        return TaskRequest(
            task_id=task_id,
            model_ref=self.model_ref,
            prompt=self.prompt,
            seed=self.seed,
            max_tokens=self.max_tokens,
            priority="batch" if batch else "interactive",
            determinism="strict" if strict else "best_effort",
            on_disconnect="continue" if stays else "cancel",
            sampling=Sampling(ignore_eos=self.ignore_eos),
            placement=Placement(mode="pin" if pinned else "prefer", pool_ids=[self.pool_id]),
        )


class Reference(NamedTuple):
    """How a piece went when nobody disturbed it."""

    text: str
    finish_reason: str


class Heard(NamedTuple):
    """One event as it came off the wire. Units: `at_s` of the book's clock."""

    name: str
    event_id: str
    data: str
    at_s: float


class Connection(msgspec.Struct):
    """One connection to a task's stream. `resumed_from` is the Last-Event-ID that was sent, empty from the start."""

    resumed_from: str
    heard: list[Heard] = []


class Follower(msgspec.Struct):
    """What the client library handed to one of its users, from the first byte. `end` is empty until it had one.

    `left`: it went away by itself.
    """

    text: str = ""
    end: str = ""
    left: bool = False


class Final(NamedTuple):
    """How a task stood when it was asked for after the storm."""

    state: str
    text: str
    finish_reason: str
    error_code: str
    digest: str
    durable: bool

    @property
    def ended(self) -> bool:
        """Tell whether nothing more can come."""
        return self.state in ("succeeded", "failed", "canceled")


class Account(msgspec.Struct):
    """Everything that was promised of one task, and everything that was heard of it.

    `told_after_cancel`: its text as told right after a cancel was answered 204. `may_vanish`: its readers left for good, so
    the daemon may cancel it. `unknown`: how often the daemon said, after the promise, that there is no such task. `mismatches`: when
    the client library found that a stream did not go on where it had stood, and how it said so.
    """

    task_id: str
    piece: Piece
    role: Role
    strict: bool
    may_vanish: bool = False
    accepted_at_s: float = 0.0
    settled_at_s: float = 0.0
    promises: list[tuple[int, str]] = []
    connections: list[Connection] = []
    followers: list[Follower] = []
    told_after_cancel: str | None = None
    unknown: int = 0
    mismatches: list[tuple[float, str]] = []
    finals: list[Final] = []

    @property
    def accepted(self) -> bool:
        """Tell whether a 202 was received."""
        return bool(self.promises)


class Stroke(NamedTuple):
    """One thing that the monkey did."""

    at_s: float
    act: str
    detail: str


class Book:
    """All accounts, the monkey's strokes, and what nobody may ever see."""

    def __init__(self) -> None:
        self._zero_s = time.monotonic()
        self.accounts: dict[str, Account] = {}
        self.strokes: list[Stroke] = []
        self.surprises: list[str] = []
        self.refused: dict[str, int] = {}
        self.strays: list[Connection] = []

    def now_s(self) -> float:
        """Read the clock of this run."""
        return time.monotonic() - self._zero_s

    def open(self, task_id: str, piece: Piece, role: Role, *, strict: bool, may_vanish: bool = False) -> Account:
        """Begin the account of a task that is about to be sent."""
        account = self.accounts[task_id] = Account(task_id, piece, role, strict, may_vanish)
        return account

    def connect(self, task_id: str, resumed_from: str) -> Connection:
        """Begin the record of one connection."""
        connection = Connection(resumed_from)
        account = self.accounts.get(task_id)
        (self.strays if account is None else account.connections).append(connection)
        return connection

    def strike(self, act: str, detail: str = "") -> None:
        """Note what the monkey does."""
        self.strokes.append(Stroke(self.now_s(), act, detail))

    def refuse(self, code: str) -> None:
        """Count a refusal."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def surprise(self, text: str) -> None:
        """Note what breaks a promise by itself."""
        self.surprises.append(f"at {self.now_s():.1f} s: {text}")

    def accepted(self) -> list[Account]:
        """List the tasks that were promised."""
        return [account for account in self.accounts.values() if account.accepted]

    def strokes_between(self, acts: tuple[str, ...], from_s: float, to_s: float) -> int:
        """Count the monkey's strokes of some kinds in a time."""
        return sum(stroke.act in acts and from_s <= stroke.at_s <= to_s for stroke in self.strokes)
