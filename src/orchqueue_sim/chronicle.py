"""The auditor's check of the decision log: whatever a client could observe is an entry with the same facts, in order.

Req: ORCH-4320, ORCH-4327
"""

from __future__ import annotations

from collections import Counter

from orchqueue.core import decisions as dc
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import TaskKey
from orchqueue.core.records import Bound

# What may follow what in the entries of one key; "" is the beginning. A conflict may stand anywhere.
WAITING = {"bound", "passed_over", "moved", "timer_fired", "dropped", "ended"}
FOLLOWS: dict[str, set[str]] = {
    "": {"submitted"},
    "submitted": {"count_asked", "admitted", "recovered", "refused", "submitted"},
    "count_asked": {"admitted", "refused", "submitted"},
    "refused": {"submitted"},
    "admitted": WAITING,
    "recovered": WAITING,
    "passed_over": WAITING,
    "moved": WAITING,
    "bound": {"attempt_failed", "timer_fired", "caught_up", "diverged", "ended"},
    "caught_up": {"attempt_failed", "timer_fired", "ended"},
    "diverged": {"ended"},
    "attempt_failed": WAITING,
    "timer_fired": {*WAITING, "attempt_failed"},
    "dropped": {"ended"},
    "ended": {"refused", "submitted"},
}


REJOINING = (dc.CaughtUp, dc.Diverged, dc.Ended)
"""What may be logged when text arrives: an end only follows from a difference."""


class Chronicle:
    """Follows the log through one life of the daemon."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}

    def life_over(self) -> None:
        """Begin anew: the log lives as long as the process."""
        self._last.clear()

    def decided(self, event: ev.AnyEvent, effects: list[fx.AnyEffect]) -> str:
        """Compare what was told with what was logged; tell what is wrong, empty when nothing is."""
        log = [effect.decision for effect in effects if isinstance(effect, fx.LogDecision)]
        if isinstance(event, ev.ChunksArrived) and not all(isinstance(one, REJOINING) for one in log):
            return f"text that arrived was logged as {log}"
        for decision in log:
            problem = self._follows(decision)
            if problem:
                return problem
        told, logged = _told(event, effects), _logged(event, log)
        lost, odd = told - logged, logged - told
        if lost:
            return f"not logged: {sorted(map(str, lost))}"
        return f"logged but not done: {sorted(map(str, odd))}" if odd else ""

    def _follows(self, decision: dc.AnyDecision) -> str:
        kind = str(decision.__struct_config__.tag)
        before, at_ms = self._last.get(decision.key, ("", 0))
        if decision.at_ms < at_ms:
            return f"{kind} of {decision.key} is logged after something later"
        if "/" not in decision.key or (
            isinstance(decision, dc.Refused) and decision.refusal.outcome.value == "conflict"
        ):
            return ""
        if kind not in FOLLOWS[before]:
            return f"{kind} of {decision.key} is logged after {before or 'nothing'}"
        self._last[decision.key] = (kind, decision.at_ms)
        return ""


def _told(event: ev.AnyEvent, effects: list[fx.AnyEffect]) -> Counter[tuple[object, ...]]:
    """List what was answered, started and ended, as facts."""
    found: Counter[tuple[object, ...]] = Counter()
    attempts: dict[str, int] = {}
    for effect in effects:
        match effect:
            case fx.Record(Bound() as record):
                attempts[f"{record.tenant}/{record.task_id}"] = record.attempt
            case fx.Accept() if not effect.repeated:
                where = (effect.pool_id, effect.queue_position, effect.predicted_start_ms, effect.basis)
                found["admitted", effect.key, *where, effect.determinism, effect.prompt_tokens] += 1
            case fx.StartAttempt():
                found["bound", effect.key, effect.replica_id, attempts[effect.key], effect.replica_id, True] += 1
            case fx.Finish():
                ended = effect.ended
                facts = (ended.outcome, ended.pool_id, ended.replica_id, ended.tokens_in, ended.tokens_out)
                found["ended", effect.key, *facts, ended.decode_ms] += 1
            case fx.Count(name="replays_total"):
                found["replayed", effect.labels[-1]] += 1
            case fx.Note(event="replay_diverged"):
                names = ("tenant_id", "job_id", "first_replica_id", "replica_id", "at_bytes", "sent_bytes")
                found["differs", *(effect.fields[name] for name in names)] += 1
            case fx.Note(event="attempt_failed"):
                found["failed", effect.fields["replica_id"], effect.fields["failure"]] += 1
    # A counted prompt may have several clients waiting for one refusal.
    refused = next((effect.refusal for effect in effects if isinstance(effect, fx.Refuse)), None)
    if refused is not None and isinstance(event, ev.TaskSubmitted | ev.PromptCounted):
        key = event.key if isinstance(event, ev.PromptCounted) else TaskKey(f"{event.tenant}/{event.task_id}")
        found["refused", key, refused.outcome, refused.retry_after_ms, refused.pool_id] += 1
    if isinstance(event, ev.TaskRecovered):
        found["recovered", f"{event.accepted.tenant}/{event.accepted.task_id}"] += 1
    return found


def _logged(event: ev.AnyEvent, log: list[dc.AnyDecision]) -> Counter[tuple[object, ...]]:
    """List the same facts as the log has them."""
    found: Counter[tuple[object, ...]] = Counter()
    for one in log:
        match one:
            case dc.Admitted():
                where = (one.pool_id, one.queue_position, one.predicted_start_ms, one.basis)
                promise = "strict" if one.strict else "best_effort"
                found["admitted", one.key, *where, promise, one.prompt_tokens] += 1
            case dc.Bound():
                chosen = one.candidates[0]
                fits = chosen.standing == "chosen" and chosen.ready and chosen.busy < chosen.slots
                found["bound", one.key, one.replica_id, one.attempt, chosen.replica_id, fits] += 1
            case dc.Ended():
                facts = (one.outcome, one.pool_id, one.replica_id, one.tokens_in, one.tokens_out)
                found["ended", one.key, *facts, one.decode_ms] += 1
            case dc.Recovered():
                found["recovered", one.key] += 1
            case dc.CaughtUp():
                found["replayed", "caught_up"] += 1
            case dc.Diverged():
                found["replayed", "diverged"] += 1
                whose = one.key.split("/", 1)
                found["differs", *whose, one.first_replica_id, one.replica_id, one.at_bytes, one.sent_bytes] += 1
            case dc.AttemptFailed():
                found["failed", one.replica_id, one.failure] += 1
            # Who is told of a withdrawal was told by the journal's side, outside the core.
            case dc.Refused() if not isinstance(event, ev.AcceptsWithdrawn):
                refusal = one.refusal
                found["refused", one.key, refusal.outcome, refusal.retry_after_ms, refusal.pool_id] += 1
    return found
