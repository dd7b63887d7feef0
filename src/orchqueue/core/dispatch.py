"""Late binding: whenever a slot may be free and something may wait, bring them together.

Req: ORCH-3008
"""

from __future__ import annotations

import msgspec

from orchqueue.core import labels, weighing
from orchqueue.core.admission import determinism_of
from orchqueue.core.decisions import PassCause, PassedOver
from orchqueue.core.effects import Count, EmitStarted, LogDecision, Observe, Record, SetTimer, StartAttempt
from orchqueue.core.events import ReplicaFacts
from orchqueue.core.forecast import busy
from orchqueue.core.ids import ReplicaId
from orchqueue.core.placement import WARM_WAIT_MS, Match, WarmWait, choose
from orchqueue.core.records import Bound
from orchqueue.core.state import Attempt, Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskTrigger


def dispatch(state: State, now_ms: int) -> None:
    """Start what can be started. Runs once at the end of every `handle` that may have changed anything.

    While the journal stalls no start could be carried out: it would only use up its task's time limits.

    Req: ORCH-3009
    """
    state.dirty = False
    if state.shutting_down or state.journal_problem is not None:
        return
    while True:
        match, passed = choose(state, now_ms)
        if match is None:
            _wait_for_warmth(state, passed, now_ms)
            return
        for warm in passed:
            if not warm.task.passes:
                _note_pass(state, warm.task, "let_pass", now_ms)
            warm.task.passes += 1
        _bind(state, match, now_ms)


def _wait_for_warmth(state: State, passed: list[WarmWait], now_ms: int) -> None:
    """Bound the wait of each from its beginning: what happens meanwhile does not put its end off.

    Req: ORCH-4250
    """
    for task in {warm.task.key: warm.task for warm in passed}.values():
        if not task.warm_wait_begun:
            task.warm_wait_begun = True
            _note_pass(state, task, "left_free", now_ms, now_ms + WARM_WAIT_MS)
            state.emit(SetTimer(("warm", task.key), now_ms + WARM_WAIT_MS))


def _note_pass(state: State, task: Task, cause: PassCause, now_ms: int, until_ms: int | None = None) -> None:
    """Note once for a task and a cause that it waits for its session's replica."""
    session = None if task.session is None else state.sessions.find(task.session, now_ms)
    warm_on = None if session is None else session.warm_on
    assert warm_on is not None, f"{task.key} waits for a warmth that is not there"
    state.emit(LogDecision(PassedOver(now_ms, task.key, warm_on, cause, until_ms)))


def _bind(state: State, match: Match, now_ms: int) -> None:
    """Give the slot to the task.

    The order of effects matters: bound is recorded before the start it allows.

    Req: ORCH-4091, ORCH-4167, ORCH-4256, ORCH-4265, ORCH-4276
    """
    task, source, replica = match.task, match.source, match.replica
    pool = state.pool_of(replica)
    state.emit(LogDecision(weighing.bound(state, task, source, replica, now_ms)))
    _note_way(task, source, pool, replica)
    source.queue.start(task)
    state.ledger.start(task.hold)
    attempt_id = state.next_attempt()
    state.slots.acquire(replica.replica_id, attempt_id)
    state.attempts[attempt_id] = Attempt(attempt_id, task.key, replica.replica_id, now_ms, busy(state, replica))
    task.pool_id = pool.pool_id
    task.move(TaskTrigger.BIND)
    task.attempt_id = attempt_id
    task.attempts += 1
    task.bound_at_ms = now_ms
    facts = replica.facts
    assert facts is not None, f"{replica.replica_id} is ready without facts"
    said = _take_up(state, task, replica.replica_id, facts, now_ms)
    state.emit(Record(_bound_record(task, replica.replica_id, facts, now_ms)))
    if task.first_bound_at_ms is None:
        task.first_bound_at_ms = now_ms
        waited = now_ms - task.accepted_at_ms
        predicted = task.admission.predicted_start_ms if task.admission else 0
        state.emit(
            Observe("predicted_start_error_ms", labels.of_pool(pool, task.spec.priority), abs(waited - predicted))
        )
    state.emit(Count("tasks_started_total", (*labels.of_replica(pool, replica.replica_id), task.spec.priority)))
    if not task.started_told:
        task.started_told = True
        state.emit(_started(task, replica.replica_id, facts, now_ms))
    cache = not task.strict and task.spec.kv_hint == "reuse"
    task.kv_warm = cache and task.session is not None and task.session in replica.resident
    _take_place(state, task, replica, cache, now_ms)
    spec = pool.engine_spec(task.spec)
    if said:
        spec = msgspec.structs.replace(spec, max_tokens=spec.max_tokens - task.base_tokens)
    state.emit(StartAttempt(attempt_id, task.key, replica.replica_id, spec, task.profile, cache, said))
    timeouts = pool.settings.timeouts
    state.emit(SetTimer(("wall", task.key), task.wall_due_ms(timeouts.wall_ms)))
    if timeouts.first_token_ms is not None and not task.emitted_bytes:
        state.emit(SetTimer(("first_token", task.key), now_ms + timeouts.first_token_ms))


def _take_place(state: State, task: Task, replica: Replica, cache: bool, now_ms: int) -> None:
    """Note whose context a start puts into a slot, and count the live sessions whose context gives way to it.

    Req: ORCH-4256, ORCH-4257
    """
    before = replica.resident
    replica.resident = [*before, task.session if cache else None][-state.slots.total(replica.replica_id) :]
    for key in before:
        if key is not None and key not in replica.resident and state.sessions.find(key, now_ms) is not None:
            task.evictions += 1


def _started(task: Task, replica_id: ReplicaId, facts: ReplicaFacts, now_ms: int) -> EmitStarted:
    return EmitStarted(
        key=task.key,
        queue_position=task.admission.queue_position if task.admission else 0,
        predicted_start_ms=task.admission.predicted_start_ms if task.admission else 0,
        seed=task.spec.seed or 0,
        pool_id=task.pool_id,
        replica_id=replica_id,
        engine_version=facts.engine_version,
        model_digest=facts.model_digest,
        determinism=determinism_of(task.strict),
        queue_time_ms=now_ms - task.accepted_at_ms,
    )


def _note_way(task: Task, source: Pool, pool: Pool, replica: Replica) -> None:
    if pool.canary is not None:
        pool.canary.note_start(task, replica.replica_id)
    task.charged_pool_id = source.pool_id
    task.ran_model_ref = replica.model_ref


def _bound_record(task: Task, replica_id: ReplicaId, facts: ReplicaFacts, now_ms: int) -> Bound:
    return Bound(
        task.tenant,
        task.task_id,
        replica_id,
        task.attempts,
        task.first_bound_at_ms or now_ms,
        task.pool_id,
        facts.engine_version,
        facts.model_digest,
    )


def _take_up(state: State, task: Task, replica_id: ReplicaId, facts: ReplicaFacts, now_ms: int) -> str:
    """Decide how an attempt begins: with nothing, with a replay of what was sent, or by going on from there.

    Shape: the text that the engine is to go on from.
    Req: ORCH-4010, ORCH-4178
    """
    state.interrupted.pop(task.key, None)
    task.clock_from_ms = now_ms
    if not task.emitted_bytes:
        task.made_by, task.spoke_on = (facts.engine_version, facts.model_digest), replica_id
        return ""
    if task.strict:
        task.replay_bytes, task.clock_from_ms = 0, None
        return ""
    task.base_tokens, task.continued = task.tokens_out, True
    return task.said.decode()
