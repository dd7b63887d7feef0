"""The log of decisions: bounded, found by key, and what an explanation over the gate is made from."""

from random import Random

import msgspec
import pytest

from orchqueue.core import decisions as dc
from orchqueue.core.ids import PoolId, ReplicaId, TaskId, task_key
from orchqueue.core.outcome import Fault, Outcome, Refusal
from orchqueue.core.request import PlacementWish
from orchqueue.core.settings import PoolSettings
from orchqueue.runtime.decision_log import ENTRY_BYTES, KEY_BYTES, TUPLE_AT_MOST, DecisionLog
from tests.unit.runtime.rig import TENANT, Rig, spec
from tests.unit.runtime.test_insight import turns

pytestmark = pytest.mark.req("ORCH-4322")


def passed(key: str, at_ms: int) -> dc.PassedOver:
    """Make a small decision."""
    return dc.PassedOver(at_ms, key, ReplicaId("r"), "let_pass")


def instants(log: DecisionLog, key: str) -> list[int]:
    """Name the decisions of a key by their instants."""
    return [decision.at_ms for decision in log.of(key)]


class Listening:
    """A keeper that remembers."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def keep(self, line: bytes) -> None:
        self.lines.append(line)


def test_the_oldest_entries_go_first_whoever_they_belong_to() -> None:
    """With room for three, the fourth makes the oldest go; a key of which nothing is left is unknown."""
    log = DecisionLog(entries_at_most=3)
    for at_ms, key in enumerate(["t/a", "t/b", "t/a", "t/c"]):
        log.append(passed(key, at_ms))
    assert (instants(log, "t/a"), instants(log, "t/b"), instants(log, "t/c")) == ([2], [1], [3])
    log.append(passed("t/c", 4))
    assert (len(log), instants(log, "t/b")) == (3, [])


def test_bytes_are_bounded_too() -> None:
    """What the entries are counted for never exceeds the bound, and is what their texts come to."""
    one = len(msgspec.json.encode(passed("t/a", 1))) + ENTRY_BYTES
    log = DecisionLog(bytes_at_most=5 * one + KEY_BYTES)
    for at_ms in range(9):
        log.append(passed("t/a", at_ms))
        assert log.size_bytes == min(at_ms + 1, 5) * one + KEY_BYTES
    assert instants(log, "t/a") == [4, 5, 6, 7, 8]
    tiny = DecisionLog(bytes_at_most=one + KEY_BYTES - 1)
    tiny.append(passed("t/a", 1))
    assert (len(tiny), tiny.size_bytes, tiny.of("t/a")) == (0, 0, ())


def test_the_index_agrees_with_a_plain_list() -> None:
    """In a long random history each key gives what a list of the latest entries holds of it, for tasks and for pools."""
    rng = Random(7)
    log, plain = DecisionLog(entries_at_most=400), list[dc.PassedOver]()
    for at_ms in range(5_000):
        decision = passed(rng.choice(["pool", "pool", *(f"t/{number}" for number in range(40))]), at_ms)
        log.append(decision)
        plain = [*plain, decision][-400:]
        if at_ms % 97 == 0:
            for key in {one.key for one in plain}:
                assert list(log.of(key)) == [one for one in plain if one.key == key]
    assert len(log.of("pool")) < TUPLE_AT_MOST
    for at_ms in range(200):
        log.append(passed("pool", at_ms))
    assert len(log.of("pool")) >= TUPLE_AT_MOST
    for at_ms in range(450):
        log.append(passed(f"u/{at_ms}", at_ms))
    assert (log.of("pool"), len(log)) == ((), 400)


@pytest.mark.parametrize(
    "decision",
    [
        dc.Submitted(1, "t/a", "k", "batch", "completion", 8, 3, placement=PlacementWish("pin", ("p",))),
        dc.CountAsked(1, "t/a", PoolId("p"), ReplicaId("r"), (dc.Candidate(PoolId("p"), 1, 2, "chosen"),)),
        dc.Admitted(1, "t/a", PoolId("p"), "m", True, "v1", 3, "estimate", 8, 0, 0, "none", (), "batch"),
        dc.Refused(1, "t/a", Refusal(Outcome.INVALID, "no", (Fault("/ctx", "too much"),), 5)),
        dc.Recovered(1, "t/a", PoolId("p"), 0, True, True, "v1", 3, 8, 0, 0),
        dc.Dropped(1, "t/a", PoolId("p"), "drop-lru", "batch"),
        dc.Moved(1, "t/a", PoolId("p"), PoolId("q"), "drain"),
        dc.PassedOver(1, "t/a", ReplicaId("r"), "left_free", 9),
        dc.Bound(
            1, "t/a", 1, PoolId("p"), ReplicaId("r"), "only_free", 1, "batch",
            (dc.ReplicaCandidate(ReplicaId("r"), "chosen", True, 0, 1, score=0),), (dc.Share("batch", 1, 1, 8),),
        ),
        dc.AttemptFailed(1, "t/a", 1, ReplicaId("r"), "lost", Outcome.POISON),
        dc.CaughtUp(1, "t/a", 2, ReplicaId("r"), 70),
        dc.Diverged(1, "t/a", 2, ReplicaId("r"), ReplicaId("s"), 7, 70),
        dc.TimerFired(1, "t/a", "wall", 9),
        dc.Ended(1, "t/a", Outcome.COMPLETED, PoolId("p"), None, 1, 3, 4, 5),
        dc.PoolConfigured(1, "p", PoolSettings(PoolId("p"), "llamacpp", "m", (), 256)),
        dc.PoolChanged(1, "p", "draining", "m", 9),
        dc.ReplicaChanged(1, "p", ReplicaId("r"), "backoff", cause="cuda"),
        dc.Halted(1, dc.EVERYTHING, "journal", over=True),
    ],
)  # fmt: skip
@pytest.mark.req("ORCH-4320")
def test_every_kind_survives_being_written_and_read(decision: dc.AnyDecision) -> None:
    """Whatever the core can log comes back as it was, and goes to the keeper as one line of JSON with its kind."""
    keeper = Listening()
    log = DecisionLog(keeper=keeper)
    log.append(decision)
    assert log.of(decision.key) == (decision,)
    (line,) = keeper.lines
    assert b"\n" not in line
    assert msgspec.json.decode(line)["kind"] == decision.__struct_config__.tag


def test_kinds_are_told_apart_without_exception() -> None:
    """The list above is whole: no kind of decision is left out of it."""
    kinds = {one.__struct_config__.tag for one in dc.AnyDecision.__args__}
    assert len(kinds) == 18


@pytest.mark.req("ORCH-4087", "ORCH-4323")
async def test_a_refusal_is_explained_from_the_log_as_long_as_it_is_there() -> None:
    """The gate hands the entries of the key in; when they have gone, a refused id is as unknown as any other."""
    rig = Rig(decisions=DecisionLog(entries_at_most=8))
    await rig.runtime.start()
    rig.replicas.come_up("p-0")
    rig.replicas.come_up("p-1")
    await turns()
    answer = await rig.gate.submit(TaskId("t1"), TENANT, spec("t1", ctx=99_999))
    assert isinstance(answer, Refusal)
    key = task_key(TENANT, TaskId("t1"))
    found = await rig.gate.explain(key)
    assert found is not None
    assert (found.state, found.complete) == ("refused", True)
    for number in range(8):
        rig.decisions.append(passed("t/filler", number))
    assert await rig.gate.explain(key) is None
