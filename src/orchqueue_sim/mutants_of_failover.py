"""Planted bugs in replays, continuations, recorded text, recovery with text, and engines that fall silent.

Req: ORCH-4238
"""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import msgspec

from orchqueue.core import (
    attempt_flow,
    dispatch,
    failover_flow,
    placement,
    recovery_flow,
    replica_flow,
    running_text,
    task_flow,
    timer_flow,
)
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ending import end
from orchqueue.core.ids import AttemptId, ReplicaId, task_key
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Spoken
from orchqueue.core.replay import Followed, follow
from orchqueue.core.retry import may_go_on
from orchqueue.core.state import Pool, Replica, State
from orchqueue.core.task import Task
from orchqueue_sim.planting import Bed, Planted

FAILOVER = Bed()
ENGINES = ("lost_late", "replica_crash", "silence")
CROOKED = ("lost_late", "replica_crash", "diverging_engine")
DAEMON = ("daemon_crash", "crash_after_commit", "shutdown")


def _following(follower: object) -> Planted:
    return mock.patch.object(failover_flow, "follow", follower)


@FAILOVER.within(60, *CROOKED)
def only_lengths_compared() -> Planted:
    """Keep back as many bytes of a replay as were sent, whatever they are."""

    def count(said: bytearray, at_bytes: int, texts: Sequence[str]) -> Followed:
        raw = "".join(texts).encode()
        left = len(said) - at_bytes
        rest = raw[left:].decode(errors="replace")
        return Followed(at_bytes + min(left, len(raw)), (rest,) if rest else ())

    return _following(count)


@FAILOVER.within(40, *ENGINES)
def one_letter_too_many_kept_back() -> Planted:
    """Lose the first letter behind what was sent."""

    def swallow(said: bytearray, at_bytes: int, texts: Sequence[str]) -> Followed:
        found = follow(said, at_bytes, texts)
        rest = "".join(found.rest)[1:]
        return msgspec.structs.replace(found, rest=(rest,) if rest else ())

    return _following(swallow)


@FAILOVER.within(40, *ENGINES)
def one_letter_too_few_kept_back() -> Planted:
    """Send the last letter before the loss once more."""

    def repeat(said: bytearray, at_bytes: int, texts: Sequence[str]) -> Followed:
        found = follow(said, at_bytes, texts)
        return msgspec.structs.replace(found, rest=(said.decode()[-1:], *found.rest)) if found.rest else found

    return _following(repeat)


@FAILOVER.within(40, *ENGINES)
def replay_passed_on() -> Planted:
    """Send everything again that a second engine says."""
    return _taking_up(lambda task, _now_ms: setattr(task, "replay_bytes", None))


@FAILOVER.within(60, *CROOKED)
def difference_not_told() -> Planted:
    """End a task for a difference and leave the operator no word of it."""

    def quiet(state: State, task: Task, _at_bytes: int, now_ms: int) -> None:
        end(state, task, Outcome.DIVERGED, now_ms, "differs")

    return _both("diverge", quiet)


@FAILOVER.within(60, *CROOKED)
def difference_told_as_a_loss() -> Planted:
    """Say that the engine was lost where it said something else."""

    def lose(state: State, task: Task, outcome: Outcome, now_ms: int, message: str = "") -> None:
        end(state, task, Outcome.ENGINE_LOST if outcome is Outcome.DIVERGED else outcome, now_ms, message)

    return mock.patch.object(failover_flow, "end", lose)


@FAILOVER.within(60, *CROOKED)
def short_replay_completes() -> Planted:
    """Take an end before the last byte that was sent for the right one."""
    return mock.patch.object(attempt_flow, "diverge", return_value=None)


def _both(name: str, planted: object) -> Planted:
    """Replace a function of the failover's flow where it is used by its own module and by that of attempts."""

    class Both:
        def __enter__(self) -> None:
            self._patches = [mock.patch.object(module, name, planted) for module in (failover_flow, attempt_flow)]
            for patch in self._patches:
                patch.start()

        def __exit__(self, *_: object) -> None:
            for patch in self._patches:
                patch.stop()

    return Both()


@FAILOVER.within(300, "odd_version", *ENGINES, "daemon_crash")
def another_version_goes_on() -> Planted:
    """Let any engine compute a text again."""
    return mock.patch.object(placement, "may_go_on", return_value=True)


@FAILOVER.within(300, *ENGINES)
def a_sibling_that_cannot_comes_first() -> Planted:
    """Wait for an engine that was not tried yet, though it can never go on with the text."""

    def may_run(task: Task, source: Pool, pool: Pool, replica: Replica) -> bool:
        if task.emitted_bytes and (replica.facts is None or not may_go_on(task, replica.facts)):
            return False
        if source is not pool and not task.spec.placement.allows(pool.pool_id):
            return False
        if replica.replica_id in task.tried:
            return not any(r.ready and r.replica_id not in task.tried for r in pool.replicas.values())
        return True

    return mock.patch.object(placement, "_may_run", may_run)


@FAILOVER.within(300, *ENGINES, "daemon_crash")
def nobody_gives_up() -> Planted:
    """Wait for ever for an engine that can go on."""
    return mock.patch.object(replica_flow, "give_up_interrupted", return_value=None)


@FAILOVER.within(40, *ENGINES)
def strict_continued() -> Planted:
    """Have a strict task go on from its text, which nobody has compared."""
    real = dispatch._take_up  # noqa: SLF001 - a mutant works from the inside

    def take_up(state: State, task: Task, replica_id: ReplicaId, facts: ev.ReplicaFacts, now_ms: int) -> str:
        said = real(state, task, replica_id, facts, now_ms)
        if task.replay_bytes is not None:
            task.replay_bytes, said = None, task.said.decode()
        return said

    return mock.patch.object(dispatch, "_take_up", take_up)


def _taking_up(spoil: object) -> Planted:
    real = dispatch._take_up  # noqa: SLF001 - a mutant works from the inside
    assert callable(spoil)

    def take_up(state: State, task: Task, replica_id: ReplicaId, facts: ev.ReplicaFacts, now_ms: int) -> str:
        said = real(state, task, replica_id, facts, now_ms)
        spoil(task, now_ms)
        return said

    return mock.patch.object(dispatch, "_take_up", take_up)


@FAILOVER.within(60, *ENGINES)
def replay_counts_as_decoding() -> Planted:
    """Count the time of a replay against the limit on decoding."""
    return _taking_up(lambda task, now_ms: setattr(task, "clock_from_ms", now_ms))


@FAILOVER.within(60, "silence", "lost_late")
def continuation_begins_at_no_token() -> Planted:
    """Forget how many tokens the text had from which an engine goes on."""
    return _taking_up(lambda task, _now_ms: setattr(task, "base_tokens", 0))


@FAILOVER.within(20)
def text_never_recorded() -> Planted:
    """Let the beat pass without a record of what was said."""

    def on_beat(state: State, _now_ms: int) -> None:
        state.unkept.clear()

    return mock.patch.object(timer_flow, "on_beat", on_beat)


@FAILOVER.within(200)
def much_text_waits_for_the_beat() -> Planted:
    """Record text only at the beat, however much it is."""
    return mock.patch.object(running_text, "BATCH_BYTES", 1 << 30)


@FAILOVER.within(40)
def text_recorded_one_byte_off() -> Planted:
    """Record a piece of text as if it began a byte later."""

    def spoken(tenant: str, task_id: str, at_bytes: int, text: str, tokens_out: int) -> Spoken:
        return Spoken(tenant, task_id, at_bytes + 1, text, tokens_out)  # type: ignore[arg-type]

    return mock.patch.object(running_text, "Spoken", spoken)


def _recovering(**changes: object) -> Planted:
    real = recovery_flow._take_over  # noqa: SLF001 - a mutant works from the inside

    def take_over(task: Task, event: ev.TaskRecovered, now_ms: int) -> None:
        real(task, msgspec.structs.replace(event, **changes), now_ms)

    return mock.patch.object(recovery_flow, "_take_over", take_over)


@FAILOVER.within(60, *DAEMON)
def text_lost_in_recovery() -> Planted:
    """Begin a task of an earlier life with nothing, though its log has its text."""
    return _recovering(text="")


@FAILOVER.within(60, *DAEMON)
def tokens_lost_in_recovery() -> Planted:
    """Forget how many tokens the recorded text had."""
    return _recovering(tokens_out=0)


@FAILOVER.within(60, *DAEMON)
def readers_lost_in_recovery() -> Planted:
    """Forget that a task had readers, so that nobody's absence ends it."""
    return _recovering(followed=False)


@FAILOVER.within(60, *DAEMON)
def starts_lost_in_recovery() -> Planted:
    """Count attempts from one again."""
    real = recovery_flow._take_over  # noqa: SLF001 - a mutant works from the inside

    def take_over(task: Task, event: ev.TaskRecovered, now_ms: int) -> None:
        real(task, event, now_ms)
        task.attempts = task.earlier_attempts = 0

    return mock.patch.object(recovery_flow, "_take_over", take_over)


@FAILOVER.within(60, *DAEMON)
def another_answer_after_a_crash() -> Planted:
    """Tell who asks again of a task of an earlier life another place than it was told at first."""
    real = recovery_flow._told_again  # noqa: SLF001 - a mutant works from the inside

    def told_again(accepted: Accepted) -> fx.Accept:
        told = real(accepted)
        return msgspec.structs.replace(told, queue_position=told.queue_position + 1)

    return mock.patch.object(recovery_flow, "_told_again", told_again)


@FAILOVER.within(300, *DAEMON, "lost_late")
def log_opened_twice() -> Planted:
    """Have a log opened that was rebuilt with its text: what ends before that is recorded without it."""
    real = recovery_flow.on_recovered

    def on_recovered(state: State, event: ev.TaskRecovered, now_ms: int) -> None:
        if event.text:
            state.emit(fx.OpenStream(task_key(event.accepted.tenant, event.accepted.task_id)))
        real(state, event, now_ms)

    return mock.patch.object(recovery_flow, "on_recovered", on_recovered)


@FAILOVER.within(60)
def reader_not_recorded() -> Planted:
    """Take a reader for known before anything of it is recorded."""
    real = task_flow.on_reader_attached

    def attached(state: State, event: ev.ReaderAttached) -> None:
        task = state.active.get(event.key)
        if task is not None:
            task.reader_seen = True
        real(state, event)

    return mock.patch.object(task_flow, "on_reader_attached", attached)


@FAILOVER.within(200, *ENGINES)
def losses_never_forgotten() -> Planted:
    """Take a task for poison that got on between its losses."""
    real = attempt_flow.on_chunks

    def on_chunks(state: State, event: ev.ChunksArrived, now_ms: int) -> None:
        attempt = state.attempts.get(event.attempt_id)
        task = state.active.get(attempt.key) if attempt is not None else None
        kills = task.kills if task is not None else 0
        real(state, event, now_ms)
        if task is not None:
            task.kills = kills

    return mock.patch.object(attempt_flow, "on_chunks", on_chunks)


@FAILOVER.within(60, "silence")
def silent_engine_keeps_its_task() -> Planted:
    """Wait for an engine that has fallen silent."""
    return mock.patch.object(timer_flow, "on_silence", return_value=None)


@FAILOVER.within(60, "silence")
def silent_engine_is_trusted() -> Planted:
    """Give an engine that has fallen silent the next task without a probe."""
    return mock.patch.object(failover_flow, "suspect", return_value=None)


@FAILOVER.within(60, "silence", "ignores_abort")
def deaf_engine_keeps_its_slot() -> Planted:
    """Wait for ever for an engine that does not let go of a silent task."""

    def wait(_state: State, _attempt_id: AttemptId, _now_ms: int) -> None:
        pass

    return mock.patch.object(timer_flow, "_never_let_go", wait)
