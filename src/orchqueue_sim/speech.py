"""The auditor's own idea of what readers were sent: what each engine has said, what goes beyond it, what is recorded of it.

It knows no way in which text is compared but one: both texts whole, as bytes, from the first one on.

Req: ORCH-2002, ORCH-4010, ORCH-4178, ORCH-4183, ORCH-4366
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, TaskKey, task_key
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Ended, Followed, Spoken

BATCH_MS, BATCH_BYTES = 200, 4_096
LATE_MS = 100
"""How late the beat may come when nothing stands still: timers of a run come up to half of it late."""


class EngineRun(msgspec.Struct):
    """One engine's work on a task. `said` was given to it; `answer` is what it will have said in the end, `said` and all."""

    attempt_id: AttemptId
    said: str
    replays: bool
    base_tokens: int = 0
    heard: str = ""
    answer: str | None = None
    model_ref: str = ""


class Told(msgspec.Struct):
    """What is known of one task's text in one life of the daemon.

    Units: `earlier` and `tries` count starts, in lives before and in this one.
    """

    accepted: Accepted
    text: str = ""
    tokens_out: int = 0
    run: EngineRun | None = None
    continued: bool = False
    earlier: int = 0
    tries: int = 0
    model_ref: str = ""
    kept: str = ""
    followed: bool = False


class Heard(msgspec.Struct, frozen=True):
    """What the text that arrived means for its task: `new` goes on to readers, or it differs from byte `differs_at` on."""

    key: TaskKey
    new: str
    caught_up: bool
    differs_at: int | None = None


class Speech:
    """Every task's text, over all lives of the daemon."""

    def __init__(self) -> None:
        self._told: dict[TaskKey, Told] = {}
        self._sent_before: dict[TaskKey, str] = {}
        self._models: dict[TaskKey, str] = {}
        self._crooked: set[TaskKey] = set()
        self._unkept: dict[TaskKey, int] = {}
        self._stalled = False
        self._free_from_ms = 0

    def life_over(self) -> None:
        """Remember what readers have, and forget the rest."""
        for key, told in self._told.items():
            # Whoever has read more than was recorded keeps it, whether or not it was computed again in this life.
            if not self._sent_before.get(key, "").startswith(told.text):
                self._sent_before[key] = told.text
                self._models[key] = told.model_ref
        self._told.clear()
        self._unkept.clear()
        self._stalled, self._free_from_ms = False, 0

    def paused(self, now_ms: int) -> None:
        """See that the machine stood still until now: whatever was due is late."""
        self._free_from_ms = now_ms

    def text(self, key: TaskKey) -> str:
        """Give what was sent of a task."""
        told = self._told.get(key)
        return told.text if told is not None else ""

    def tokens(self, key: TaskKey) -> int:
        """Give how many tokens were decoded for what was sent."""
        return self._told[key].tokens_out

    # Tasks.

    def accepted(self, record: Accepted) -> None:
        """Begin with nothing."""
        key = task_key(record.tenant, record.task_id)
        self._told[key] = Told(record)
        self._sent_before.pop(key, None)
        self._models.pop(key, None)
        self._crooked.discard(key)

    def recovered(self, event: ev.TaskRecovered) -> str:
        """Begin with what was recorded; tell what is wrong with it, empty when nothing is."""
        record, bound = event.accepted, event.bound
        key = task_key(record.tenant, record.task_id)
        told = self._told[key] = Told(record, earlier=bound.attempt if bound else 0, followed=event.followed)
        if not self._sent_before.get(key, "").startswith(event.text):
            return f"{key} comes back with {event.text!r}, its readers had {self._sent_before.get(key)!r}"
        told.text = told.kept = event.text
        told.tokens_out = event.tokens_out
        return ""

    def started(self, effect: fx.StartAttempt) -> str:
        """See an attempt begin; tell what is wrong with how it does."""
        told = self._told[effect.key]
        strict, text = told.accepted.strict, told.text
        base_tokens = told.tokens_out if effect.said else 0
        told.run = EngineRun(effect.attempt_id, effect.said, strict and bool(text), base_tokens)
        told.tries += 1
        if effect.said != ("" if strict else text):
            promise = "strict" if strict else "best_effort"
            return f"{effect.key} is {promise}, has sent {text!r}, and is started again from {effect.said!r}"
        left = told.accepted.spec.max_tokens - base_tokens
        told.continued = told.continued or bool(effect.said)
        sampling = told.accepted.spec.sampling
        if effect.said and (sampling.grammar or sampling.json_schema):
            return f"{effect.key} goes on in the middle of its grammar"
        if effect.spec.max_tokens != left or left < 1:
            return f"{effect.key} may have {left} more tokens, its engine is told {effect.spec.max_tokens}"
        return ""

    def failed(self, key: TaskKey) -> None:
        """See a task lose its engine."""
        self._told[key].run = None

    def engine_runs(self, effect: fx.StartAttempt, model_ref: str, answer: str, *, crooked: bool) -> str:
        """Learn what an engine is going to say; demand that it is what readers had of the same model in an earlier life.

        An engine that is not what it should be, a crooked one, is nobody's fault.
        """
        key = effect.key
        told = self._told.get(key)
        if told is None or told.run is None or told.run.attempt_id != effect.attempt_id:
            return ""
        told.run.answer = answer
        if crooked:
            self._crooked.add(key)
        told.run.model_ref = model_ref
        same_model = self._models.get(key, model_ref) == model_ref
        before = self._sent_before.get(key, "")
        if told.accepted.strict and same_model and key not in self._crooked and not answer.startswith(before):
            return f"{key} is computed again otherwise than its readers have it: {before!r}"
        return ""

    # Text.

    def heard(self, event: ev.AnyEvent, key: TaskKey | None) -> Heard | None:
        """Take what arrived from the engine that owns a task; None when it is nobody's."""
        told = self._told.get(key) if key is not None else None
        if told is None or key is None or told.run is None:
            return None
        run = told.run
        if isinstance(event, ev.ChunksArrived) and event.attempt_id == run.attempt_id:
            run.heard += "".join(event.texts)
            whole = run.said + run.heard
            differs_at = first_difference(told.text, whole)
            caught_up = run.replays and differs_at is None and len(whole) >= len(told.text)
            run.replays = run.replays and not caught_up
            new = whole[len(told.text) :] if differs_at is None else ""
            told.text += new
            if new:
                told.tokens_out = run.base_tokens + event.tokens_out
                told.model_ref = run.model_ref
            return Heard(key, new, caught_up, differs_at)
        if isinstance(event, ev.AttemptCompleted) and event.attempt_id == run.attempt_id and run.replays:
            return Heard(key, "", caught_up=False, differs_at=len(run.heard.encode()))
        return None

    def decided(self, heard: Heard | None, effects: Sequence[fx.AnyEffect], now_ms: int) -> str:
        """Compare what is passed on, and whether the task ends for a difference, with what was heard."""
        sent = {e.key: "".join(e.texts) for e in effects if isinstance(e, fx.EmitTokens)}
        sent = {key: text for key, text in sent.items() if text}
        due = {heard.key: heard.new} if heard is not None and heard.new else {}
        if sent != due:
            return f"readers are sent {sent}, their engines give them {due}"
        ends = [e.key for e in effects if isinstance(e, fx.Finish) and e.ended.outcome is Outcome.DIVERGED]
        differs_at = None if heard is None else heard.differs_at
        if ends != ([] if heard is None or differs_at is None else [heard.key]):
            return f"{ends} end as diverged, where {heard} was heard"
        if heard is not None and differs_at is not None:
            told = len(self._told[heard.key].text.encode())
            notes = [e.fields for e in effects if isinstance(e, fx.Note) and e.event == "replay_diverged"]
            if [(n["at_bytes"], n["sent_bytes"]) for n in notes] != [(differs_at, told)]:
                return f"{heard.key} differs at byte {differs_at} of {told}, the operator is told {notes}"
        if heard is not None and heard.new:
            self._unkept.setdefault(heard.key, now_ms)
        return ""

    def ended(self, key: TaskKey, ended: Ended) -> str:
        """Judge whether the text is whole, and what the receipt says of how it was made."""
        told = self._told[key]
        self._unkept.pop(key, None)
        run, told.run = told.run, None
        if ended.outcome is Outcome.COMPLETED and (run is None or run.answer != told.text):
            return f"{key} completed with {told.text!r}, its engine said {run and run.answer!r}"
        receipt = ended.receipt
        if receipt is None:
            return f"{key} ended without a receipt"
        if receipt.attempts != told.earlier + told.tries:
            return f"{key} says {receipt.attempts} attempts, it had {told.earlier} and {told.tries} in this life"
        if receipt.continued != told.continued:
            return f"{key} says that it was continued: {receipt.continued}, it was: {told.continued}"
        return ""

    # What is recorded.

    def recorded(self, record: Spoken | Followed) -> str:
        """See what is recorded of a task before its end; tell what is wrong with it."""
        key = task_key(record.tenant, record.task_id)
        told = self._told[key]
        if isinstance(record, Followed):
            again, told.followed = told.followed, True
            return f"{key} is recorded twice as followed" if again else ""
        whole = told.kept + record.text
        right = (len(told.kept.encode()), told.text[: len(whole)], told.tokens_out)
        if (record.at_bytes, whole, record.tokens_out) != right:
            return f"{key} is recorded as {record}, it has said {told.text!r} in {told.tokens_out} tokens"
        told.kept = whole
        self._unkept.pop(key, None)
        return "" if told.text == whole else f"{key} has said more than is recorded: {told.text!r}"

    def followed(self, key: TaskKey) -> str:
        """Demand that a restart will know that a task had a reader, where that matters."""
        told = self._told.get(key)
        if told is None or told.followed or not told.accepted.spec.cancels_on_disconnect:
            return ""
        return f"{key} has a reader and no record of it"

    def stalled(self, *, now: bool, now_ms: int) -> None:
        """See the journal stall, or go on."""
        self._stalled = now
        self._free_from_ms = max(self._free_from_ms, now_ms)

    def behind(self, now_ms: int) -> str:
        """Tell whose text is not handed to the journal as early as was promised, empty when all of it is."""
        if self._stalled or not self._unkept:
            return ""
        key, since_ms = next(iter(self._unkept.items()))
        late_ms = now_ms - max(since_ms, self._free_from_ms)
        if late_ms > BATCH_MS + LATE_MS:
            return f"{key} has text that is not recorded after {late_ms} ms"
        return ""

    def behind_by_much(self, key: TaskKey) -> str:
        """Tell when more of a task's text is not recorded than may be."""
        told = self._told[key]
        bytes_behind = len(told.text.encode()) - len(told.kept.encode())
        much = key in self._unkept and bytes_behind >= BATCH_BYTES
        return f"{bytes_behind} bytes of {key} are not recorded" if much else ""

    def stopped(self) -> str:
        """Demand of a daemon that stops in order that it leaves nothing unrecorded."""
        return "" if self._stalled or not self._unkept else f"{sorted(self._unkept)} have text that is not recorded"


def first_difference(sent: str, said: str) -> int | None:
    """Find the first byte in which two texts differ, as far as both go.

    >>> first_difference("née", "né"), first_difference("née", "nêe")
    (None, 2)
    """
    pairs = zip(sent.encode(), said.encode(), strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), None)
