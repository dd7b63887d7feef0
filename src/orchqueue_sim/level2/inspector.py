"""Checks public promises at the edges of the whole daemon: what clients read, what engines do, what the disk holds.

It knows the wire formats and the specification, and nothing of what is inside.

Req: ORCH-2002, ORCH-2003, ORCH-4011, ORCH-4013
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Any, get_args

import msgspec

from orchqueue.core.ids import ReplicaId, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.outcome import ErrorCode
from orchqueue_sim.disk import Disk

LIMIT = re.compile(r"[a-z_]+_ms (\d+)")
MARK = re.compile(r"\[w(\d+)\]")
CODES = frozenset(get_args(ErrorCode))
BLAME_ENGINES = frozenset({"WORKER_RESET", "REPLICA_EXHAUSTED", "POOL_UNAVAILABLE"})
RESTARTED = "the daemon was restarted"
ENDED = frozenset({"succeeded", "canceled", "failed"})


class Track(msgspec.Struct):
    """What is known of one task.

    `text` is the longest that any reader was given, `life_text` in this life of the daemon: what a strict task had told is computed
    again after a crash, and another one may go on otherwise. `answers` is what engines said, or would have, each whole. `prompt` and
    `room_tokens` are those of a run that begins with nothing. `crooked`: some engine said what it should not have.
    """

    number: int
    task_id: str
    tenant: str
    accepted: bool = False
    strict: bool = False
    prompt: str | None = None
    room_tokens: int = 0
    first_answer: str | None = None
    answers: list[bytes] = []
    crooked: bool = False
    continued: bool = False
    right_text: str | None = None
    right_tokens: int = 0
    text: bytes = b""
    life_text: bytes = b""
    terminal: tuple[str, str] | None = None
    ended_text: bytes = b""
    had_at: dict[str | None, bytes] = {}
    index_after: dict[tuple[int, str | None], int] = {}
    frozen: bytes | None = None
    two_bodies: bool = False
    asked_at_s: float = 0.0
    asked_in_life: int = 0

    @property
    def key(self) -> TaskKey:
        """Name the task across tenants."""
        return task_key(Tenant(self.tenant), TaskId(self.task_id))

    def was_said(self, text: bytes) -> bool:
        """Tell whether some engine began its answer like this, as far as engines were seen."""
        return not self.answers or any(answer.startswith(text) for answer in self.answers)


class Work(msgspec.Struct, frozen=True):
    """What an engine is given to do, and what it will answer; a crooked one answers something else than it should."""

    prompt: str
    room_tokens: int
    answer: str
    tokens: int
    crooked: bool


class Inspector:
    """Everything promised, checked as it is seen."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.tracks: dict[int, Track] = {}
        self.outcomes: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()
        self.engines_fail = True
        self.engines_change = True
        self.life = 0
        self.problem = ""
        self.wall_set = False
        self.stalled: Callable[[], bool] = lambda: False
        self.clock: Callable[[], float] = lambda: 0.0

    def fail(self, text: str) -> None:
        """Note the first broken promise; what follows from it is not told."""
        self.problem = self.problem or text

    def track(self, number: int, task_id: str, tenant: str) -> Track:
        """Begin to watch a task."""
        found = self.tracks[number] = Track(number, task_id, tenant)
        return found

    def accepted(self, track: Track, *, streaming: bool) -> None:
        """See a 202, or the head of the stream that answers a POST."""
        if track.key not in self.disk.ever_accepted:
            self.fail(f"task {track.number} was told {200 if streaming else 202} before its acceptance was durable")
        track.accepted = True

    def forgotten(self, track: Track) -> bool:
        """Tell whether a task has ended and its retention is over."""
        return track.key in self.disk.ever_ended and track.key not in self.disk.accepted

    def canceled(self, track: Track) -> None:
        """See a 204 to a cancel."""
        if track.key in self.disk.accepted and track.key not in self.disk.ended:
            self.fail(f"task {track.number} was told 204 before its end was durable")

    def seen_canceled(self, track: Track, info: dict[str, Any]) -> None:
        """See how a task stands after the 204 to its cancel."""
        if info["state"] not in ENDED:
            self.fail(f"task {track.number} is {info['state']} after its cancel was answered with 204")
        track.frozen = str(info["text"]).encode()
        if len(track.life_text) > len(track.frozen):
            self.fail(f"task {track.number} had told more text than it holds after its cancel")

    def engine_got(self, replica_id: ReplicaId, work: Work, *, busy: bool) -> None:
        """See an engine begin a completion; `busy`: it has to wait for a slot."""
        mark = MARK.search(work.prompt)
        if mark is None:
            return
        track = self.tracks[int(mark[1])]
        if busy:
            self.fail(f"{replica_id} was given task {track.number} while all its slots were at work")
        if track.prompt is None or not work.prompt.startswith(track.prompt):
            track.prompt = work.prompt
        said = work.prompt.removeprefix(track.prompt)
        track.crooked = track.crooked or work.crooked
        track.right_text, track.right_tokens = said + work.answer, work.tokens
        if said:
            self._goes_on(track, said, work)
        else:
            self._begins(track, work)
        track.answers.append(track.right_text.encode())

    def _begins(self, track: Track, work: Work) -> None:
        track.room_tokens, track.continued = work.room_tokens, False
        if not work.crooked:
            if track.first_answer not in (None, work.answer) and not track.two_bodies:
                self.fail(f"task {track.number} was asked for with other parameters than before")
            track.first_answer = work.answer
        if track.life_text and not track.strict:
            self.fail(f"task {track.number} begins anew though it has told {len(track.life_text)} bytes")

    def _goes_on(self, track: Track, said: str, work: Work) -> None:
        """Demand that an engine goes on from what was told, and may use the tokens that are left."""
        track.continued = True
        base_tokens = track.room_tokens - work.room_tokens
        track.right_tokens += base_tokens
        self.marks["continued"] += 1
        if track.strict:
            self.fail(f"strict task {track.number} goes on from its text, which nobody has compared")
        if base_tokens < 1 or work.room_tokens < 1:
            self.fail(f"task {track.number} goes on with {work.room_tokens} of {track.room_tokens} tokens")
        if not said.encode().startswith(track.life_text) or not track.was_said(said.encode()):
            self.fail(f"task {track.number} goes on from {said!r}, its readers have {track.life_text.decode()!r}")

    def looked(self, track: Track, info: dict[str, Any], *, final: bool) -> None:
        """See a task as GET shows it; `final`: nothing is left to happen."""
        text = str(info["text"]).encode()
        if final and info["state"] not in ENDED:
            self.fail(f"task {track.number} was accepted and is {info['state']} in the end")
        if track.terminal is not None and info["state"] not in ENDED:
            self.fail(f"task {track.number} is {info['state']} after its terminal event")
        if track.terminal is not None and text != track.ended_text:
            self.fail(f"task {track.number} shows {len(text)} bytes of text, its stream had {len(track.ended_text)}")
        if not track.was_said(text):
            self.fail(f"task {track.number} shows text that its engine did not say")
        if final:
            self.outcomes[str(info["state"])] += 1

    def life_over(self, counts: Counter[tuple[str, str]], history: Counter[tuple[str, str]]) -> None:
        """Compare a life's counters with what it recorded."""
        self.life += 1
        for track in self.tracks.values():
            track.life_text = b""
            if not track.strict:
                track.text = b""
        for bucket in counts.keys() | history.keys():
            if counts[bucket] != history[bucket]:
                self.fail(f"{' '.join(bucket)} counts {counts[bucket]}, {history[bucket]} happened")


class StreamCheck:
    """One reader's view of a stream, from its start or from where it resumed."""

    def __init__(self, inspector: Inspector, track: Track, resumed_at: str | None) -> None:
        self._inspector, self._track = inspector, track
        self._resumed = resumed_at is not None
        self._started = False
        self.life = inspector.life
        self._next_index: int | None = track.index_after.get((self.life, resumed_at)) if self._resumed else 0
        self.last_id = resumed_at
        self.text_bytes = 0 if resumed_at is None else int(resumed_at.partition(":")[0])
        self._had = track.had_at.get(resumed_at, b"") if self._resumed else b""
        self.events = 0
        self.ended = False

    def see(self, name: str, data: str, event_id: str | None) -> None:
        """Take one event."""
        self.events += 1
        if self.ended:
            self._fail(f"got {name} after its terminal event")
            return
        fields: dict[str, Any] = msgspec.json.decode(data)
        match name:
            case "started":
                self._see_started(fields, event_id)
            case "token":
                self._see_token(fields, event_id)
            case "metrics":
                if event_id is not None:
                    self._fail("got metrics with an id")
            case "end" | "error":
                self.ended = True
                self._see_terminal(name, data, fields, event_id)
            case _:
                self._fail(f"got an event {name}")
        if event_id is not None:
            self.last_id = event_id
            self._track.had_at[event_id] = self._had

    def _fail(self, text: str) -> None:
        self._inspector.fail(f"a reader of task {self._track.number} {text}")

    def _position(self) -> str:
        return f"{len(self._had)}:{zlib.crc32(self._had):08x}"

    def _see_started(self, fields: dict[str, Any], event_id: str | None) -> None:
        self._track.strict = fields["determinism"] == "strict"
        if self._started or self._resumed or self._had:
            self._fail("was told started again")
        if event_id != "0:00000000":
            self._fail(f"was told started at {event_id}")
        self._started = True

    def _see_token(self, fields: dict[str, Any], event_id: str | None) -> None:
        track = self._track
        if not self._started and not self._resumed:
            self._fail("got text before started")
        if self._next_index is not None and fields["i"] != self._next_index:
            self._fail(f"got token {fields['i']} where {self._next_index} was due")
        if not fields["t"]:
            self._fail("got a token without text")
        self._next_index = fields["i"] + 1
        track.index_after[self.life, event_id] = fields["i"] + 1
        self._had += fields["t"].encode()
        if event_id != self._position():
            self._fail(f"got the id {event_id} at {self._position()}")
        known = max((self._had, track.text), key=len)
        if not known.startswith(self._had) or not known.startswith(track.text):
            self._fail(f"got other text than other readers at byte {len(self._had)}")
        track.text = known
        if self.life == self._inspector.life:
            track.life_text = max((self._had, track.life_text), key=len)
        if not track.was_said(self._had):
            self._fail(f"got text that its engine did not say: {self._had.decode()!r}, not {track.right_text!r}")
        if track.frozen is not None and len(self._had) > len(track.frozen):
            self._fail("got text that was appended after the 204 to its cancel")

    def _see_terminal(self, name: str, data: str, fields: dict[str, Any], event_id: str | None) -> None:
        track = self._track
        if name == "error" and fields["code"] not in CODES:
            self._fail(f"got the code {fields['code']}")
        if name == "error" and self._resumed and self.events == 1:
            # How a task failed is told to a reader that has more text than the log, too, at the log's own position.
            self._see_reset(fields)
            return
        if event_id != f"{self._position()}:end":
            self._fail(f"got its terminal event at {event_id}, not at {self._position()}")
        if self.life == self._inspector.life and not self._had.startswith(track.life_text):
            self._fail(f"got its terminal event at byte {len(self._had)}, others had {len(track.life_text)} bytes")
        durable = fields.get("receipt", {}).get("durable", name == "end" or not self._inspector.stalled())
        if not durable:
            self._inspector.marks["an end that was not durable"] += 1
            return
        if self._inspector.disk.ever_ended.get(track.key) != self._had.decode():
            self._fail("got its terminal event before its end and text were durable")
        if track.terminal not in (None, (name, data)):
            self._fail(f"got {name} {data}, others got {track.terminal}")
        track.terminal, track.ended_text = (name, data), self._had
        excused = any(reason in fields.get("message", "") for reason in (RESTARTED, "idle_ms"))
        blamed = fields.get("code") in BLAME_ENGINES and not excused
        if blamed and not self._inspector.engines_fail:
            self._fail(f"was told {fields['code']} although no engine failed: {fields['message']}")
        self._see_reset(fields)
        if fields.get("code") == "DECODE_TIMEOUT":
            self._see_timeout(fields["message"])
        self._inspector.marks[fields.get("finish_reason") or fields["code"]] += 1
        if name == "end":
            self._see_end(fields)

    def _see_reset(self, fields: dict[str, Any]) -> None:
        """Demand that a strict stream is broken off for no other reason than those that nobody can mend."""
        track, message = self._track, str(fields.get("message"))
        if fields.get("code") != "WORKER_RESET" or not fields["retriable"]:
            return
        differs = "differed at byte" in message or "differs from what this reader had" in message
        if differs and not track.crooked and (track.strict or "differed" in message):
            self._fail(f"was told '{message}' although every engine said the same")
        if track.strict and not differs and not self._inspector.engines_change:
            self._fail(f"of a strict task was told '{message}' although an equal engine could go on")
        self._inspector.marks["differs" if differs else "reset"] += 1

    def _see_timeout(self, message: str) -> None:
        """Hold a limit that is said to be over against the time since the task was first asked for."""
        limit, inspector, track = LIMIT.search(message), self._inspector, self._track
        waited_ms = (inspector.clock() - track.asked_at_s) * 1000
        if inspector.wall_set and inspector.life != track.asked_in_life:
            return  # Only the wall tells a new life how long ago a task was accepted.
        if limit is not None and waited_ms < int(limit[1]):
            self._fail(f"was told {message!r} {waited_ms:.0f} ms after it was asked for")

    @property
    def stage(self) -> str:
        """Name how far the task has come for this reader."""
        if not self._started and not self._resumed:
            return "before_started"
        right = self._track.right_text
        whole = right is not None and len(self._had) == len(right.encode())
        return "before_end" if whole else "between_tokens" if self._had else "before_tokens"

    def _see_end(self, fields: dict[str, Any]) -> None:
        track = self._track
        if fields["receipt"]["digest"] != sha256(self._had).hexdigest():
            self._fail("got a receipt for other text")
        if fields["canceled"] != (fields["finish_reason"] == "canceled"):
            self._fail(f"got canceled {fields['canceled']} with {fields['finish_reason']}")
        if fields["receipt"].get("continued", False) != track.continued and not fields["canceled"]:
            self._fail(
                f"got a receipt that says continued {fields['receipt'].get('continued')}, it was {track.continued}"
            )
        if not fields["canceled"]:
            if track.right_text is None or self._had != track.right_text.encode():
                self._fail(f"got a whole answer of {len(self._had)} bytes, its engine said {track.right_text!r}")
            if fields["tokens_out"] != track.right_tokens:
                self._fail(f"got {fields['tokens_out']} tokens counted, its engine counted {track.right_tokens}")
