"""Puts decisions into the log as they are made; what each holds is said in `decisions`.

Req: ORCH-4320, ORCH-4321, ORCH-4322
"""

from __future__ import annotations

import msgspec

from orchqueue.core import decisions as dc
from orchqueue.core.effects import LogDecision
from orchqueue.core.events import CrashCause
from orchqueue.core.ids import TaskKey
from orchqueue.core.outcome import Fault, Refusal
from orchqueue.core.request import TaskSpec
from orchqueue.core.state import Pool, Replica, State

FAULTS_AT_MOST = 8
TEXT_AT_MOST = 512


def log_request(state: State, key: TaskKey, client_id: str, spec: TaskSpec, now_ms: int) -> None:
    """Log what a request asks for."""
    state.effects.append(
        LogDecision(
            dc.Submitted(
                now_ms,
                key,
                client_id,
                spec.priority,
                spec.workload,
                spec.max_tokens,
                spec.prompt_bytes,
                len(spec.messages) if spec.messages is not None else 0,
                spec.model_ref,
                spec.engine,
                spec.ctx,
                spec.expected_tokens,
                spec.deadline_ms,
                spec.session_id,
                spec.kv_hint,
                spec.placement,
                spec.determinism,
                spec.sampler_profile_version,
                bool(spec.sampling.ignore_eos),
            )
        )
    )


def log_refused(
    state: State,
    key: TaskKey,
    refusal: Refusal,
    now_ms: int,
    prompt_tokens: int = 0,
    candidates: tuple[dc.Candidate, ...] = (),
) -> None:
    """Log a refusal, cut to `FAULTS_AT_MOST` faults and `TEXT_AT_MOST` characters a text.

    Req: ORCH-4087
    """
    faults = tuple(Fault(f.pointer[:TEXT_AT_MOST], f.message[:TEXT_AT_MOST]) for f in refusal.faults[:FAULTS_AT_MOST])
    kept = msgspec.structs.replace(refusal, message=refusal.message[:TEXT_AT_MOST], faults=faults, task_id=None)
    state.effects.append(LogDecision(dc.Refused(now_ms, key, kept, prompt_tokens, candidates)))


def log_pool(state: State, pool: Pool, now_ms: int, problem: str | None = None) -> None:
    """Log that a pool's mode is another now."""
    text = None if problem is None else problem[:TEXT_AT_MOST]
    tried = pool.canary
    state.emit(
        LogDecision(
            dc.PoolChanged(
                now_ms,
                pool.pool_id,
                pool.mode,
                pool.model_ref,
                pool.drain_at_ms,
                text,
                None if tried is None else tried.model_ref,
                None if tried is None else tried.percent,
            )
        )
    )


def log_replica(state: State, replica: Replica, now_ms: int, cause: CrashCause | None = None) -> None:
    """Log how a replica stands now."""
    facts = replica.facts
    state.emit(
        LogDecision(
            dc.ReplicaChanged(
                now_ms,
                replica.pool_id,
                replica.replica_id,
                replica.state.value,
                replica.cooling,
                cause,
                state.slots.total(replica.replica_id),
                facts is not None and facts.strict_proven,
                replica.rates.prefill_us,
                replica.rates.decode_us,
                replica.retry_at_ms or None,
            )
        )
    )


def log_settings(state: State, now_ms: int) -> None:
    """Log the policies of every pool; the addresses of replicas may hold secrets and stay out."""
    for pool in state.pools.values():
        replicas = tuple(msgspec.structs.replace(replica, url="") for replica in pool.settings.replicas)
        settings = msgspec.structs.replace(pool.settings, replicas=replicas)
        state.emit(LogDecision(dc.PoolConfigured(now_ms, pool.pool_id, settings)))


def log_halt(state: State, cause: dc.HaltCause, now_ms: int, *, over: bool = False) -> None:
    """Log that nothing is admitted or started, or again."""
    state.emit(LogDecision(dc.Halted(now_ms, dc.EVERYTHING, cause, over)))
