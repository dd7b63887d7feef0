"""A restarted daemon goes on with a text that was begun: what was recorded of it is neither lost nor said twice."""

import msgspec
import pytest

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import PoolId, ReplicaId, TaskId
from orchqueue.core.outcome import Outcome
from orchqueue.core.records import Accepted, Bound
from orchqueue.core.request import PlacementWish, Sampling, TaskSpec
from tests.unit.core.driving import TENANT, Driver, key, pool_settings
from tests.unit.core.test_replay import SENT, TEXT, end_of, say


def recovered(*, text: str = SENT, strict: bool = True, followed: bool = False, **spec: object) -> ev.TaskRecovered:
    """Describe a task that ran when the daemon died."""
    asked = msgspec.structs.replace(TaskSpec(prompt="hi", seed=1, max_tokens=8), **spec)
    accepted = Accepted(TENANT, TaskId("t"), asked, PoolId("p"), strict, "v1", 3, 999_000, model_ref="m")
    bound = Bound(TENANT, TaskId("t"), ReplicaId("pr1"), 4, 999_500, PoolId("p"), "v1", "digest-m")
    return ev.TaskRecovered(accepted, bound, text, 3 if text else 0, followed)


@pytest.mark.req("ORCH-4368")
@pytest.mark.parametrize(
    ("last", "wish", "ended"),
    [
        ({"can_continue": False}, PlacementWish(), True),
        ({"can_continue": True}, PlacementWish(), False),
        ({"can_continue": True}, PlacementWish("pin", (PoolId("p"),)), True),
    ],
)
def test_the_last_hope_of_a_text_may_be_in_another_pool(
    last: dict[str, bool], wish: PlacementWish, ended: bool
) -> None:
    """When no replica of its own pool can go on, that of a sibling decides, as far as the task may run there."""
    core = Driver(pool_settings(), pool_settings("q", replicas=2), up=False)
    core.handle(recovered(strict=False, placement=wish))
    core.ready("qr0")
    core.ready("pr0")
    core.ready("qr1", **last)
    assert (end_of(core) is Outcome.ENGINE_LOST) == ended
    assert core.starts == ([] if ended else ["t"])


@pytest.mark.req("ORCH-4368", "ORCH-4170")
def test_a_text_is_not_computed_again_where_nothing_is_proven() -> None:
    """Of two engines one is not the same and the other has proven nothing: neither can go on."""
    core = Driver(pool_settings(replicas=2, require_same_engine_version=False), up=False)
    core.handle(recovered())
    core.ready("pr0", engine_version="v2")
    core.ready("pr1", strict_proven=False)
    assert end_of(core) is Outcome.ENGINE_LOST


@pytest.mark.req("ORCH-4180", "ORCH-4183")
def test_a_restarted_daemon_replays_from_what_was_recorded() -> None:
    """The text goes on after its recorded part, attempts count on, and the daemon's death is not held against the task."""
    core = Driver(pool_settings(replicas=2, max_attempts=2), up=False)
    core.handle(recovered())
    assert core.task("t").tokens_out == 3
    core.ready("pr0")
    assert core.wanted(fx.EmitStarted) == []
    core.fail(1)
    core.ready("pr1")
    assert say(core, 2, TEXT) == [TEXT[5:]]
    core.complete(2, tokens_out=9)
    ended = core.wanted(fx.Finish)[0].ended
    assert ended.outcome is Outcome.COMPLETED
    assert ended.started_at_ms == 999_500
    assert ended.receipt is not None
    assert ended.receipt.attempts == 6


@pytest.mark.req("ORCH-4182", "ORCH-4183")
@pytest.mark.parametrize(("text", "opened"), [(SENT, []), ("", [fx.OpenStream(key("t"))])])
def test_a_log_that_was_rebuilt_is_not_opened_again(text: str, opened: list[fx.OpenStream]) -> None:
    """While a log waits to be opened an end is recorded without text; one with text is open from the start."""
    core = Driver(pool_settings(), up=False)
    effects = core.handle(recovered(text=text, strict=False, sampling=Sampling(grammar='root ::= "a"')))
    assert core.wanted(fx.OpenStream, effects) == opened
    assert bool(core.wanted(fx.Finish, effects)) == bool(text)


@pytest.mark.req("ORCH-4368", "ORCH-4180")
def test_a_restarted_daemon_with_another_model_does_not_go_on() -> None:
    """Whatever the new model would say, it is not the answer that was begun."""
    core = Driver(pool_settings(), up=False)
    core.handle(recovered())
    core.ready("pr0", model_digest="another")
    assert end_of(core) is Outcome.ENGINE_LOST


@pytest.mark.req("ORCH-4178", "ORCH-4181")
def test_a_restarted_daemon_continues_best_effort_where_it_can() -> None:
    """The recorded text goes to the engine; where nothing was recorded it begins anew; a grammar ends it."""
    core = Driver(pool_settings(), up=False)
    core.handle(recovered(strict=False))
    core.ready("pr0", can_continue=True)
    assert core.wanted(fx.StartAttempt)[0].said == SENT
    core = Driver(pool_settings(), up=False)
    core.handle(recovered(strict=False, text=""))
    core.ready("pr0")
    assert core.wanted(fx.StartAttempt)[0].said == ""
    core = Driver(pool_settings(), up=False)
    core.handle(recovered(strict=False, sampling=Sampling(grammar='root ::= "a"')))
    assert end_of(core) is Outcome.ENGINE_LOST


@pytest.mark.req("ORCH-4113")
def test_after_a_restart_the_grace_for_readers_begins_anew() -> None:
    """A task that had readers is canceled when none comes back; one that never had any, or outlives them, is not."""
    core = Driver(up=False)
    core.handle(recovered(followed=True))
    assert fx.SetTimer(("disconnect", key("t")), core.now_ms + 10_000) in core.last
    core.handle(ev.TimerFired(("disconnect", key("t"))), after_ms=10_000)
    assert end_of(core) is Outcome.CANCELED_ON_DISCONNECT
    for other in (recovered(followed=False), recovered(followed=True, on_disconnect="continue")):
        core = Driver(up=False)
        core.handle(other)
        assert not [t for t in core.wanted(fx.SetTimer) if t.key[0] == "disconnect"]


@pytest.mark.req("ORCH-4371")
def test_after_a_restart_the_first_answer_is_given_again() -> None:
    """Position and predictions are those of the admission, not of the restart."""
    core = Driver(pool_settings(slots=1))
    for name in ("a", "b", "c"):
        core.submit(name)
    first = core.wanted(fx.Accept)[-1]
    accepted = core.task("c").accepted_record()
    again = Driver(up=False)
    again.handle(ev.TaskRecovered(accepted))
    again.submit("c")
    (answer,) = again.wanted(fx.Accept, again.last)
    assert answer == msgspec.structs.replace(first, reply=answer.reply, repeated=True)
    assert answer.queue_position == 1


@pytest.mark.req("ORCH-4098", "ORCH-4182")
def test_an_end_while_nobody_goes_on_names_who_began_the_text() -> None:
    """After a restart the stream begins with that engine again, and the receipt is of it, not of one that came since."""
    core = Driver(up=False)
    core.handle(recovered())
    core.ready("pr0", engine_version="v2")
    ended = core.wanted(fx.Finish)[0].ended
    assert (ended.outcome, ended.replica_id, ended.pool_id) == (Outcome.ENGINE_LOST, "pr1", "p")
    assert ended.receipt is not None
    assert (ended.receipt.engine_version, ended.receipt.model_digest) == ("v1", "digest-m")


@pytest.mark.req("ORCH-4098")
def test_a_text_of_a_replica_that_is_no_longer_configured_has_a_receipt() -> None:
    """What made it was not recorded by an older daemon: the receipt names what is there."""
    core = Driver(up=False)
    before = recovered()
    assert before.bound is not None
    bound = msgspec.structs.replace(before.bound, replica_id=ReplicaId("gone"), engine_version="", model_digest="")
    core.handle(msgspec.structs.replace(before, bound=bound))
    core.cancel("t")
    ended = core.wanted(fx.Finish)[0].ended
    assert (ended.replica_id, ended.tokens_out) == ("gone", 3)
    assert ended.receipt is not None
    assert ended.receipt.engine_version == "unknown"
