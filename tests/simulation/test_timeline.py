"""A replay can be read: who did what, to which task, what followed, and where a fault struck."""

from typing import get_args

import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplyId, TaskId, TaskKey, Tenant
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.request import TaskSpec
from orchqueue_sim.agenda import BEGIN_MS
from orchqueue_sim.plan import FAULTS, draw
from orchqueue_sim.telling import say_effect, say_event
from orchqueue_sim.timeline import SILENT, Timeline
from orchqueue_sim.world import run

TASK = TaskId("5e28e9a4-0c1b-4a6e-9d7a-0123456789ab")
ASKED = ev.TaskSubmitted(ReplyId(7), TASK, Tenant("t0"), TaskSpec(prompt="hi", max_tokens=4, deadline_ms=50))


@pytest.mark.req("ORCH-4345")
def test_a_line_says_when_who_and_what_and_below_what_follows() -> None:
    """An event stands with its instant and actor, its effects below a bar, and what was carried out with its own instant."""
    timeline = Timeline()
    refuse = fx.Refuse(ReplyId(7), Refusal(Outcome.REJECTED_FULL, "full", retry_after_ms=900))
    timeline.note(BEGIN_MS + 5, "event", ASKED)
    timeline.note(BEGIN_MS + 5, "effect", refuse)
    timeline.note(BEGIN_MS + 6, "fault", "silence: attempt 3")
    timeline.note(BEGIN_MS + 6, "done", refuse)
    assert timeline.lines == [
        "        5 ms  client   asks for t0/5e28e9a4: interactive, at most 4 tokens, prompt of 2 bytes, deadline_ms 50",
        "                       | answer 7: no, rejected_full; come back in 900 ms",
        "        6 ms  !! fault silence: attempt 3",
        "        6 ms  done     answer 7: no, rejected_full; come back in 900 ms",
    ]


@pytest.mark.req("ORCH-4345")
def test_one_task_can_be_followed_with_what_it_follows_from() -> None:
    """What mentions a word is told, and above an effect the event that led to it."""
    timeline = Timeline("5e28e9a4")
    timeline.note(BEGIN_MS, "event", ev.ChunksArrived(AttemptId(3), ("a" * 30, "b" * 30), 8))
    timeline.note(BEGIN_MS, "effect", fx.EmitTokens(TaskKey(f"t0/{TASK}"), ("ab",)))
    timeline.note(BEGIN_MS, "event", ev.AttemptClosed(AttemptId(4)))
    assert timeline.lines == [
        f"        0 ms  engine   attempt 3 says '{'a' * 20}…{'b' * 20}'",
        "                       | stream of t0/5e28e9a4: 'ab'",
    ]


@pytest.mark.req("ORCH-4345")
def test_everything_that_can_happen_has_words_without_code() -> None:
    """In a run in which all goes wrong no line shows a class, a field or a whole id."""
    told: list[object] = []
    for seed in range(12):
        run(seed, lambda _now_ms, _kind, what: told.append(what), draw(seed, frozenset(FAULTS)))
    events = [what for what in told if isinstance(what, get_args(ev.AnyEvent))]
    effects = [what for what in told if isinstance(what, get_args(fx.AnyEffect)) and not isinstance(what, SILENT)]
    assert len({type(what) for what in events}) > 20
    lines = [" ".join(say_event(event)) for event in events] + [say_effect(effect) for effect in effects]
    assert [line for line in lines if "=<" in line or "Struct" in line or ("-4" in line and line.count("-") > 3)] == []
