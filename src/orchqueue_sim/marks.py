"""What runs reach: ends, policies, transitions, faults that struck. Reaching is counted here, judging is the auditor's.

A mark is a line of words such as `outcome poison` or `policy drop-lru batch victim`. `watching` collects those of the
core by looking over its shoulder; faults and clients report their own to the `Chronicle`, which also tells them to the
timeline. `expected` lists what the seeds of a level have to reach together, and `EXCUSED` what they cannot, and why.

Req: ORCH-4341, ORCH-4342
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import get_args
from unittest import mock

from orchqueue.core import decisions as dc
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core import state as core_state
from orchqueue.core import task as core_task
from orchqueue.core.orchestrator import Orchestrator
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, AnyRecord
from orchqueue.core.replica_states import REPLICA_TABLE, ReplicaState, ReplicaTrigger, next_replica_state
from orchqueue.core.state import Pool
from orchqueue.core.task_states import TASK_TABLE, TaskState, TaskTrigger, next_task_state

Trace = Callable[[int, str, object], None]

REFUSED_BY = {
    Outcome.REJECTED_FULL: "reject",
    Outcome.DROPPED_NO_VICTIM: "drop-lru",
    Outcome.REJECTED_SHED: "shed-low-priority",
}
VICTIMS = (Outcome.DROPPED_VICTIM, Outcome.SHED_VICTIM)
POLICY_VERDICTS = (
    "policy reject interactive room",
    "policy reject interactive refusal",
    "policy reject batch room",
    "policy reject batch refusal",
    "policy drop-lru interactive room",
    "policy drop-lru interactive victim",
    "policy drop-lru batch room",
    "policy drop-lru batch victim",
    "policy drop-lru batch refusal",
    "policy shed-low-priority interactive room",
    "policy shed-low-priority interactive victim",
    "policy shed-low-priority interactive refusal",
    "policy shed-low-priority batch room",
    "policy shed-low-priority batch refusal",
)
"""An interactive newcomer finds a victim wherever something waits, so drop-lru never refuses it; batch is never let in
by shed-low-priority."""

POOL_CHANGES = (
    "serving -> draining",
    "draining -> drained",
    "serving -> verifying",
    "draining -> verifying",
    "drained -> verifying",
    "verifying -> serving",
    "verifying -> reloading",
    "reloading -> serving",
)
CANARY_NOTES = ("canary_begun", "canary_promoted", "canary_taken_back")

OURS = "it is a bug of ours, and a run that meets one fails"
NO_QUOTA = "nothing gives it: quotas are not configured in the simulation"
NEVER_DOWN = "without pools that sleep until their first task none is down when a reload begins"
EXCUSED: dict[int, dict[str, str]] = {
    1: {
        "outcome internal": OURS,
        "outcome rejected_busy": "the mailbox in front of the core gives it, which level 1 leaves out",
    },
    2: {
        "outcome internal": OURS,
        "outcome rejected_quota": NO_QUOTA,
        "replica down stop": NEVER_DOWN,
        "outcome rejected_busy": "eight thousand requests would have to wait in one turn; tests of the gate reach it",
    },
}


class Chronicle:
    """What happened in a run: the marks that it reached and, where somebody listens, its story."""

    def __init__(self, clock: Callable[[], int], trace: Trace | None = None) -> None:
        self._clock, self._trace = clock, trace
        self.marks: set[str] = set()

    def tell(self, kind: str, what: object) -> None:
        """Add a line to the story."""
        if self._trace is not None:
            self._trace(self._clock(), kind, what)

    def struck(self, fault: str, story: str = "") -> None:
        """Note that a fault was not only drawn but really met somebody."""
        self.marks.add(f"fault {fault}")
        self.tell("fault", f"{fault}: {story}" if story else fault)

    def client(self, deed: str) -> None:
        """Note what a client did."""
        self.marks.add(f"client {deed}")


def expected(level: int, faults: tuple[str, ...], deeds: tuple[str, ...]) -> frozenset[str]:
    """List what the seeds of a level have to reach together."""
    found = {f"outcome {outcome.value}" for outcome in Outcome}
    found |= {f"event {kind.__name__}" for kind in get_args(ev.AnyEvent)}
    found |= {f"effect {kind.__name__}" for kind in get_args(fx.AnyEffect)}
    found |= {f"record {kind.__name__}" for kind in get_args(AnyRecord)}
    found |= {f"failure {failure}" for failure in get_args(ev.AttemptFailure)}
    found |= {"start anew", "start continued", "decision caught_up", "decision diverged"}
    if level == 1:
        # How the core moves is the same at both levels; level 1 has a hundred times more runs to get everywhere.
        found |= {f"decision {kind.__struct_config__.tag}" for kind in get_args(dc.AnyDecision)}
        found |= {_move("task", *key) for key in TASK_TABLE} | {_move("replica", *key) for key in REPLICA_TABLE}
        found |= {f"pool {change}" for change in (*POOL_CHANGES, *CANARY_NOTES)}
    found |= {*POLICY_VERDICTS, *(f"fault {fault}" for fault in faults), *(f"client {deed}" for deed in deeds)}
    return frozenset(found - EXCUSED[level].keys())


def _move(thing: str, state: Enum, trigger: Enum) -> str:
    return f"{thing} {state.value} {trigger.value}"


@contextmanager
def watching(marks: set[str]) -> Iterator[None]:
    """Collect what the core reaches while the block runs."""
    real = Orchestrator.handle
    seen: set[type] = set()

    def handle(self: Orchestrator, now_ms: int, event: ev.AnyEvent) -> list[fx.AnyEffect]:
        effects = real(self, now_ms, event)
        if type(event) not in seen:
            seen.add(type(event))
            marks.add(f"event {type(event).__name__}")
        for effect in effects:
            kind = type(effect)
            if kind not in seen:
                seen.add(kind)
                marks.add(f"effect {kind.__name__}")
            if isinstance(effect, fx.Note) and effect.event in CANARY_NOTES:
                marks.add(f"pool {effect.event}")
            marks.update(_named(effect))
        if isinstance(event, ev.TaskSubmitted | ev.PromptCounted):
            verdict = _verdict(self, event, effects)
            if verdict:
                marks.add(verdict)
        return effects

    def task_moves(state: TaskState, trigger: TaskTrigger, name: str) -> TaskState:
        marks.add(_move("task", state, trigger))
        return next_task_state(state, trigger, name)

    def replica_moves(state: ReplicaState, trigger: ReplicaTrigger, name: str) -> ReplicaState:
        marks.add(_move("replica", state, trigger))
        return next_replica_state(state, trigger, name)

    def set_of_pool(self: Pool, name: str, value: object) -> None:
        before = self.__dict__.get("mode")
        object.__setattr__(self, name, value)
        if name == "mode" and before not in (None, value):
            marks.add(f"pool {before} -> {value}")

    with (
        mock.patch.object(Orchestrator, "handle", handle),
        mock.patch.object(core_task, "next_task_state", task_moves),
        mock.patch.object(core_state, "next_replica_state", replica_moves),
        mock.patch.object(Pool, "__setattr__", set_of_pool),
    ):
        yield


def _named(effect: fx.AnyEffect) -> Iterator[str]:
    match effect:
        case fx.Refuse():
            yield f"outcome {effect.refusal.outcome.value}"
        case fx.Finish():
            yield f"outcome {effect.ended.outcome.value}"
        case fx.Record():
            yield f"record {type(effect.record).__name__}"
        case fx.LogDecision():
            yield f"decision {effect.decision.__struct_config__.tag}"
            if isinstance(effect.decision, dc.AttemptFailed):
                yield f"failure {effect.decision.failure}"
        case fx.StartAttempt():
            yield "start continued" if effect.said else "start anew"


def _verdict(core: Orchestrator, event: ev.TaskSubmitted | ev.PromptCounted, effects: list[fx.AnyEffect]) -> str:
    """Name what a full-queue policy said, empty when it was not asked."""
    gave_way = any(isinstance(e, fx.Finish) and e.ended.outcome in VICTIMS for e in effects)
    for effect in effects:
        if isinstance(effect, fx.Record) and isinstance(effect.record, Accepted):
            record = effect.record
            policy = core.state.pools[record.pool_id].queue.classes[record.spec.priority].full_policy
            return f"policy {policy} {record.spec.priority} {'victim' if gave_way else 'room'}"
        if isinstance(effect, fx.Refuse) and isinstance(event, ev.TaskSubmitted):
            policy_of = REFUSED_BY.get(effect.refusal.outcome)
            return f"policy {policy_of} {event.spec.priority} refusal" if policy_of else ""
    return ""
