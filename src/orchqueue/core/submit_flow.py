"""A task asks to be taken: admitted, refused, or counted first.

Req: ORCH-2001, ORCH-3007, ORCH-3024, ORCH-4012, ORCH-4065, ORCH-4148, ORCH-4188, ORCH-4264, ORCH-4267, ORCH-4268
"""

from __future__ import annotations

import msgspec

from orchqueue.core import admission, labels, placement, quotas, weighing
from orchqueue.core.decisions import Admitted, Candidate, CountAsked, Dropped
from orchqueue.core.effects import (
    Accept,
    Count,
    CountPrompt,
    LogDecision,
    Note,
    OpenStream,
    Record,
    Refuse,
    SetTimer,
)
from orchqueue.core.ending import end, task_fields
from orchqueue.core.events import (
    PromptCounted,
    TaskSubmitted,
)
from orchqueue.core.forecast import expect, retry_after_full, start_of
from orchqueue.core.ids import Tenant, task_key
from orchqueue.core.log_entries import log_refused, log_request
from orchqueue.core.outcome import MEANINGS, Fault, Outcome, Refusal
from orchqueue.core.queue import Full
from orchqueue.core.request import TaskSpec, canonical_digest
from orchqueue.core.state import Pool, State
from orchqueue.core.task import Task
from orchqueue.core.task_flow import evict_session
from orchqueue.core.task_states import TaskState, TaskTrigger


def on_submitted(state: State, event: TaskSubmitted, now_ms: int) -> None:
    """Admit, refuse, or have the prompt counted first.

    1. The same id again: the same answer for the same body, 409 for another.
    2. Nothing new while the daemon stops or its journal stalls.
    3. Names, promise and session hold; some fitting pool serves.
    4. Prompt and max_tokens fit into ctx and a whole minute of quota, by bound or by count.
    5. The deadline is possible, rate and quotas are kept, the queue has room; only then is anything taken.

    Req: ORCH-3014, ORCH-4053
    """
    key = task_key(event.tenant, event.task_id)
    digest = canonical_digest(event.spec)
    known = state.tasks.get(key)
    if known is not None:
        _repeat(state, known, event, digest, now_ms)
        return
    log_request(state, key, event.client_id, event.spec, now_ms)
    stop = _stopped(state)
    if stop is not None:
        _refuse(state, event, stop, now_ms)
        return
    fit = admission.fitting_pools(state, event.spec)
    if isinstance(fit, Refusal):
        _refuse(state, event, fit, now_ms)
        return
    refusal = _no_turn(state, event.tenant, event.spec, now_ms) or admission.not_serving(fit.pools, now_ms)
    if refusal is not None:
        _refuse(state, event, refusal, now_ms, fit.pools[0])
        return
    task = Task(
        event.task_id, event.tenant, event.spec, digest, state.next_seq(), event.client_id, event.correlation_id
    )
    task.strict, task.profile = fit.strict, fit.profile
    task.replies = (event.reply,)
    task.weight = state.settings.tenant(task.tenant).weight
    roomy = admission.roomy_pools(fit.pools, event.spec)
    pool = placement.choose_pool(state, roomy, task)
    task.pool_id = pool.pool_id
    candidates = weighing.candidates(state, event.spec, fit.pools, roomy, pool)
    state.tasks[key] = state.active[key] = task
    counted = admission.count_prompt(pool, event.spec)
    if counted is not None and not quotas.wants_count(state, task, pool, counted.tokens):
        _settle(state, task, pool, counted, now_ms, candidates)
        return
    ready = next((r for r in pool.regulars if r.ready), None)
    if ready is None:
        _settle(state, task, pool, admission.guess_prompt(event.spec), now_ms, candidates)
        return
    state.emit(LogDecision(CountAsked(now_ms, key, pool.pool_id, ready.replica_id, candidates)))
    state.emit(CountPrompt(key, ready.replica_id, pool.engine_spec(event.spec), admission.COUNT_TIMEOUT_MS))


def on_counted(state: State, event: PromptCounted, now_ms: int) -> None:
    """Go on with a submission whose prompt was counted, or could not be counted in time."""
    task = state.active.get(event.key)
    if task is None or task.state is not TaskState.COUNTING:
        return
    counted = admission.guess_prompt(task.spec)
    if event.tokens is not None:
        counted = admission.Counted(event.tokens, "tokenizer")
    _settle(state, task, state.pools[task.pool_id], counted, now_ms)


def _repeat(state: State, known: Task, event: TaskSubmitted, digest: str, now_ms: int) -> None:
    if known.digest != digest:
        fault = Fault("/task_id", "this task_id already names a task with another body; use a new one")
        _refuse(state, event, Refusal(Outcome.CONFLICT, fault.message, (fault,), task_id=event.task_id), now_ms)
    elif known.admission is None:
        known.replies = (*known.replies, event.reply)
    else:
        state.emit(msgspec.structs.replace(known.admission, reply=event.reply, repeated=True))


def _no_turn(state: State, tenant: Tenant, spec: TaskSpec, now_ms: int) -> Refusal | None:
    """Refuse a turn beyond the session's last; that ends the session."""
    refusal = admission.no_turn_left(state, tenant, spec, now_ms)
    if refusal is not None and spec.session_id is not None:
        evict_session(state, (tenant, spec.session_id))
    return refusal


def _stopped(state: State) -> Refusal | None:
    if state.shutting_down:
        text = "the daemon is shutting down; what it has accepted is kept; try again soon"
        return Refusal(Outcome.SHUTTING_DOWN, text, retry_after_ms=1_000)
    if state.journal_problem is not None:
        text = f"the journal cannot be written ({state.journal_problem}), so nothing new is accepted; try again soon"
        return Refusal(Outcome.JOURNAL_DOWN, text, retry_after_ms=1_000)
    if state.journal_full:
        text = "the journal holds as much as journal.max_bytes allows, so nothing new is accepted until other tasks have ended"
        return Refusal(Outcome.JOURNAL_DOWN, text, retry_after_ms=1_000)
    return None


def _refuse(state: State, event: TaskSubmitted, refusal: Refusal, now_ms: int, pool: Pool | None = None) -> None:
    refusal = msgspec.structs.replace(refusal, task_id=event.task_id)
    state.emit(Refuse(event.reply, refusal))
    log_refused(state, task_key(event.tenant, event.task_id), refusal, now_ms)
    _count_refusal(state, refusal, pool)
    fields: dict[str, str | int | float | bool | None] = {
        "job_id": event.task_id,
        "tenant_id": event.tenant,
        "client_id": event.client_id,
        "correlation_id": event.correlation_id,
        "outcome": refusal.outcome.value,
        "retry_after_ms": refusal.retry_after_ms,
    }
    state.emit(Note("info", "task_refused", fields))


def _count_refusal(state: State, refusal: Refusal, pool: Pool | None) -> None:
    engine = refusal.engine or (pool.settings.engine if pool else next(iter(state.pools.values())).settings.engine)
    meaning = refusal.meaning
    assert meaning.code is not None, f"{refusal.outcome} refuses nothing"
    state.emit(Count("tasks_rejected_total", (engine, meaning.code)))
    if refusal.outcome in (Outcome.REJECTED_FULL, Outcome.REJECTED_SHED, Outcome.DROPPED_NO_VICTIM):
        state.emit(Count("admission_backpressure_events_total", (engine, meaning.policy_label or "reject")))


def _settle(
    state: State,
    task: Task,
    pool: Pool,
    counted: admission.Counted,
    now_ms: int,
    candidates: tuple[Candidate, ...] = (),
) -> None:
    """Decide the rest of an admission, now that the prompt's tokens are known. `candidates` where not logged before."""
    task.prompt_tokens, task.prompt_basis = counted.tokens, counted.basis
    expect(pool, task)
    refusal = (
        _stopped(state)
        or admission.not_serving((pool,), now_ms)
        or admission.model_replaced(pool, task.spec)
        or admission.too_long(pool, task.spec, counted)
        or _no_turn(state, task.tenant, task.spec, now_ms)
        or admission.misses_deadline(state, pool, task.spec, counted)
        or admission.over_rate(pool, task.spec.priority, now_ms)
        or quotas.over_quota(state, task, pool, now_ms)
    )
    if refusal is not None:
        _turn_away(state, task, pool, refusal, now_ms, candidates)
        return
    room = pool.queue.make_room(task.spec.priority)
    if isinstance(room, Full):
        wait_ms = retry_after_full(state, pool, task.spec.priority, now_ms)
        text = f"the {task.spec.priority} queue of pool {pool.pool_id} is full; come back in {wait_ms} ms"
        full = Refusal(room.outcome, text, (), wait_ms, pool.settings.engine, pool.pool_id)
        _turn_away(state, task, pool, full, now_ms, candidates)
        return
    if room.victim is not None:
        wait_ms = retry_after_full(state, pool, room.victim.spec.priority, now_ms)
        text = "dropped while waiting: the queue was full and its policy gave the place to another task; send it again"
        meaning = MEANINGS[room.victim_outcome]
        policy = meaning.policy_label or ""
        state.emit(LogDecision(Dropped(now_ms, room.victim.key, pool.pool_id, policy, task.spec.priority)))
        end(state, room.victim, room.victim_outcome, now_ms, text, retry_after_ms=wait_ms)
        state.emit(Count("tasks_rejected_total", (pool.settings.engine, meaning.code or "")))
    _admit(state, task, pool, now_ms, candidates, room.victim)


def _turn_away(
    state: State, task: Task, pool: Pool, refusal: Refusal, now_ms: int, candidates: tuple[Candidate, ...]
) -> None:
    refusal = msgspec.structs.replace(refusal, task_id=task.task_id)
    state.emit(*(Refuse(reply, refusal) for reply in task.replies))
    log_refused(state, task.key, refusal, now_ms, task.prompt_tokens, candidates)
    _count_refusal(state, refusal, pool)
    state.emit(Note("info", "task_refused", task_fields(state, task) | {"outcome": refusal.outcome.value}))
    del state.tasks[task.key], state.active[task.key]


def _admit(
    state: State, task: Task, pool: Pool, now_ms: int, candidates: tuple[Candidate, ...], victim: Task | None
) -> None:
    task.move(TaskTrigger.ADMIT)
    # Numbered here and not when it was asked for: while its prompt was counted others may have been accepted.
    task.seq = state.next_seq()
    task.accepted_at_ms = now_ms
    task.model_ref = pool.model_ref
    admission.take_rate(pool, task.spec.priority, now_ms)
    quotas.reserve(state, task, pool, now_ms)
    state.usage.accept(task)
    # Whoever pages through the tasks relies on them standing in that order.
    state.tasks[task.key] = state.tasks.pop(task.key)
    pool.queue.push(task)
    if task.session is not None:
        session = state.sessions.count_turn(task.session, now_ms)
        state.emit(SetTimer(("session", "/".join(task.session)), session.expires_at_ms))
    forecast = start_of(state, pool, task, now_ms)
    pool.inflow[task.spec.priority].add(task.tenant, forecast.end_in_ms - forecast.start_in_ms, now_ms)
    accept = Accept(
        reply=task.replies[0],
        key=task.key,
        queue_position=forecast.position,
        predicted_start_ms=forecast.start_in_ms,
        predicted_end_ms=forecast.end_in_ms,
        basis=forecast.basis,
        seed=task.spec.seed or 0,
        determinism=admission.determinism_of(task.strict),
        pool_id=pool.pool_id,
        prompt_tokens=task.prompt_tokens,
        prompt_tokens_basis=task.prompt_basis,
    )
    task.admission = accept
    state.emit(Record(task.accepted_record()), OpenStream(task.key, task.correlation_id, task.spec.workload), accept)
    state.emit(*(msgspec.structs.replace(accept, reply=reply, repeated=True) for reply in task.replies[1:]))
    state.emit(LogDecision(_admitted(task, accept, now_ms, candidates, victim)))
    if task.spec.deadline_ms is not None:
        state.emit(SetTimer(("deadline", task.key), now_ms + task.spec.deadline_ms))
    state.emit(Count("tasks_enqueued_total", (*labels.of_replica(pool, "-"), task.spec.priority)))
    state.emit(Note("info", "task_accepted", task_fields(state, task)))
    state.dirty = True


def _admitted(
    task: Task, accept: Accept, now_ms: int, candidates: tuple[Candidate, ...], victim: Task | None
) -> Admitted:
    return Admitted(
        now_ms,
        accept.key,
        accept.pool_id,
        task.model_ref,
        task.strict,
        task.profile,
        task.prompt_tokens,
        task.prompt_basis,
        task.cost_tokens,
        accept.queue_position,
        accept.predicted_start_ms,
        accept.basis,
        candidates,
        None if victim is None else victim.spec.priority,
    )
