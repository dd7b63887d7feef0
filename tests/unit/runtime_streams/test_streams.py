"""The life of a stream log: readers come, stall, leave and are told how it ended."""

import zlib

import pytest

from orchqueue.core.effects import EmitMetrics
from orchqueue.core.outcome import Outcome
from orchqueue.runtime.stream_frames import Position, parse_position
from orchqueue.runtime.stream_log import Reader
from orchqueue.runtime.streams import AttachRefusal, Streams
from tests.unit.runtime_streams.reading import (
    KEY,
    STARTED,
    Recorder,
    accepted,
    attach,
    check_transcript,
    ended,
    parse,
    position_after,
)

TICKS_TO_HEARTBEAT = 3


@pytest.fixture
def streams() -> Streams:
    """Open one task's log."""
    made = Streams(readers_per_task=2)
    made.open(KEY, "corr-1")
    return made


def refusal(streams: Streams, event_id: str) -> object:
    """Try to attach at an event id."""
    return streams.attach(KEY, parse_position(event_id), Recorder())


@pytest.mark.req("ORCH-2002", "ORCH-4090", "ORCH-4092", "ORCH-4093", "ORCH-4097", "ORCH-4098")
def test_frames_are_frozen(streams: Streams) -> None:
    """The exact bytes of each kind of event are a contract."""
    sink = attach(streams)
    streams.started(STARTED)
    streams.tokens(KEY, ('a"\n', "", "€"))
    streams.metrics(EmitMetrics(KEY, tokens_per_s=1.5))
    streams.finish(KEY, ended())
    assert sink.raw.decode() == (
        'id: 0:00000000\nevent: started\ndata: {"queue_position":1,"predicted_start_ms":900,"seed":7,"pool_id":"p",'
        '"replica_id":"p-0","engine_version":"v","model_digest":"sha256:00","determinism":"strict","queue_time_ms":871}\n\n'
        'id: 3:f133d73b\nevent: token\ndata: {"t":"a\\"\\n","i":0}\n\n'
        'id: 6:da65f098\nevent: token\ndata: {"t":"€","i":1}\n\n'
        'event: metrics\ndata: {"tokens_per_s":1.5}\n\n'
        'id: 6:da65f098:end\nevent: end\ndata: {"tokens_out":5,"decode_ms":40,"finish_reason":"stop","canceled":false,'
        '"receipt":{"digest":"c492d30e803242d11abcc12dc7eb1eebd7fb731db8b385033602e43770ff721c","seed":7,'
        f'"params_digest":"{"0" * 64}","sampler_profile_version":"v1","engine":"llamacpp","engine_version":"v",'
        '"model_digest":"sha256:00","attempts":1,"durable":true}}\n\n'
    )


@pytest.mark.req("ORCH-2006", "ORCH-4099")
def test_failure_is_told_with_the_task_s_correlation_id(streams: Streams) -> None:
    """A failed task ends with one `error` event that carries the envelope."""
    sink = attach(streams)
    streams.finish(KEY, ended(Outcome.DROPPED_VICTIM))
    (item,) = sink.items
    assert (item.event, item.event_id) == ("error", "0:00000000:end")
    assert item.data["code"] == "QUEUE_FULL_DROP_LRU"
    assert item.data["retriable"] is True
    assert item.data["correlation_id"] == "corr-1"


@pytest.mark.req("ORCH-4097", "ORCH-4111")
def test_cancel_is_an_end(streams: Streams) -> None:
    """A cancelled task ends with `end`, its text so far kept."""
    sink = attach(streams)
    streams.tokens(KEY, ("half",))
    streams.finish(KEY, ended(Outcome.CANCELED_ON_DISCONNECT))
    assert sink.items[-1].data["canceled"] is True
    assert sink.items[-1].data["finish_reason"] == "canceled"


@pytest.mark.req("ORCH-4098")
def test_end_says_when_it_is_not_durable(streams: Streams) -> None:
    """An end that the journal does not hold yet says so in its receipt."""
    sink = attach(streams)
    streams.finish(KEY, ended(), durable=False)
    receipt = sink.items[-1].data["receipt"]
    assert isinstance(receipt, dict)
    assert receipt["durable"] is False


@pytest.mark.req("ORCH-4102")
@pytest.mark.parametrize("event_id", ["2:00000000", "1:00000000", "9:12345678"])
def test_wrong_bytes_are_refused(streams: Streams, event_id: str) -> None:
    """A reader whose bytes are not ours, or go beyond the end, is refused."""
    streams.tokens(KEY, ("Hi",))
    streams.finish(KEY, ended())
    assert refusal(streams, event_id) is AttachRefusal.MISMATCH


@pytest.mark.req("ORCH-4102")
def test_position_inside_a_character_is_refused(streams: Streams) -> None:
    """No event of ours ends inside a character, so nobody can have left off there."""
    streams.tokens(KEY, ("€",))
    assert refusal(streams, Position(1, zlib.crc32("€".encode()[:1])).event_id) is AttachRefusal.MISMATCH


@pytest.mark.req("ORCH-4103")
def test_terminal_id_means_nothing_follows(streams: Streams) -> None:
    """A reader that saw the end is told so; a made-up end is refused."""
    streams.tokens(KEY, ("Hi",))
    mark = position_after("Hi").event_id
    assert refusal(streams, f"{mark}:end") is AttachRefusal.MISMATCH
    streams.finish(KEY, ended())
    assert refusal(streams, f"{mark}:end") is AttachRefusal.ALREADY_ENDED
    assert refusal(streams, "2:00000000:end") is AttachRefusal.MISMATCH
    assert attach(streams, mark).items[-1].event == "end"


@pytest.mark.req("ORCH-4104", "ORCH-4180")
def test_reader_ahead_waits(streams: Streams) -> None:
    """After a restart a reader that has more than the log waits, hears heartbeats, and goes on without a gap."""
    had = position_after("Hello wor").event_id
    sink = attach(streams, had)
    streams.started(STARTED)
    streams.tokens(KEY, ("Hel", "lo "))
    assert sink.raw == b""
    for _ in range(TICKS_TO_HEARTBEAT):
        streams.tick()
    assert sink.raw == b": hb\n\n"
    streams.tokens(KEY, ("world", "!"))
    streams.finish(KEY, ended())
    check_transcript(sink, "Hello world!", "Hello wor")


@pytest.mark.req("ORCH-4104", "ORCH-4105")
def test_reader_ahead_hears_heartbeats_while_others_read(streams: Streams) -> None:
    """What is sent to those who keep up breaks no silence for one who waits for the log to reach him."""
    attach(streams)
    sink = attach(streams, position_after("Hello wor").event_id)
    for _ in range(TICKS_TO_HEARTBEAT):
        streams.metrics(EmitMetrics(KEY, tokens_per_s=1.5))
        streams.tick()
    assert sink.raw == b": hb\n\n"


@pytest.mark.parametrize(
    ("heartbeat_ms", "tick_ms"), [(15_000, 5_000), (14_999, 4_000), (5_000, 1_000), (3_000, 1_000)]
)
def test_ticks_keep_to_the_heartbeat(heartbeat_ms: int, tick_ms: int) -> None:
    """Three ticks, each a whole number of seconds, are never longer than the promised heartbeat."""
    assert Streams(heartbeat_ms=heartbeat_ms).tick_ms == tick_ms


@pytest.mark.req("ORCH-4104")
@pytest.mark.parametrize("texts", [("Hello World",), ("Hell",)], ids=["other bytes", "shorter"])
def test_reader_ahead_of_other_bytes_gets_one_error(streams: Streams, texts: tuple[str, ...]) -> None:
    """When the log turns out to differ, that reader alone gets one WORKER_RESET and nothing spliced."""
    sink, other = attach(streams, position_after("Hello wor").event_id), attach(streams)
    streams.tokens(KEY, texts)
    streams.finish(KEY, ended())
    (item,) = sink.items
    assert (item.event, item.data["code"]) == ("error", "WORKER_RESET")
    assert sink.over == "ended"
    check_transcript(other, "".join(texts), "")


def test_reader_ahead_of_a_failure_is_told_of_it(streams: Streams) -> None:
    """A task that failed before reaching a reader's place tells it how, whenever it attaches."""
    had = position_after("Hello wor").event_id
    sink = attach(streams, had)
    streams.tokens(KEY, ("Hel",))
    streams.finish(KEY, ended(Outcome.ENGINE_LOST))
    late = attach(streams, had)
    for one in (sink, late):
        assert [item.data["code"] for item in one.items] == ["WORKER_RESET"]
        assert one.items[0].data["message"] == "why"
        assert one.over == "ended"


@pytest.mark.req("ORCH-4104")
def test_paused_reader_ahead_is_judged_when_it_can_be_written_to(streams: Streams) -> None:
    """A mismatch found while the socket is full is told later, not written into the full socket."""
    sink = attach(streams, position_after("Hello wor").event_id)
    assert sink.reader is not None
    sink.reader.pause()
    streams.tokens(KEY, ("something else",))
    assert sink.raw == b""
    sink.reader.resume()
    assert [item.data["code"] for item in sink.items] == ["WORKER_RESET"]


@pytest.mark.req("ORCH-4091")
def test_started_comes_once(streams: Streams) -> None:
    """A second start of the same task is not told, and a reader that resumes is not told at all."""
    fresh, resumed = attach(streams), attach(streams, "0:00000000")
    streams.started(STARTED)
    streams.started(STARTED)
    streams.finish(KEY, ended())
    assert [item.event for item in fresh.items] == ["started", "end"]
    assert [item.event for item in resumed.items] == ["end"]


def test_paused_reader_that_resumed_is_not_told_of_the_start(streams: Streams) -> None:
    """A reader that resumed skips `started` also when it comes while its socket is full."""
    sink = attach(streams, "0:00000000", resume=False)
    streams.started(STARTED)
    streams.tokens(KEY, ("a",))
    assert sink.reader is not None
    sink.reader.resume()
    assert [item.event for item in sink.items] == ["token"]


@pytest.mark.req("ORCH-4096")
def test_metrics_reach_only_who_keeps_up(streams: Streams) -> None:
    """A reader that is behind misses metrics and no text."""
    quick, slow = attach(streams), attach(streams)
    assert slow.reader is not None
    slow.reader.pause()
    streams.metrics(EmitMetrics(KEY, queue_position=0))
    streams.tokens(KEY, ("a",))
    slow.reader.resume()
    assert [item.event for item in quick.items] == ["metrics", "token"]
    assert [item.event for item in slow.items] == ["token"]


@pytest.mark.req("ORCH-4076")
def test_readers_are_bounded(streams: Streams) -> None:
    """One reader more than allowed is refused, and a leaving one makes room."""
    first = attach(streams)
    attach(streams)
    assert streams.attach(KEY, None, Recorder()) is AttachRefusal.TOO_MANY
    assert first.reader is not None
    first.reader.detach()
    attach(streams)


@pytest.mark.req("ORCH-4108")
def test_stalled_reader_is_dropped_and_may_resume(streams: Streams) -> None:
    """A reader that takes nothing for long is dropped; its place stays readable."""
    sink = attach(streams)
    streams.tokens(KEY, ("Hello",))
    assert sink.reader is not None
    sink.reader.pause()
    streams.tokens(KEY, (" world",))
    for _ in range(6):
        streams.tick()
    before = sink.over
    streams.tick()
    assert (before, sink.over) == (None, "dropped")
    again = attach(streams, sink.last_id)
    streams.finish(KEY, ended())
    check_transcript(again, "Hello world", "Hello")


@pytest.mark.req("ORCH-4105")
def test_heartbeats_fill_silence_only(streams: Streams) -> None:
    """A quiet stream hears a comment every three ticks; one that talks does not."""
    sink = attach(streams)
    streams.tick()
    streams.tick()
    streams.tokens(KEY, ("a",))
    streams.tick()
    streams.tick()
    assert b": hb" not in sink.raw
    streams.tick()
    assert sink.raw.endswith(b": hb\n\n")
    assert [item.event for item in parse(sink.raw)] == ["token"]


def test_comings_and_goings_are_told() -> None:
    """Whoever watches learns how many readers a task has after each change."""
    told: list[tuple[str, int]] = []
    streams = Streams(
        attached=lambda _key, count: told.append(("+", count)), detached=lambda _key, count: told.append(("-", count))
    )
    streams.open(KEY)
    first, second = attach(streams), attach(streams)
    assert first.reader is not None
    first.reader.detach()
    first.reader.detach()
    streams.finish(KEY, ended())
    assert told == [("+", 1), ("+", 2), ("-", 1), ("-", 0)]
    assert second.over == "ended"
    assert first.over is None
    assert streams.readers == 0


def test_forgetting_lets_readers_of_an_ended_task_finish(streams: Streams) -> None:
    """A slow reader still gets everything of a task that is already forgotten."""
    sink = attach(streams)
    assert sink.reader is not None
    sink.reader.pause()
    streams.tokens(KEY, ("Hello",))
    streams.finish(KEY, ended())
    streams.forget(KEY)
    assert KEY not in streams
    assert streams.retained_bytes == 0
    assert streams.attach(KEY, None, Recorder()) is AttachRefusal.UNKNOWN
    sink.reader.resume()
    check_transcript(sink, "Hello", "")


def test_forgetting_an_unended_task_lets_its_readers_go(streams: Streams) -> None:
    """A task that is withdrawn leaves no reader hanging."""
    quick, slow = attach(streams), attach(streams)
    assert slow.reader is not None
    slow.reader.pause()
    streams.forget(KEY)
    assert (quick.over, slow.over) == ("ended", "dropped")


def test_retained_bytes_follow_the_log(streams: Streams) -> None:
    """Kept bytes grow with what is appended and are given back."""
    assert streams.retained_bytes == 0
    streams.started(STARTED)
    streams.tokens(KEY, ("a" * 1000,))
    assert streams.retained_bytes > 2000
    streams.finish(KEY, ended())
    streams.forget(KEY)
    assert streams.retained_bytes == 0


@pytest.mark.req("ORCH-4182")
def test_restored_task_reads_like_before() -> None:
    """After a restart an ended task's positions and digest are what they were."""
    before = Streams()
    before.open(KEY, "corr-1")
    before.started(STARTED)
    before.tokens(KEY, ("Hello", " wör", "ld"))
    before.finish(KEY, ended())
    after = Streams()
    after.restore(accepted(), ended(text="Hello wörld"))
    whole = attach(after)
    check_transcript(whole, "Hello wörld", "")
    assert [item.event for item in whole.items] == ["started", "token", "end"]
    check_transcript(attach(after, position_after("Hello").event_id), "Hello wörld", "Hello")
    assert after.receipt(KEY) == before.receipt(KEY)
    assert after.text(KEY) == before.text(KEY)


@pytest.mark.req("ORCH-4209")
def test_release_ends_or_drops_every_reader(streams: Streams) -> None:
    """At shutdown a reader that keeps up gets a proper close and a stalled one is cut."""
    quick, slow = attach(streams), attach(streams)
    assert slow.reader is not None
    slow.reader.pause()
    streams.release_readers()
    assert (quick.over, slow.over) == ("ended", "dropped")
    assert streams.readers == 0


@pytest.mark.req("ORCH-4100")
def test_late_reader_of_a_forgotten_task_says_nothing_of_the_next_one_of_that_name() -> None:
    """A slow reader that leaves its old log does not count as leaving the new task, which is read by another."""
    left: list[int] = []
    made = Streams(detached=lambda _, readers: left.append(readers))
    made.open(KEY)
    slow = made.attach(KEY, None, Recorder())
    assert isinstance(slow, Reader)
    made.finish(KEY, ended())
    made.forget(KEY)
    made.open(KEY)
    attach(made)
    slow.detach()
    assert left == []
    assert made.readers == 1


def test_stalled_reader_of_a_forgotten_task_is_dropped_although_the_next_one_is_followed() -> None:
    """A new task of the same name does not hide the readers of the old log from the clean-up."""
    made = Streams()
    made.open(KEY)
    stalled = attach(made, resume=False)
    made.finish(KEY, ended())
    made.forget(KEY)
    made.open(KEY)
    follower = attach(made)
    for _ in range(20):
        made.tick()
    assert stalled.over == "dropped"
    assert follower.over is None
    assert made.readers == 1
