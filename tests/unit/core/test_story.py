"""The plain words of an explanation: each case says what happened and nothing that is not known."""

import pytest

from orchqueue.core import events as ev
from orchqueue.core.explain_words import story_of
from orchqueue.core.explanation import Explanation
from orchqueue.core.ids import PoolId, TaskId
from orchqueue.core.outcome import Outcome, Refusal
from orchqueue.core.request import PlacementWish
from orchqueue.core.settings import ClassSettings
from orchqueue.core.weighing import CANDIDATES_AT_MOST
from tests.unit.core.driving import Driver, both_classes, pool_settings

pytestmark = pytest.mark.req("ORCH-4003")


def story(core: Driver, name: str = "t") -> str:
    """Tell a task's story."""
    found = core.explained(name)
    assert found is not None
    return "\n".join(found.story)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("lost", "the connection to its engine was lost."),
        ("overloaded", "its engine was overloaded."),
        ("engine_error", "its engine failed."),
        ("rejected", "its engine refused the request."),
    ],
)
def test_each_failure_of_an_attempt_has_its_words(failure: ev.AttemptFailure, words: str) -> None:
    """A reader learns what went wrong on which replica."""
    core = Driver(pool_settings(replicas=2))
    core.submit("t")
    core.fail(1, failure)
    assert f"Attempt 1 went to replica pr0, the least busy of those with a free slot; {words}" in story(core)


@pytest.mark.req("ORCH-4087")
@pytest.mark.parametrize(
    ("refusal", "last"),
    [
        (Refusal(Outcome.REJECTED_RATE, "too fast", retry_after_ms=70), "70 ms after the refusal."),
        (Refusal(Outcome.INVALID, "no"), "The same request would be refused again."),
        (Refusal(Outcome.REJECTED_BUSY, "no room"), "no room"),
    ],
)
def test_a_refusal_says_when_another_try_is_worth_while(refusal: Refusal, last: str) -> None:
    """A time where one is known, that it is useless where it is, and else nothing."""
    told = story_of(Explanation(TaskId("t"), "refused", refusal=refusal))
    assert told[-1].endswith(last)


@pytest.mark.req("ORCH-3011")
def test_a_sibling_that_took_a_task_over_is_named() -> None:
    """The pool it was admitted to and the one that it ran in are both told."""
    core = Driver(pool_settings("a"), pool_settings("b"))
    for number in range(2):
        core.submit(f"a{number}", placement=PlacementWish("pin", ("a",)))
    core.submit("b0", placement=PlacementWish("pin", ("b",)))
    core.submit("t", placement=PlacementWish("prefer", ("a",)))
    core.complete(2)
    assert core.task("t").pool_id == "b"
    told = story(core)
    assert "Pool a was chosen among 2 pools" in told
    assert "Pool b of the same replica set took it over." in told


@pytest.mark.req("ORCH-4165")
def test_a_full_pool_is_called_full() -> None:
    """Whether its class or the whole pool is full, the other pool was chosen for having room."""
    for full in (
        {"classes": (ClassSettings("interactive", 8, 1), ClassSettings("batch", 1))},
        {"capacity": 1, "classes": both_classes(9)},
    ):
        core = Driver(pool_settings("p"), pool_settings("q", **full))
        core.submit("runs", placement=PlacementWish("pin", ("q",)))
        core.submit("waits", placement=PlacementWish("pin", ("q",)))
        core.submit("t", placement=PlacementWish("prefer", ("p", "q")))
        found = core.explained("t")
        assert found is not None
        assert [(one.pool_id, one.standing) for one in found.candidates] == [("p", "chosen"), ("q", "full")]


def test_of_very_many_pools_the_first_are_told() -> None:
    """What is kept of a choice is bounded, and the chosen pool is always among it."""
    core = Driver(*(pool_settings(f"p{number:02}") for number in range(CANDIDATES_AT_MOST + 4)))
    core.submit("t", placement=PlacementWish("prefer", ("p19",)))
    found = core.explained("t")
    assert found is not None
    assert [one.pool_id for one in found.candidates][:2] == [PoolId("p19"), PoolId("p00")]
    assert len(found.candidates) == CANDIDATES_AT_MOST
