"""A reader that writes down what it got, and what a well-behaved stream looks like to it."""

import json
import zlib
from dataclasses import dataclass

from orchqueue.core.effects import EmitStarted
from orchqueue.core.ids import PoolId, ReplicaId, TaskId, TaskKey, Tenant, task_key
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Ended, Receipt
from orchqueue.core.request import TaskSpec
from orchqueue.runtime.stream_frames import Position, parse_position
from orchqueue.runtime.stream_log import Reader
from orchqueue.runtime.streams import Streams

TASK = TaskId("0b9c6a3e-57c1-4b0f-9a6f-0a4d9c1f8e11")
KEY: TaskKey = task_key(Tenant("acme"), TASK)
STARTED = EmitStarted(KEY, 1, 900, 7, PoolId("p"), ReplicaId("p-0"), "v", "sha256:00", "strict", 871)


@dataclass(frozen=True)
class Item:
    """One event as a client reads it."""

    event: str
    event_id: str | None
    data: dict[str, object]


class Recorder:
    """A sink that keeps what it is given and pauses its reader after `room` bytes, if told to."""

    def __init__(self) -> None:
        self.raw = b""
        self.over: str | None = None
        self.reader: Reader | None = None
        self.room: int | None = None

    def write(self, frames: bytes, framed: bytes) -> None:
        assert self.over is None, "written to after the end"
        assert frames, "nothing was written"
        assert framed == b"%x\r\n%b\r\n" % (len(frames), frames)
        self.raw += frames
        if self.room is not None:
            self.room -= len(frames)
            if self.room <= 0 and self.reader is not None:
                self.room = None
                self.reader.pause()

    def ended(self) -> None:
        assert self.over is None
        self.over = "ended"

    def dropped(self) -> None:
        assert self.over is None
        self.over = "dropped"

    @property
    def items(self) -> list[Item]:
        """Parse what came, which must be whole events."""
        return parse(self.raw)

    @property
    def text(self) -> str:
        """Join the text of all token events."""
        return "".join(str(item.data["t"]) for item in self.items if item.event == "token")

    @property
    def last_id(self) -> str | None:
        """Give the id that a browser would send on reconnecting."""
        return next((item.event_id for item in reversed(self.items) if item.event_id is not None), None)


def parse(raw: bytes) -> list[Item]:
    """Read server-sent events the way their specification says."""
    items: list[Item] = []
    for block in raw.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields:
            items.append(Item(fields["event"], fields.get("id"), json.loads(fields["data"])))
    assert raw.endswith(b"\n\n") or not raw, "cut inside an event"
    return items


def attach(streams: Streams, event_id: str | None = None, *, resume: bool = True) -> Recorder:
    """Attach a recording reader at an event id."""
    sink = Recorder()
    position = parse_position(event_id) if event_id is not None else None
    assert event_id is None or position is not None
    reader = streams.attach(KEY, position, sink)
    assert isinstance(reader, Reader), reader
    sink.reader = reader
    if resume:
        reader.resume()
    return sink


def ended(outcome: Outcome = Outcome.COMPLETED, text: str = "") -> Ended:
    """Make the end of the task."""
    receipt = Receipt(7, "0" * 64, "v1", "llamacpp", "v", "sha256:00", 1)
    return Ended(
        Tenant("acme"), TASK, outcome, 2_000, 9_000, 3, 5, 40, 1_500, "stop", "why", PoolId("p"), ReplicaId("p-0"),
        "llamacpp", None, receipt, text,
    )  # fmt: skip


def accepted() -> Accepted:
    """Make the record of the task's acceptance."""
    return Accepted(Tenant("acme"), TASK, TaskSpec(prompt="x", seed=7), PoolId("p"), True, "v1", 3, 1_000, "", "corr-1")


def position_after(text: str) -> Position:
    """Compute where a reader stands that has read exactly this text."""
    raw = text.encode()
    return Position(len(raw), zlib.crc32(raw))


def check_transcript(sink: Recorder, whole: str, begin: str) -> None:
    """Demand what a client is promised that had `begin` already: no gap, no duplicate, true ids, one terminal event.

    Errors: AssertionError.
    """
    items = sink.items
    assert begin + sink.text == whole, "bytes lost, doubled or changed"
    so_far = begin
    previous: int | None = None
    for item in items:
        if item.event != "token":
            continue
        so_far += str(item.data["t"])
        index = item.data["i"]
        assert isinstance(index, int)
        assert item.event_id == position_after(so_far).event_id, "an id that does not name its position"
        assert previous is None or index == previous + 1, "a gap between events"
        previous = index
    kinds = [item.event for item in items]
    assert kinds.count("started") <= 1
    assert kinds.count("end") + kinds.count("error") == 1, "not exactly one terminal event"
    assert kinds[-1] in ("end", "error"), "something after the terminal event"
    assert items[-1].event_id == position_after(whole).event_id + ":end"
    assert sink.over == "ended"
