"""Yes, no, or count first: everything that is checked before a task is queued.

Req: ORCH-4058, ORCH-4169
"""

from __future__ import annotations

import msgspec

from orchqueue.core.estimate import service_ms
from orchqueue.core.forecast import comes_up_in_ms, pool_rates
from orchqueue.core.ids import Tenant
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.profiles import PROFILES
from orchqueue.core.records import CountBasis
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.request import Determinism, TaskSpec
from orchqueue.core.state import Pool, State

BYTES_PER_TOKEN_GUESS = 3
BYTES_PER_TOKEN_MOST = 16
"""No text of a prompt is known to take fewer tokens than its bytes over this."""
COUNT_TIMEOUT_MS = 500
RATE_TOKEN_MICRO = 1_000_000
MODEL_REFUSED = {"checksum", "model_file"}


class Fit(msgspec.Struct, frozen=True):
    """Where a task may run, and under which promise."""

    pools: tuple[Pool, ...]
    strict: bool
    profile: str


class Counted(msgspec.Struct, frozen=True):
    """How many tokens the prompt has, or at most has."""

    tokens: int
    basis: CountBasis


def fitting_pools(state: State, spec: TaskSpec) -> Fit | Refusal:
    """Find the pools that a request may run in.

    1. Every name in the request is known: model, engine, pools, profile, workload.
    2. The pools left after these wishes have ctx enough.
    3. They serve one model on one engine; otherwise the client has to choose.
    4. strict is possible where it is demanded.

    Req: ORCH-3014, ORCH-4057, ORCH-4058
    """
    faults = _unknown_names(state, spec)
    if faults:
        return _invalid(faults)
    pools = [p for p in state.pools.values() if _wanted(p, spec)]
    if not pools:
        return _invalid([Fault("/placement", "no pool is left after model_ref, engine, pin and avoid together")])
    served = [p for p in pools if spec.workload in p.settings.workloads]
    if not served:
        return _invalid([Fault("/workload", f"no fitting pool serves workload {spec.workload}")], Outcome.NO_WORKLOAD)
    wide = [p for p in served if (spec.ctx or 1) <= p.settings.ctx]
    if not wide:
        widest = max(p.settings.ctx for p in served)
        return _invalid([Fault("/ctx", f"ctx {spec.ctx} is above the pool's {widest} tokens; ask for less")])
    if len({(p.settings.engine, p.model_ref) for p in wide}) > 1:
        names = ", ".join(sorted({f"{p.model_ref} on {p.settings.engine}" for p in wide}))
        return _invalid([Fault("/model_ref", f"several models fit; choose model_ref (and engine) among: {names}")])
    return _with_promise(wide, spec)


def _unknown_names(state: State, spec: TaskSpec) -> list[Fault]:
    pools = state.pools.values()
    faults = []
    models = sorted({p.model_ref for p in pools})
    if spec.model_ref is not None and spec.model_ref not in models:
        faults.append(Fault("/model_ref", f"unknown model; this daemon serves: {', '.join(models)}"))
    engines = sorted({p.settings.engine for p in pools})
    if spec.engine is not None and spec.engine not in engines:
        faults.append(Fault("/engine", f"no pool runs this engine; engines here: {', '.join(engines)}"))
    for field in ("pool_ids", "avoid"):
        for index, name in enumerate(getattr(spec.placement, field)):
            if name not in state.pools:
                faults.append(Fault(f"/placement/{field}/{index}", f"unknown pool; pools: {', '.join(state.pools)}"))
    if spec.placement.mode == "pin" and not spec.placement.pool_ids:
        faults.append(Fault("/placement/pool_ids", "mode pin needs at least one pool id"))
    profile = spec.sampler_profile_version
    if profile is not None and profile not in PROFILES:
        faults.append(Fault("/sampler_profile_version", f"unknown profile; known: {', '.join(PROFILES)}"))
    return faults


def _wanted(pool: Pool, spec: TaskSpec) -> bool:
    return (
        (spec.model_ref is None or spec.model_ref == pool.model_ref)
        and (spec.engine is None or spec.engine == pool.settings.engine)
        and spec.placement.allows(pool.pool_id)
    )


def _with_promise(pools: list[Pool], spec: TaskSpec) -> Fit | Refusal:
    capable = [p for p in pools if strict_capable(p)]
    if spec.determinism == "strict" and not capable:
        message = (
            "no fitting pool can be strict (one slot per replica and a passed self-test); omit it or use best_effort"
        )
        return _invalid([Fault("/determinism", message)])
    strict = spec.determinism != "best_effort" and bool(capable)
    chosen = capable if strict else pools
    profile = spec.sampler_profile_version or chosen[0].settings.sampler_profile_version
    return Fit(tuple(chosen), strict, profile)


def strict_capable(pool: Pool) -> bool:
    """Tell whether a pool may promise equal outputs: configured so, and no replica's self-test disproved it.

    Req: ORCH-4168
    """
    facts = [r.facts for r in pool.replicas.values() if r.facts is not None]
    return pool.settings.strict and (not facts or any(f.strict_proven for f in facts))


def determinism_of(strict: bool) -> Determinism:
    """Name the promise as the API does."""
    return "strict" if strict else "best_effort"


def count_prompt(pool: Pool, spec: TaskSpec) -> Counted | None:
    """Bound the prompt's tokens without asking: every token is at least one byte, and one more begins the text.

    None when only the tokenizer can tell whether it fits.

    Req: ORCH-4148
    """
    spec = pool.engine_spec(spec)
    bound = spec.prompt_bytes + 1
    if spec.inputs is not None:
        return Counted(bound, "bytes_bound") if spec.longest_bytes + 1 + spec.max_tokens <= _room(pool, spec) else None
    if spec.messages is not None:
        facts = next((r.facts for r in pool.replicas.values() if r.facts is not None), None)
        if facts is None:
            return None
        bound += facts.template_fixed_bytes + len(spec.messages) * facts.template_message_bytes
    if bound + spec.max_tokens <= _room(pool, spec):
        return Counted(bound, "bytes_bound")
    return None


def roomy_pools(pools: tuple[Pool, ...], spec: TaskSpec) -> tuple[Pool, ...]:
    """Keep the pools into whose ctx the prompt certainly fits; where that is none, those with the widest ctx."""
    certain = tuple(pool for pool in pools if count_prompt(pool, spec) is not None)
    widest = max(pool.settings.ctx for pool in pools)
    return certain or tuple(pool for pool in pools if pool.settings.ctx == widest)


def guess_prompt(spec: TaskSpec) -> Counted:
    """Estimate the prompt's tokens when nobody can count them."""
    return Counted(spec.prompt_bytes // BYTES_PER_TOKEN_GUESS + 1, "estimate")


def _room(pool: Pool, spec: TaskSpec) -> int:
    return spec.ctx or pool.settings.ctx


def too_long(pool: Pool, spec: TaskSpec, counted: Counted) -> Refusal | None:
    """Refuse what cannot fit into the context: nothing is ever truncated.

    Req: ORCH-4056, ORCH-4147, ORCH-4471
    """
    room = _room(pool, spec)
    if spec.inputs is not None:
        # Nobody counts inputs one by one: the engine refuses what this estimate lets pass.
        counted = Counted(spec.longest_bytes // BYTES_PER_TOKEN_GUESS + 1, "estimate")
    if counted.tokens + spec.max_tokens <= room:
        return None
    field = "/prompt" if spec.prompt is not None else "/messages" if spec.messages is not None else "/inputs"
    how = "estimated at" if counted.basis == "estimate" else "has"
    length = "1 token" if counted.tokens == 1 else f"{counted.tokens} tokens"
    text = f"the prompt {how} {length}; with max_tokens {spec.max_tokens} that is above ctx {room}"
    if spec.inputs is not None:
        return _invalid([Fault(field, f"one of the inputs is estimated at {length}, which is above ctx {room}")])
    return _invalid([Fault(field, text), Fault("/max_tokens", f"at most {max(0, room - counted.tokens)} would fit")])


def misses_deadline(state: State, pool: Pool, spec: TaskSpec, counted: Counted) -> Refusal | None:
    """Refuse a deadline that even an empty queue would miss.

    Certain is what follows from a count; where there is only a bound or an estimate from above, the fewest tokens that the
    bytes can be.

    Req: ORCH-4149
    """
    prompt_tokens = counted.tokens if counted.basis == "tokenizer" else spec.prompt_bytes // BYTES_PER_TOKEN_MOST
    if spec.deadline_ms is None:
        return None
    at_least = spec.max_tokens if spec.sampling.ignore_eos else 1
    need_ms = service_ms(prompt_tokens, at_least, pool_rates(state, pool))
    if need_ms <= spec.deadline_ms:
        return None
    return Refusal(
        Outcome.REJECTED_DEADLINE,
        f"deadline_ms {spec.deadline_ms} is certain to be missed: alone it would take about {need_ms} ms; allow more time",
        retry_after_ms=need_ms,
        engine=pool.settings.engine,
        pool_id=pool.pool_id,
    )


def not_serving(pools: tuple[Pool, ...], now_ms: int) -> Refusal | None:
    """Refuse when no fitting pool can take tasks now.

    A pool that loads, drains or reloads is unready; one whose replicas all failed is unavailable. One that is not preloaded is
    brought up by its first task, which waits for that as those after it do.

    Req: ORCH-4118, ORCH-4138
    """
    if any(p.serving and (p.ready or p.wakes) for p in pools):
        return None
    pool = next((p for p in pools if p.serving), pools[0])
    comes_up = any(r.state in (ReplicaState.STARTING, ReplicaState.DOWN) for r in pool.replicas.values())
    failed = pool.serving and not comes_up and any(r.last_error and r.restarts for r in pool.replicas.values())
    outcome = Outcome.POOL_UNAVAILABLE if failed else Outcome.POOL_UNREADY
    doing = _what_failed(pool) if failed else f"is {'loading' if pool.serving else pool.mode}"
    return Refusal(
        outcome,
        f"pool {pool.pool_id} {doing}; try again later",
        retry_after_ms=max(1, comes_up_in_ms(pool, now_ms)),
        engine=pool.settings.engine,
        pool_id=pool.pool_id,
    )


def _what_failed(pool: Pool) -> str:
    """Name the kind of failure; files and addresses are the operator's, whose `orchq pools` tells the rest."""
    causes = {(r.last_error or "").partition(":")[0] for r in pool.replicas.values()}
    return "has no live replica" + (": its model file is refused" if causes & MODEL_REFUSED else "")


def model_replaced(pool: Pool, spec: TaskSpec) -> Refusal | None:
    """Refuse a task whose model was replaced while its prompt was counted."""
    if spec.model_ref in (None, pool.model_ref):
        return None
    text = f"pool {pool.pool_id} serves {pool.model_ref} by now"
    return _invalid([Fault("/model_ref", text)])


def no_turn_left(state: State, tenant: Tenant, spec: TaskSpec, now_ms: int) -> Refusal | None:
    """Refuse a turn beyond the session's last; the caller evicts the session.

    Req: ORCH-4244
    """
    if spec.session_id is None or state.sessions.turns_left((tenant, spec.session_id), now_ms) > 0:
        return None
    text = f"session has had its {state.settings.sessions.max_turns} turns and is closed; start a new one"
    return _invalid([Fault("/session_id", text)])


def over_rate(pool: Pool, priority: str, now_ms: int) -> Refusal | None:
    """Refuse where the class's bucket (one second of burst) is empty; nothing is taken.

    Req: ORCH-4150
    """
    limit = pool.queue.classes[priority].rate_limit_rps
    if limit is None:
        return None
    level, per_ms = _rate_level(pool, priority, limit, now_ms)
    if level >= RATE_TOKEN_MICRO:
        return None
    return Refusal(
        Outcome.REJECTED_RATE,
        f"more than {limit:g} {priority} tasks a second for pool {pool.pool_id}; slow down",
        retry_after_ms=-(-(RATE_TOKEN_MICRO - level) // per_ms),
        engine=pool.settings.engine,
        pool_id=pool.pool_id,
    )


def take_rate(pool: Pool, priority: str, now_ms: int) -> None:
    """Take an accepted task's token from its class's bucket.

    Req: ORCH-4150, ORCH-4303
    """
    limit = pool.queue.classes[priority].rate_limit_rps
    if limit is not None:
        level, _ = _rate_level(pool, priority, limit, now_ms)
        pool.rate_tokens_micro[priority] = level - RATE_TOKEN_MICRO
        pool.rate_refilled_at_ms[priority] = now_ms


def _rate_level(pool: Pool, priority: str, limit: float, now_ms: int) -> tuple[int, int]:
    """Tell what is in the bucket, and what comes back each millisecond.

    Units: millionths of a task, so that every millisecond adds a whole number however slow the rate is.
    """
    per_ms = max(1, round(limit * 1000))
    full = max(RATE_TOKEN_MICRO, per_ms * 1000)
    since_ms = now_ms - pool.rate_refilled_at_ms.get(priority, now_ms)
    return min(full, pool.rate_tokens_micro.get(priority, full) + since_ms * per_ms), per_ms


def _invalid(faults: list[Fault], outcome: Outcome = Outcome.INVALID) -> Refusal:
    return Refusal(outcome, "; ".join(f"{f.pointer}: {f.message}" for f in faults), tuple(faults))
