"""The pure decision maker: every event in, every effect out.

No I/O, no clock, no randomness. `handle` never yields and must not be re-entered.
"""

from __future__ import annotations

from typing import assert_never

from orchqueue.core import (
    attempt_flow,
    canary_flow,
    journal_room,
    pool_flow,
    recovery_flow,
    replica_flow,
    submit_flow,
    task_flow,
    timer_flow,
    views,
)
from orchqueue.core import events as ev
from orchqueue.core.dispatch import dispatch
from orchqueue.core.effects import AnyEffect, Note
from orchqueue.core.log_entries import log_halt, log_settings
from orchqueue.core.replica_states import ReplicaState
from orchqueue.core.settings import Settings
from orchqueue.core.state import State
from orchqueue.core.swap import renew_step, start_replica, wake_step


class Orchestrator:
    """The whole core behind one function.

    Req: ORCH-4152
    """

    def __init__(self, settings: Settings) -> None:
        self.state = State(settings)
        self._handling = False

    def begin(self, now_ms: int) -> list[AnyEffect]:
        """Have every replica started, but those of pools that wait for their first task.

        Req: ORCH-4138
        """
        self.state.usage.begin(now_ms)
        log_settings(self.state, now_ms)
        for replica in self.state.replicas.values():
            # A recovered task may have woken its pool before.
            if not self.state.pool_of(replica).asleep and replica.state is ReplicaState.DOWN:
                start_replica(self.state, replica, now_ms)
        return self._taken()

    def handle(self, now_ms: int, event: ev.AnyEvent) -> list[AnyEffect]:
        """Decide what an event means.

        Units: `now_ms` unix milliseconds, never less than before.
        Shape: effects in the order in which they must be carried out.
        Cost: a token costs one look-up and one effect; a dispatch is O(log n) in the waiting tasks.
        """
        assert not self._handling, "handle was re-entered; whatever fires while effects are carried out must only post"
        self._handling = True
        try:
            self._route(event, now_ms)
            if self.state.dirty:
                self._settle(now_ms)
        finally:
            self._handling = False
        return self._taken()

    def _taken(self) -> list[AnyEffect]:
        effects, self.state.effects = self.state.effects, []
        return effects

    def _settle(self, now_ms: int) -> None:
        for pool in self.state.pools.values():
            pool_flow.reload_step(self.state, pool, now_ms)
            canary_flow.judge(self.state, pool, now_ms)
            renew_step(self.state, pool, now_ms)
            wake_step(self.state, pool, now_ms)
        dispatch(self.state, now_ms)
        for pool in self.state.pools.values():
            pool_flow.settle_drain(self.state, pool, now_ms)

    def _route(self, event: ev.AnyEvent, now_ms: int) -> None:
        state = self.state
        match event:
            case ev.ChunksArrived():
                attempt_flow.on_chunks(state, event, now_ms)
            case ev.TaskSubmitted():
                submit_flow.on_submitted(state, event, now_ms)
            case ev.PromptCounted():
                submit_flow.on_counted(state, event, now_ms)
            case ev.CancelRequested():
                task_flow.on_cancel(state, event, now_ms)
            case ev.ReaderAttached():
                task_flow.on_reader_attached(state, event)
            case ev.ReaderDetached():
                task_flow.on_reader_detached(state, event, now_ms)
            case ev.SessionDeleteRequested():
                task_flow.on_session_delete(state, event)
            case ev.AttemptCompleted():
                attempt_flow.on_completed(state, event, now_ms)
            case ev.AttemptFailed():
                attempt_flow.on_failed(state, event, now_ms)
            case ev.AttemptClosed():
                attempt_flow.on_closed(state, event, now_ms)
            case ev.TimerFired():
                timer_flow.on_timer(state, event, now_ms)
            case ev.Ticked():
                journal_room.on_measured(state, event.journal_bytes, event.journal_max_bytes)
                views.tell_readers(state, now_ms)
            case _:
                self._route_rare(event, now_ms)

    def _route_rare(self, event: ev.RareEvent, now_ms: int) -> None:
        state = self.state
        match event:
            case ev.ReplicaReady():
                replica_flow.on_ready(state, event, now_ms)
            case ev.ReplicaLost():
                replica_flow.on_lost(state, event, now_ms)
            case ev.ReplicaStopped():
                pool_flow.on_stopped(state, event, now_ms)
            case ev.ReplicaHealthy():
                replica_flow.on_healthy(state, event, now_ms)
            case ev.ReplicaScraped():
                replica_flow.on_scraped(state, event, now_ms)
            case ev.DrainRequested():
                pool_flow.on_drain(state, event, now_ms)
            case ev.ReloadRequested():
                pool_flow.on_reload(state, event, now_ms)
            case ev.RollbackRequested():
                pool_flow.on_rollback(state, event, now_ms)
            case ev.ModelVerified():
                pool_flow.on_verified(state, event, now_ms)
            case ev.SettingsReplaced():
                pool_flow.on_settings(state, event, now_ms)
            case ev.ShutdownBegan():
                state.shutting_down = True
                log_halt(state, "shutdown", now_ms)
            case ev.JournalStalled():
                state.journal_problem = event.reason
                log_halt(state, "journal", now_ms)
                state.emit(Note("error", "journal_stalled", {"detail": event.reason}))
            case ev.JournalHealed():
                state.journal_problem = None
                log_halt(state, "journal", now_ms, over=True)
                state.emit(Note("info", "journal_healed", {}))
                state.dirty = True
            case ev.AcceptsWithdrawn():
                task_flow.on_accepts_withdrawn(state, event, now_ms)
            case ev.TaskRecovered():
                recovery_flow.on_recovered(state, event, now_ms)
            case ev.TaskRestored():
                recovery_flow.on_restored(state, event, now_ms)
            case ev.UsageBooked():
                recovery_flow.on_usage_booked(state, event)
            case _:
                assert_never(event)
