"""Planted bugs in limits, tries, replicas, recovery and the journal's tail; see `mutants` for those in the queue and in
what is told.

Req: ORCH-4238
"""

from __future__ import annotations

from unittest import mock

import msgspec

from orchqueue.core import attempt_flow, failover_flow, recovery_flow, replica_flow, retry, submit_flow, timer_flow
from orchqueue.core import events as ev
from orchqueue.core.canary import Canary
from orchqueue.core.ending import end
from orchqueue.core.forecast import Forecast, start_of
from orchqueue.core.ids import ReplicaId
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Ended
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.sessions import Session, Sessions
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue_sim.disk import Writer
from orchqueue_sim.planting import Bed, Planted

LIMITS = Bed()
LONG_MS = 600_000


@LIMITS.within(60, "torn_tail", "slow_disk")
def torn_tail_accepted() -> Planted:
    """Take half a record at the journal's end for a whole one."""
    real = Writer._die  # noqa: SLF001 - a mutant works from the inside

    def die(self: Writer, doom: str) -> None:
        if doom == "torn_tail":
            self._flying = [
                msgspec.structs.replace(record, text=record.text[: len(record.text) // 2])
                if isinstance(record, Ended)
                else record
                for record in self._flying
            ]
        real(self, doom)

    return mock.patch.object(Writer, "_die", die)


@LIMITS.within(40, "wall_jump")
def wall_jump_ends_tasks() -> Planted:
    """Take a clock that was set ahead for time that has passed."""
    real = recovery_flow.on_recovered

    def on_recovered(state: State, event: ev.TaskRecovered, now_ms: int) -> None:
        real(state, event, now_ms)
        for task in list(state.active.values()):
            if now_ms - event.accepted.accepted_at_ms > LONG_MS:
                end(state, task, Outcome.DEADLINE_PASSED, now_ms)

    return mock.patch.object(recovery_flow, "on_recovered", on_recovered)


@LIMITS.within(150, "zombie")
def zombie_slot_reused() -> Planted:
    """Give the slots of a replica that was told dead away, though a child of it still computes."""
    real = replica_flow._fail_attempts  # noqa: SLF001

    def fail(state: State, replica: Replica, event: ev.ReplicaLost, now_ms: int) -> None:
        real(state, replica, event, now_ms)
        for attempt_id in state.slots.holders(replica.replica_id):
            del state.attempts[attempt_id]
            state.slots.release(attempt_id)

    return mock.patch.object(replica_flow, "_fail_attempts", fail)


def _verdict(failure: str = "", **changes: int) -> Planted:
    def after_failure(
        task: Task,
        happened: ev.AttemptFailure,
        live: set[ReplicaId],
        max_attempts: int,
        poison_kills: int,
        *,
        can_continue: bool,
    ) -> Outcome | None:
        seen: ev.AttemptFailure = "overloaded" if happened == failure else happened
        most = changes.get("max_attempts", max_attempts)
        kills = changes.get("poison_kills", poison_kills)
        return retry.after_failure(task, seen, live, most, kills, can_continue=can_continue)

    return mock.patch.object(failover_flow, "after_failure", after_failure)


@LIMITS.within(40)
def rejected_tried_again() -> Planted:
    """Send elsewhere what an engine has refused for good."""
    return _verdict("rejected")


@LIMITS.within(200)
def poison_never_stops() -> Planted:
    """Let a task bring down one replica after the other."""
    return _verdict(poison_kills=1_000)


@LIMITS.within(250)
def tries_without_end() -> Planted:
    """Try a task more often than its pool allows."""
    return _verdict(max_attempts=1_000)


@LIMITS.within(60)
def wrong_version_admitted() -> Planted:
    """Let any engine version in beside the others."""
    return mock.patch.object(replica_flow, "_differs", return_value="")


@LIMITS.within(300, "odd_version", "lost_early", "failing_start")
def resting_sibling_overlooked() -> Planted:
    """Compare a newcomer's version only with siblings that take attempts at this moment."""
    return mock.patch.object(replica_flow, "RUNNING", (ReplicaState.READY,))


@LIMITS.within(40)
def work_not_conserved() -> Planted:
    """Look at the queue not when a slot is freed, but when something else happens."""
    real = attempt_flow.on_closed

    def on_closed(state: State, event: ev.AttemptClosed, now_ms: int) -> None:
        real(state, event, now_ms)
        state.dirty = False

    return mock.patch.object(attempt_flow, "on_closed", on_closed)


@LIMITS.within(150)
def suspect_gets_tasks() -> Planted:
    """Start attempts on a replica whose connection broke, before it has answered a probe."""

    def ready(self: Replica) -> bool:
        return self.state in (ReplicaState.READY, ReplicaState.SUSPECT) and not self.cooling

    return mock.patch.object(Replica, "ready", property(ready))


@LIMITS.within(60)
def deadline_ignored() -> Planted:
    """Let deadlines pass."""
    real = timer_flow._task_timer  # noqa: SLF001

    def timer(state: State, kind: str, task: Task, now_ms: int) -> None:
        if kind != "deadline":
            real(state, kind, task, now_ms)

    return mock.patch.object(timer_flow, "_task_timer", timer)


@LIMITS.within(60)
def tokens_do_not_count() -> Planted:
    """Take a task for idle when its first token is old, whatever came since."""
    return mock.patch.object(timer_flow, "_too_early", return_value=False)


@LIMITS.within(60, "daemon_crash")
def seed_lost_in_recovery() -> Planted:
    """Run a recovered task with another seed than the one it was accepted with."""
    real = recovery_flow._from_record  # noqa: SLF001

    def from_record(state: State, accepted: Accepted) -> Task:
        task = real(state, accepted)
        task.spec = msgspec.structs.replace(task.spec, seed=(task.spec.seed or 0) + 1)
        return task

    return mock.patch.object(recovery_flow, "_from_record", from_record)


@LIMITS.within(20)
def come_back_at_once() -> Planted:
    """Tell clients of a full queue to come back in no time."""
    return mock.patch.object(submit_flow, "retry_after_full", return_value=0)


@LIMITS.within(20)
def position_off_by_one() -> Planted:
    """Tell newcomers of one task more than stands before them."""

    def forecast(state: State, pool: Pool, task: Task, now_ms: int) -> Forecast:
        found = start_of(state, pool, task, now_ms)
        return msgspec.structs.replace(found, position=found.position + 1)

    return mock.patch.object(submit_flow, "start_of", forecast)


@LIMITS.within(60)
def turn_given_twice() -> Planted:
    """Forget every other turn of a session."""
    real = Sessions.count_turn

    def count(self: Sessions, key: tuple[str, str], now_ms: int) -> Session:
        session = real(self, key, now_ms)  # type: ignore[arg-type]
        session.turns -= session.turns % 2
        return session

    return mock.patch.object(Sessions, "count_turn", count)


@LIMITS.within(60, "reload")
def share_taken_when_free() -> Planted:
    """Give a model on trial every start that its replicas have room for."""
    return mock.patch.object(Canary, "owed", property(lambda canary: canary.trying))


@LIMITS.within(120, "reload")
def named_tasks_try_too() -> Planted:
    """Let a task that named its model run on the one that is tried."""
    return mock.patch.object(Canary, "open_to", lambda _canary, task: not task.emitted_bytes)
