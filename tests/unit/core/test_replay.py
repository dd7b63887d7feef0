"""A lost strict task is computed again: what was sent is compared and kept back, what is new goes on."""

from itertools import pairwise

import pytest

from orchqueue.core import decisions as dc
from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.outcome import MEANINGS, Outcome
from orchqueue.core.replay import Followed, follow
from orchqueue.core.request import Sampling
from orchqueue.core.settings import Timeouts
from orchqueue.core.task_states import TaskState
from tests.unit.core.driving import Driver, key, pool_settings

TEXT = "né 🌍 and on"
SENT = TEXT[:5]
USUAL = Timeouts()


def say(core: Driver, attempt: int, *texts: str, tokens: int = 1, after_ms: int = 0) -> list[str]:
    """Have text arrive and give what is passed on."""
    effects = core.handle(ev.ChunksArrived(AttemptId(attempt), texts, tokens), after_ms)
    return [text for emitted in core.wanted(fx.EmitTokens, effects) for text in emitted.texts]


def lost(timeouts: Timeouts = USUAL) -> Driver:
    """Make a core whose one task has lost its replica after it said something, and runs on another."""
    core = Driver(pool_settings(replicas=2, timeouts=timeouts))
    core.submit("t")
    assert say(core, 1, SENT[:2], SENT[2:], tokens=3) == [SENT[:2], SENT[2:]]
    core.fail(1)
    assert [s.replica_id for s in core.wanted(fx.StartAttempt)] == ["pr0", "pr1"]
    return core


def end_of(core: Driver) -> Outcome | None:
    ends = core.wanted(fx.Finish)
    assert len(ends) <= 1, "a task ends once"
    return ends[0].ended.outcome if ends else None


@pytest.mark.req("ORCH-4010")
@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5, 6, 7), (5,), (), (4, 6), (3, 5, 9)])
def test_a_replay_goes_on_without_a_gap_wherever_it_is_cut(cuts: tuple[int, ...]) -> None:
    """Every byte is passed on exactly once, though the second run cuts its text otherwise."""
    core = lost()
    bounds = (0, *cuts, len(TEXT))
    passed = [say(core, 2, TEXT[a:b], tokens=9) for a, b in pairwise(bounds)]
    assert SENT + "".join(text for texts in passed for text in texts) == TEXT
    core.complete(2, tokens_out=9)
    ended = core.wanted(fx.Finish)[0].ended
    assert (ended.outcome, ended.tokens_out) == (Outcome.COMPLETED, 9)
    assert ended.receipt is not None
    assert (ended.receipt.attempts, ended.receipt.continued) == (2, False)
    assert len(core.wanted(fx.EmitStarted)) == 1


@pytest.mark.req("ORCH-4010", "ORCH-4366")
@pytest.mark.parametrize(("texts", "at_bytes"), [(("nè 🌍",), 2), (("né ", "x"), 4), (("Né",), 0), (("né 🌐 and",), 7)])
def test_the_first_other_byte_ends_the_task_once_and_is_told(texts: tuple[str, ...], at_bytes: int) -> None:
    """Nothing of the other text is passed on; log, metric and explanation say where it began, and none holds text."""
    core = lost()
    assert say(core, 2, *texts) == []
    assert end_of(core) is Outcome.DIVERGED
    assert (MEANINGS[Outcome.DIVERGED].code, MEANINGS[Outcome.DIVERGED].retriable) == ("WORKER_RESET", True)
    assert core.wanted(fx.AbortAttempt)[-1] == fx.AbortAttempt(AttemptId(2))
    (note,) = [n for n in core.wanted(fx.Note) if n.event == "replay_diverged"]
    told = {"replica_id": "pr1", "first_replica_id": "pr0", "at_bytes": at_bytes, "sent_bytes": len(SENT.encode())}
    assert told.items() <= note.fields.items()
    assert not any(isinstance(value, str) and "né" in value for value in note.fields.values())
    assert [c.labels for c in core.wanted(fx.Count) if c.name == "replays_total"] == [("llamacpp", "p", "diverged")]
    assert dc.Diverged(
        core.now_ms, key("t"), 2, ReplicaId("pr0"), ReplicaId("pr1"), at_bytes, len(SENT.encode())
    ) in core.decided(key("t"))
    found = core.explained("t")
    assert found is not None
    assert any(moment.kind == "diverged" for moment in found.timeline)


@pytest.mark.req("ORCH-4010")
def test_a_replay_that_ends_too_early_differs() -> None:
    """The engine stops before it has said what was sent: the stream cannot be right."""
    core = lost()
    say(core, 2, "né")
    core.complete(2)
    assert end_of(core) is Outcome.DIVERGED


@pytest.mark.req("ORCH-4010")
def test_a_replay_that_ends_where_the_text_ended_completes() -> None:
    """The first engine was lost between its last token and its end."""
    core = lost()
    assert say(core, 2, SENT) == []
    core.complete(2, tokens_out=3)
    assert end_of(core) is Outcome.COMPLETED
    assert [c.labels[2] for c in core.wanted(fx.Count) if c.name == "replays_total"] == ["caught_up"]
    found = core.explained("t")
    assert found is not None
    assert any(moment.kind == "caught_up" for moment in found.timeline)


@pytest.mark.req("ORCH-4010")
def test_a_replay_that_is_lost_too_begins_anew() -> None:
    """What was compared does not count for the next run, which is compared from its first byte."""
    core = Driver(pool_settings(replicas=3))
    core.submit("t")
    say(core, 1, SENT)
    core.fail(1)
    assert say(core, 2, TEXT[:3]) == []
    core.fail(2)
    assert say(core, 3, TEXT[:3]) == []
    assert say(core, 3, TEXT[3:]) == [TEXT[5:]]
    core.complete(3, tokens_out=9)
    assert end_of(core) is Outcome.COMPLETED


@pytest.mark.req("ORCH-4175")
def test_kills_count_only_as_long_as_nothing_new_comes() -> None:
    """A task that gets on between two losses is no poison; one that does not is, after three."""
    core = Driver(pool_settings(max_attempts=50))
    core.submit("t")
    for attempt in range(1, 7):
        say(core, attempt, TEXT[:attempt])
        core.fail(attempt)
        core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
    assert end_of(core) is None
    for attempt in (7, 8):
        say(core, attempt, TEXT[:6])
        say(core, attempt, "")
        core.fail(attempt)
        core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
    assert end_of(core) is Outcome.POISON


@pytest.mark.req("ORCH-4177")
def test_a_refusal_in_the_middle_is_not_the_clients_fault() -> None:
    """A request that one engine took and the next refuses was right."""
    core = lost()
    core.fail(2, "rejected")
    assert end_of(core) is Outcome.ENGINE_LOST


@pytest.mark.req("ORCH-4369", "ORCH-3016")
def test_a_replay_is_not_decoding_time() -> None:
    """The limit counts what was decoded before the loss and after the replay has caught up, and so does the receipt."""
    core = Driver(pool_settings(replicas=2, timeouts=Timeouts(wall_ms=10_000, idle_ms=8_000)))
    core.submit("t")
    say(core, 1, SENT, after_ms=4_000)
    core.fail(1)
    assert core.wanted(fx.SetTimer)[-1] == fx.SetTimer(("wall", key("t")), core.now_ms + 10_000)
    say(core, 2, TEXT[:2], after_ms=7_000)
    assert core.handle(ev.TimerFired(("wall", key("t")))) == [fx.SetTimer(("wall", key("t")), core.now_ms + 3_000)]
    say(core, 2, TEXT[2:], tokens=9, after_ms=2_000)
    due = [t.at_ms for t in core.wanted(fx.SetTimer) if t.key == ("wall", key("t"))][-1]
    assert due == core.now_ms + 6_000
    core.now_ms += 500
    core.complete(2, tokens_out=9)
    assert core.wanted(fx.Finish)[0].ended.decode_ms == 4_500


@pytest.mark.req("ORCH-4369")
def test_a_replay_that_takes_the_whole_limit_is_over() -> None:
    """It does not hang for ever only because its time does not count."""
    core = lost(Timeouts(wall_ms=10_000, idle_ms=50_000, first_token_ms=100))
    assert [t.key[0] for t in core.wanted(fx.SetTimer) if t.key[0] == "first_token"] == ["first_token"]
    core.handle(ev.TimerFired(("wall", key("t"))), after_ms=10_000)
    assert end_of(core) is Outcome.WALL_TIMEOUT


@pytest.mark.req("ORCH-3016")
def test_a_replay_is_not_asked_for_a_first_token() -> None:
    """The text is there already; a timer of the first run that fires late ends nothing."""
    core = lost(Timeouts(wall_ms=10_000, idle_ms=50_000, first_token_ms=100))
    assert core.handle(ev.TimerFired(("first_token", key("t"))), after_ms=500) == []
    assert say(core, 2, TEXT) == [TEXT[5:]]


@pytest.mark.req("ORCH-4368")
def test_another_engine_version_never_goes_on_with_a_text() -> None:
    """It waits for the engine that began it, and ends when there is none left that could be it."""
    core = Driver(pool_settings(replicas=2, require_same_engine_version=False), up=False)
    core.ready("pr0")
    core.submit("t")
    say(core, 1, SENT)
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "signal", "9"))
    core.close(1)
    core.ready("pr1", engine_version="v2")
    assert (core.task("t").state, core.starts) == (TaskState.WAITING, ["t"])
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.ready("pr0", engine_version="v2")
    assert end_of(core) is Outcome.ENGINE_LOST
    assert "v1" in core.wanted(fx.Finish)[0].ended.message


@pytest.mark.req("ORCH-4368")
def test_the_engine_that_began_a_text_may_come_back() -> None:
    """The same version and model on the same replica go on where it was lost."""
    core = Driver(pool_settings(replicas=1))
    core.submit("t")
    say(core, 1, SENT)
    core.handle(ev.ReplicaLost(ReplicaId("pr0"), "signal", "9"))
    core.close(1)
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.ready("pr0")
    assert say(core, 2, TEXT) == [TEXT[5:]]


def continuing(**spec: object) -> Driver:
    """Make a core whose best_effort task was lost in the middle, on replicas that can go on from a text."""
    core = Driver(pool_settings(replicas=2, workloads=("completion", "embedding")), up=False)
    for replica in ("pr0", "pr1"):
        core.ready(replica, can_continue=True)
    core.submit("t", determinism="best_effort", **spec)
    say(core, 1, SENT, tokens=3)
    core.fail(1)
    return core


@pytest.mark.req("ORCH-4368")
def test_a_replica_that_cannot_go_on_keeps_nobody_from_one_that_lost_the_text() -> None:
    """Another replica comes first, but not one that could never take the task."""
    core = Driver(pool_settings(replicas=2), up=False)
    core.ready("pr0", can_continue=True)
    core.submit("t", determinism="best_effort")
    core.ready("pr1")
    say(core, 1, SENT)
    core.fail(1)
    core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
    assert [s.replica_id for s in core.wanted(fx.StartAttempt)] == ["pr0", "pr0"]


@pytest.mark.req("ORCH-4178", "ORCH-4252")
def test_a_best_effort_task_goes_on_from_its_text() -> None:
    """The next engine gets the text and what is left of the tokens; the receipt and the log tell of it."""
    core = continuing()
    start = core.wanted(fx.StartAttempt)[-1]
    assert (start.said, start.spec.max_tokens, start.replica_id) == (SENT, 5, "pr1")
    assert say(core, 2, " else", tokens=2) == [" else"]
    assert core.task("t").tokens_out == 5
    core.handle(ev.AttemptCompleted(AttemptId(2), "stop", 2 + 3, 2, 1, 2))
    ended = core.wanted(fx.Finish)[0].ended
    assert (ended.outcome, ended.tokens_in, ended.tokens_out) == (Outcome.COMPLETED, 2, 5)
    assert ended.receipt is not None
    assert ended.receipt.continued
    fields = next(n.fields for n in core.wanted(fx.Note) if n.event == "task_ended")
    assert (fields["kv_warmth"], fields["kv_migrated"]) == (False, False)


@pytest.mark.req("ORCH-4177", "ORCH-4178")
@pytest.mark.parametrize(
    "spec",
    [
        {"sampling": Sampling(grammar='root ::= "a"')},
        {"sampling": Sampling(json_schema="{}")},
        {"max_tokens": 3},
        {"prompt": None, "inputs": ("a",), "workload": "embedding"},
    ],
)
def test_what_cannot_be_taken_up_in_its_middle_ends(spec: dict[str, object]) -> None:
    """A grammar or a result would begin anew, and where no token is left nothing can come: the client is told to send it again."""
    core = continuing(**spec)
    assert end_of(core) is Outcome.ENGINE_LOST
    assert core.starts == ["t"]


@pytest.mark.req("ORCH-4367", "ORCH-3016")
def test_a_silent_engine_loses_its_task_to_another() -> None:
    """The first engine is told to stop and probed; the task goes on elsewhere."""
    core = Driver(pool_settings(replicas=2, timeouts=Timeouts(idle_ms=1_000)))
    core.submit("t")
    say(core, 1, SENT)
    effects = core.handle(ev.TimerFired(("idle", key("t"))), after_ms=1_000)
    assert fx.AbortAttempt(AttemptId(1)) in effects
    assert fx.ProbeReplica(ReplicaId("pr0")) in effects
    assert core.wanted(fx.StartAttempt, effects)[0].replica_id == "pr1"
    assert say(core, 1, "of the first") == []
    assert say(core, 2, TEXT) == [TEXT[5:]]
    assert [c.labels for c in core.wanted(fx.Count) if c.name == "failovers_total"] == [("retried",)]


@pytest.mark.req("ORCH-4367")
def test_a_silent_best_effort_task_that_cannot_go_on_is_told_of_the_limit() -> None:
    """It ends as it would without failover, and the words name the limit."""
    core = Driver(pool_settings(timeouts=Timeouts(idle_ms=1_000)))
    core.submit("t", determinism="best_effort")
    say(core, 1, SENT)
    core.handle(ev.TimerFired(("idle", key("t"))), after_ms=1_000)
    assert end_of(core) is Outcome.IDLE_TIMEOUT
    assert "idle_ms 1000" in core.wanted(fx.Finish)[0].ended.message


@pytest.mark.req("ORCH-4382")
def test_a_task_that_nobody_speaks_to_runs_out_of_time() -> None:
    """Three silences without a new token are no reason to call it poison: it may be sent again."""
    core = Driver(pool_settings(timeouts=Timeouts(idle_ms=1_000)))
    core.submit("t")
    for attempt in (1, 2, 3):
        say(core, attempt, SENT)
        core.handle(ev.TimerFired(("idle", key("t"))), after_ms=1_000)
        core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
        core.close(attempt)
    assert end_of(core) is Outcome.IDLE_TIMEOUT
    assert MEANINGS[Outcome.IDLE_TIMEOUT].retriable


@pytest.mark.req("ORCH-4370")
def test_an_engine_that_does_not_let_go_is_started_anew() -> None:
    """Its slot would be lost for ever; one that has let go in time, or is gone, is left alone."""
    core = Driver(pool_settings(timeouts=Timeouts(idle_ms=1_000)))
    core.submit("t")
    say(core, 1, SENT)
    core.handle(ev.TimerFired(("idle", key("t"))), after_ms=1_000)
    assert fx.SetTimer(("hung", "1"), core.now_ms + 10_000) in core.last
    core.handle(ev.ReplicaHealthy(ReplicaId("pr0")))
    assert core.starts == ["t"]
    core.handle(ev.TimerFired(("hung", "1")), after_ms=10_000)
    assert (
        core.core.state.replicas[ReplicaId("pr0")].last_error
        == "health: it did not let go of a silent task within 10000 ms"
    )
    assert core.handle(ev.TimerFired(("hung", "1"))) == []
    core.close(1)
    assert core.handle(ev.TimerFired(("hung", "1"))) == []
    core.handle(ev.TimerFired(("restart", "pr0")))
    core.ready("pr0")
    assert say(core, 2, TEXT) == [TEXT[5:]]


@pytest.mark.req("ORCH-4010")
def test_comparing_stops_at_the_first_difference() -> None:
    """Nothing behind it is given, and an empty piece changes nothing."""
    assert follow(b"abc", 0, ("", "ab")) == Followed(2)
    assert follow(b"abc", 2, ("cd", "e")) == Followed(3, ("d", "e"))
    assert follow(b"abc", 0, ("abX", "de")) == Followed(0, (), 2)
    assert follow(b"abc", 1, ("b", "Xd")) == Followed(2, (), 2)


@pytest.mark.req("ORCH-4010")
def test_predictions_count_a_replay_as_work_still_to_do() -> None:
    """What is computed again takes its time, less what is done of it."""
    core = lost()
    core.submit("later")
    before = core.wanted(fx.Accept)[-1].predicted_start_ms
    say(core, 2, TEXT[:4])
    core.submit("last")
    assert core.wanted(fx.Accept)[-1].queue_position == 1
    assert before > 0
