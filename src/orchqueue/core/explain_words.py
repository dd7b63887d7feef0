"""An explanation in plain English, one fact a line.

Req: ORCH-4003
"""

from __future__ import annotations

from orchqueue.core.decisions import Candidate, Choice, ReplicaCandidate, ReplicaStanding, Standing
from orchqueue.core.explanation import Explanation, Timer, Try, Waiting, WaitsFor
from orchqueue.core.moments import FAILED
from orchqueue.core.outcome import MEANINGS, Outcome, Refusal
from orchqueue.core.records import Ended

OUTCOMES: dict[Outcome, str] = {
    Outcome.COMPLETED: "It ran to its end.",
    Outcome.CANCELED_BY_CLIENT: "It was canceled because a client asked for that.",
    Outcome.CANCELED_ON_DISCONNECT: "It was canceled because its last reader had left.",
    Outcome.INVALID: "It was refused because the request cannot be carried out as it is.",
    Outcome.UNKNOWN_ID: "It was refused because something that it names is not known.",
    Outcome.CONFLICT: "It was refused because its id already names another task.",
    Outcome.NO_WORKLOAD: "It was refused because no fitting pool serves its workload.",
    Outcome.REJECTED_FULL: "It was refused because the queue was full.",
    Outcome.REJECTED_SHED: "It was refused because the queue was full and nobody less important could make room for it.",
    Outcome.REJECTED_RATE: "It was refused because tasks came faster than the limit allows.",
    Outcome.REJECTED_QUOTA: "It was refused because a quota was used up.",
    Outcome.REJECTED_DEADLINE: "It was refused because its deadline would certainly have been missed.",
    Outcome.REJECTED_BUSY: "It was refused because too many requests came at once.",
    Outcome.DROPPED_NO_VICTIM: "It was refused because the queue was full and held nothing that may be dropped for it.",
    Outcome.DROPPED_VICTIM: "It was dropped while it waited: the queue was full, and it was the oldest of the least important.",
    Outcome.SHED_VICTIM: "It was dropped while it waited: the queue was full, and a more important task took its place.",
    Outcome.POOL_UNREADY: "It was refused because the pool was not ready.",
    Outcome.POOL_DRAINED: "It ended because its pool was drained before it could finish.",
    Outcome.JOURNAL_DOWN: "It was refused because the journal could not be written.",
    Outcome.SHUTTING_DOWN: "It was refused because the daemon was shutting down.",
    Outcome.POOL_UNAVAILABLE: "No replica could take it.",
    Outcome.REPLICAS_EXHAUSTED: "It ended because every replica had been tried.",
    Outcome.ENGINE_REFUSED: "It ended because the engine refused it.",
    Outcome.WALL_TIMEOUT: "It was ended by the limit on decoding time.",
    Outcome.IDLE_TIMEOUT: "It was ended because the engine fell silent.",
    Outcome.FIRST_TOKEN_TIMEOUT: "It was ended because its first token did not come in time.",
    Outcome.DEADLINE_PASSED: "It was ended because its deadline passed.",
    Outcome.ENGINE_LOST: "It ended because its engine was lost in the middle of the stream.",
    Outcome.DIVERGED: "It ended because a second run of it gave another text than the one that was sent.",
    Outcome.POISON: "It ended because it brought down several replicas.",
    Outcome.INTERNAL: "It ended because of a fault in the daemon.",
}
WAITS: dict[WaitsFor, str] = {
    "slot": "It waits for a slot: all are busy.",
    "warm_replica": "A slot is free, but it waits briefly for the replica that holds its session's context.",
    "other_replica": "A slot is free, but not for this task: it waits for a replica that it may still be tried on.",
    "pool_loading": "It waits for the pool to load: no replica is up yet.",
    "pool_draining": "Its pool is being drained: it starts if a slot frees before the drain's deadline.",
    "pool_reloading": "It waits for the pool to reload its model.",
    "live_replica": "It waits for a replica to come back: all have failed.",
    "journal": "Nothing starts at present, because the journal cannot be written.",
    "restart": "Nothing starts any more, because the daemon is shutting down; it is kept for the next start.",
}
STANDINGS: dict[Standing, str] = {
    "chosen": "chosen",
    "other_model": "serves another model",
    "other_engine": "runs another engine",
    "avoided": "the request avoids it",
    "not_pinned": "the request is pinned elsewhere",
    "no_workload": "does not serve this workload",
    "ctx_too_small": "its context is too small",
    "not_strict": "cannot promise equal outputs",
    "prompt_may_not_fit": "the prompt might not have fitted into its context",
    "not_ready": "was not ready",
    "not_preferred": "the request preferred another",
    "full": "its queue was full",
    "more_loaded": "had more work for each slot",
    "later_in_name": "stood equal and comes later by name",
}
REPLICA_STANDINGS: dict[ReplicaStanding, str] = {
    "chosen": "was chosen",
    "not_ready": "was not up",
    "cooling": "was just overloaded and took nothing for a moment",
    "no_free_slot": "had no free slot",
    "not_strict": "had not proven equal outputs",
    "other_model": "serves another model, by a canary's share",
    "tried": "had been tried before",
    "other_pool": "belongs to the pool where it waited, which was asked later",
    "not_warm": "did not hold the session's context",
    "busier": "had more of its slots taken",
    "less_memory": "had less free memory",
    "later_in_name": "stood equal and comes later by name",
}
CHOICES: dict[Choice, str] = {
    "only_free": "the only one with a free slot",
    "least_busy": "the least busy of those with a free slot",
    "warm_session": "the one that holds the session's context",
    "canary": "which tries another model with a share of the tasks",
}


def story_of(found: Explanation) -> tuple[str, ...]:
    """Tell an explanation: what is, then where, then what was tried, then what limits it."""
    if found.refusal is not None:
        return (*_refused(found.refusal), *(_pools(found) if found.candidates else ()))
    lines: list[str] = []
    if found.waiting is not None:
        lines += _waiting(found, found.waiting)
    elif found.ended is not None:
        lines += _ended(found, found.ended)
    else:
        lines.append(f"It runs on replica {found.attempts[-1].replica_id}." if found.attempts else "It runs.")
    lines += _placed(found)
    lines += [_attempt(one) for one in found.attempts]
    if found.attempts:
        lines += _last_choice(found.attempts[-1])
    if found.attempts_total > len(found.attempts):
        lines.append(f"{_counted(found.attempts_total, 'attempt')} in all; of the earlier ones no more is known.")
    lines += [_timer(timer) for timer in found.timers]
    return tuple(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _refused(refusal: Refusal) -> list[str]:
    lines = [OUTCOMES[refusal.outcome], refusal.message]
    told = (fault for fault in refusal.faults if fault.message not in refusal.message)
    lines += [f"{fault.pointer or '(the whole body)'}: {fault.message}" for fault in told]
    if refusal.retry_after_ms is not None:
        lines.append(f"Another try was worth while {refusal.retry_after_ms} ms after the refusal.")
    elif not refusal.meaning.retriable:
        lines.append("The same request would be refused again.")
    return lines


def _waiting(found: Explanation, waiting: Waiting) -> list[str]:
    ahead = [
        f"{count} {one.priority} of {whose}"
        for one in waiting.ahead
        for count, whose in ((one.own, "your own"), (one.others, "others"))
        if count
    ]
    basis = {"measured": "measured work", "selftest": "the replicas' self-test", "none": "nothing measured yet"}
    return [
        f"It has waited {waiting.waited_ms} ms in pool {found.pool_id}; before it: "
        + _counted(waiting.queue_position, "task")
        + (f" ({', '.join(ahead)})." if ahead else "."),
        WAITS[waiting.waits_for],
        f"Busy slots of the pool: {waiting.slots_busy} of {waiting.slots_total}.",
        f"It should start in about {waiting.predicted_start_ms} ms; that rests on {basis[waiting.basis]}.",
    ]


def _ended(found: Explanation, ended: Ended) -> list[str]:
    lines = [OUTCOMES[ended.outcome]]
    if found.dropped is not None:
        what = f"The policy {found.dropped.policy} of pool {found.dropped.pool_id} gave its place to"
        lines.append(f"{what} a new {found.dropped.by_priority} task.")
    if ended.message:
        lines.append(ended.message)
    if ended.started_at_ms is None:
        lines.append("No engine ever took it.")
    if MEANINGS[ended.outcome].retriable and ended.retry_after_ms is not None:
        lines.append(f"Another try was worth while {ended.retry_after_ms} ms after its end.")
    return lines


def _placed(found: Explanation) -> list[str]:
    waited = [] if found.queue_time_ms is None else [f"It waited {found.queue_time_ms} ms for its first start."]
    gave_way = [] if found.displaced is None else [f"A waiting {found.displaced} task had to give way to it."]
    if not found.candidates:
        return [_lost(found), *gave_way, *waited]
    lines = _pools(found)
    if found.pool_id != found.candidates[0].pool_id:
        lines.append(f"Pool {found.pool_id} of the same replica set took it over.")
    return [*lines, *gave_way, *waited]


def _lost(found: Explanation) -> str:
    why = "its decisions are no longer in the log, or the daemon was restarted since"
    if found.recovered:
        why = "the daemon was restarted since"
    return f"Why pool {found.pool_id} was chosen is not known any more: {why}."


def _pools(found: Explanation) -> list[str]:
    chosen, *others = found.candidates
    how = "the only pool" if not others else f"chosen among {len(found.candidates)} pools"
    lines = [f"Pool {chosen.pool_id} was {how}; {_load(chosen)} when it was chosen."]
    return [*lines, *(f"Pool {one.pool_id}: {STANDINGS[one.standing]} ({_load(one)})." for one in others)]


def _load(one: Candidate) -> str:
    return f"{_counted(one.load, 'task')} ran or waited there on {_counted(one.slots, 'slot')}"


def _attempt(one: Try) -> str:
    line = f"Attempt {one.number} went to replica {one.replica_id}, {CHOICES[one.choice]}"
    return f"{line}." if one.failure is None else f"{line}; {FAILED[one.failure]}."


def _last_choice(last: Try) -> list[str]:
    """Tell of the latest attempt how the others stood; of the earlier ones the data tells it."""
    lines = [_replica(one) for one in last.candidates[1:]]
    waited = [f"{one.waiting} {one.priority} (weight {one.weight})" for one in last.shares if one.waiting]
    if len(waited) > 1:
        lines.append(f"It was the turn of class {last.turn}; there waited: {', '.join(waited)}.")
    return lines


def _replica(one: ReplicaCandidate) -> str:
    return f"Replica {one.replica_id} {REPLICA_STANDINGS[one.standing]} ({one.busy} of {_counted(one.slots, 'slot')} taken)."


def _timer(timer: Timer) -> str:
    what = {
        "deadline": "The deadline is",
        "wall": "Decoding may take",
        "idle": "Between two tokens there may be",
        "first_token": "The first token may take",
        "disconnect": "Without a reader it goes on for",
        "warm": "For its session's replica it waits at most",
    }[timer.name]
    since = " from admission" if timer.name == "deadline" else ""
    reached = "that time is over" if timer.name == "warm" else "that limit ended it"
    return f"{what} {timer.limit_ms} ms{since}{f'; {reached}.' if timer.fired else '.'}"
