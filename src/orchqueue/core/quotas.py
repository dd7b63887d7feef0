"""Quotas on real tasks: what one would take, when that is too much, and the hooks that keep the ledger.

Req: ORCH-4151, ORCH-4300, ORCH-4301, ORCH-4302, ORCH-4303, ORCH-4304
"""

from __future__ import annotations

from orchqueue.core.accounts import MB_BYTES, Hold
from orchqueue.core.estimate import service_ms
from orchqueue.core.forecast import comes_up_in_ms, pool_rates, remaining_ms, slots_free
from orchqueue.core.ids import Tenant
from orchqueue.core.ledger import Demand, Excess, QuotaUse
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.sessions import Session
from orchqueue.core.settings import Quotas
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue.core.task_states import TaskState
from orchqueue.core.usage import of_end


def over_quota(state: State, task: Task, pool: Pool, now_ms: int) -> Refusal | None:
    """Refuse a task that its tenant's or its key's account does not allow; nothing is taken.

    Cost: for a tenant without limits one look-up.
    Req: ORCH-4151, ORCH-4306, ORCH-4307
    """
    if state.ledger.terms(task.tenant) is None:
        return None
    demand = Demand(*_needs(task, pool, task.prompt_tokens), _cached_bytes(state, task.tenant, now_ms))
    excess = state.ledger.excess(task.tenant, task.client_id, demand, now_ms)
    if excess is None:
        return None
    entry = state.settings.tenant(task.tenant)
    allowed = entry.quotas if excess.scope == "tenant" else entry.quotas_per_key
    if excess.never:
        return _never_fits(task, pool, excess, allowed)
    return Refusal(
        Outcome.REJECTED_RATE if excess.wait_ms is not None else Outcome.REJECTED_QUOTA,
        _words(task, excess, allowed),
        retry_after_ms=excess.wait_ms or max(1, _room_in_ms(state, task, pool, excess, now_ms)),
        engine=pool.settings.engine,
        pool_id=pool.pool_id,
    )


def wants_count(state: State, task: Task, pool: Pool, at_most_tokens: int) -> bool:
    """Tell whether a bound on the prompt does not do: by it the task would never fit, with a shorter prompt it may.

    Req: ORCH-4306
    """
    bound, least = (Demand(*_needs(task, pool, tokens)) for tokens in (at_most_tokens, 1))
    never = state.ledger.never
    return never(task.tenant, task.client_id, bound) is not None and never(task.tenant, task.client_id, least) is None


def _needs(task: Task, pool: Pool, prompt_tokens: int) -> tuple[int, int]:
    """Tell the tokens that a task may use, and the bytes that they occupy."""
    tokens = prompt_tokens + task.spec.max_tokens
    return tokens, tokens * pool.kv_bytes_per_token


def _cached_bytes(state: State, tenant: Tenant, now_ms: int) -> int:
    total = 0
    for session, replica in _warm(state, tenant, now_ms):
        assert replica.facts is not None, f"{replica.replica_id} holds context and was never ready"
        total += session.cached_tokens * replica.facts.kv_bytes_per_token
    return total


def _warm(state: State, tenant: Tenant, now_ms: int) -> list[tuple[Session, Replica]]:
    """List a tenant's sessions whose context is still where their last turn left it."""
    found = []
    for key, session in state.sessions.live_of(tenant, now_ms):
        if session.warm_on is not None and key in state.replicas[session.warm_on].resident:
            found.append((session, state.replicas[session.warm_on]))
    return found


def _whose(task: Task, excess: Excess) -> str:
    if excess.scope == "tenant":
        return f"tenant {task.tenant}"
    return f"key {task.client_id}" if task.client_id else "calls without a key"


def _never_fits(task: Task, pool: Pool, excess: Excess, allowed: Quotas) -> Refusal:
    if excess.quota == "kv_mb":
        assert allowed.kv_mb is not None, "only a limit can be too low"
        limit = allowed.kv_mb * MB_BYTES // pool.kv_bytes_per_token
        said = f"quota kv_mb of {_whose(task, excess)} is {allowed.kv_mb} MB, room for {limit} tokens of context"
    else:
        assert allowed.tokens_per_minute is not None, "only a limit can be too low"
        limit = allowed.tokens_per_minute
        said = f"quota tokens_per_minute of {_whose(task, excess)} is {limit}"
    room = max(0, limit - task.prompt_tokens)
    text = f"{said}; prompt {task.prompt_tokens} and max_tokens {task.spec.max_tokens} never fit, at most {room} would"
    return Refusal(Outcome.INVALID, f"/max_tokens: {text}", (Fault("/max_tokens", text),))


def _words(task: Task, excess: Excess, allowed: Quotas) -> str:
    whose = _whose(task, excess)
    match excess.quota:
        case "requests_per_s":
            return f"quota requests_per_s of {whose} is {allowed.requests_per_s:g}; slow down"
        case "tokens_per_minute":
            return (
                f"quota tokens_per_minute of {whose} is {allowed.tokens_per_minute}; wait, or ask for fewer max_tokens"
            )
        case "concurrent_tasks":
            return (
                f"quota concurrent_tasks of {whose} is {allowed.concurrent_tasks}; wait for one to end, or cancel one"
            )
        case "queued_tasks":
            return f"quota queued_tasks of {whose} is {allowed.queued_tasks}; wait for one to start, or cancel one"
        case _:
            return f"quota kv_mb of {whose} is {allowed.kv_mb} MB; wait for a task to end, or delete a session"


def _room_in_ms(state: State, task: Task, pool: Pool, excess: Excess, now_ms: int) -> int:
    """Predict when the account holds less.

    1. When the first of its running tasks ends.
    2. None runs: when the next could start and end; where its pool was never up, that has to start first.
    3. Nothing is accepted, so its sessions hold the context: when the first of them is over.
    """
    own = [
        other
        for other in state.active.values()
        if other.hold is not None
        and other.tenant == task.tenant
        and (excess.scope == "tenant" or other.client_id == task.client_id)
    ]
    ends = [
        remaining_ms(state, attempt, state.replicas[attempt.replica_id], now_ms)
        for attempt in (state.attempts[other.attempt_id] for other in own if other.attempt_id is not None)
    ]
    if ends:
        return min(ends)
    if own:
        free = slots_free(state, pool, now_ms)
        frees_in_ms = min(free).in_ms if free else comes_up_in_ms(pool, now_ms)
        return frees_in_ms + service_ms(task.prefill_tokens, task.cost_tokens, pool_rates(state, pool), 1)
    return min(session.expires_at_ms for session, _ in _warm(state, task.tenant, now_ms)) - now_ms


def reserve(state: State, task: Task, pool: Pool, now_ms: int) -> None:
    """Take what a new task needs."""
    if state.ledger.terms(task.tenant) is not None:
        state.ledger.sweep(now_ms)
        reserve_again(state, task, pool)


def reserve_again(state: State, task: Task, pool: Pool) -> None:
    """Take what an accepted task needs as of its acceptance, however much that is.

    Req: ORCH-4302
    """
    task.hold = state.ledger.reserve(
        task.tenant, task.client_id, Demand(*_needs(task, pool, task.prompt_tokens)), task.accepted_at_ms
    )


def settle(state: State, task: Task, now_ms: int) -> None:
    """Give back what an ended task held, but for the tokens that it used. Called by `ending.end` alone.

    Req: ORCH-4301
    """
    if task.hold is not None:
        state.ledger.settle(task.hold, _used_tokens(task), now_ms)
        task.hold = None


def _used_tokens(task: Task) -> int:
    assert task.ended is not None, f"{task.key} has not ended"
    amounts = of_end(task.ended)
    return amounts.tokens_in + amounts.tokens_out


def restore(state: State, task: Task, now_ms: int) -> None:
    """Count what a task that ended in an earlier life took: a crash gives nobody a fresh minute.

    Req: ORCH-4302
    """
    assert task.ended is not None, f"{task.key} has not ended"
    if state.ledger.terms(task.tenant) is not None:
        accepted_at_ms, ended_at_ms = min(task.accepted_at_ms, now_ms), min(task.ended.ended_at_ms, now_ms)
        taken = task.prompt_tokens + task.spec.max_tokens
        state.ledger.restore(task.tenant, task.client_id, taken, _used_tokens(task), accepted_at_ms, ended_at_ms)


def withdraw(state: State, task: Task, now_ms: int) -> None:
    """Give back whatever an ended task took whose acceptance could not be made durable."""
    state.ledger.withdraw(task.tenant, task.client_id, _used_tokens(task), now_ms)


def reconfigure(state: State, now_ms: int) -> None:
    """Apply new limits: what accepted tasks hold is counted anew, what was taken from buckets stays taken.

    Who had no limits until now has taken nothing of any bucket: its tasks hold no tokens.

    Req: ORCH-4304
    """
    state.ledger.configure(state.settings.tenants, now_ms)
    for task in state.active.values():
        if state.ledger.terms(task.tenant) is None or task.state is TaskState.COUNTING:
            task.hold = None
            continue
        if task.hold is None:
            _, kv_bytes = _needs(task, state.pools[task.pool_id], task.prompt_tokens)
            task.hold = Hold(task.tenant, task.client_id, 0, kv_bytes, task.state is TaskState.WAITING)
        state.ledger.book(task.hold)


def size_context(state: State, pool: Pool) -> None:
    """Count anew what the accepted tasks of a pool occupy, now that an engine has told what a token takes.

    After a restart and a reload tasks are there before any engine has told it.

    Req: ORCH-4302
    """
    for task in state.active.values():
        if task.hold is not None and task.pool_id == pool.pool_id:
            state.ledger.resize(task.hold, _needs(task, pool, task.prompt_tokens)[1])


def uses(state: State, tenant: Tenant, key_id: str, now_ms: int) -> tuple[QuotaUse, ...]:
    """Show a caller its tenant's and its key's limits with what is in use of them.

    Req: ORCH-4305
    """
    cached_bytes = _cached_bytes(state, tenant, now_ms)
    return state.ledger.uses(state.settings.tenant(tenant), tenant, key_id, cached_bytes, now_ms)


def disagreements(state: State) -> list[str]:
    """List where the ledger differs from what the accepted tasks hold, and tasks that hold the wrong thing.

    Cost: walks the whole state; not for the hot path.
    """
    found = state.ledger.disagreements([task.hold for task in state.active.values() if task.hold is not None])
    for task in state.active.values():
        limited = task.state is not TaskState.COUNTING and state.ledger.terms(task.tenant) is not None
        if limited != (task.hold is not None):
            found.append(f"{task.key} holds {task.hold} of an account that {'exists' if limited else 'does not exist'}")
        elif task.hold is not None and task.hold.waiting != (task.state is TaskState.WAITING):
            found.append(f"{task.key} is {task.state.value} and booked as waiting: {task.hold.waiting}")
    return found
