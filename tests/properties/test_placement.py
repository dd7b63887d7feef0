"""Where tasks run: wishes and replica sets are never crossed, no slot idles beside an eligible task, warmth is bounded."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchqueue.core import effects as fx
from orchqueue.core import events as ev
from orchqueue.core.ids import AttemptId, ReplicaId
from orchqueue.core.request import PlacementWish, TaskSpec
from tests.unit.core.driving import Driver, key, pool_settings

SIBLINGS = ("a", "b")
ALL = (*SIBLINGS, "other")
WISHES = st.one_of(
    st.just(PlacementWish()),
    st.builds(PlacementWish, st.sampled_from(["prefer", "pin"]), st.tuples(st.sampled_from(SIBLINGS))),
    st.builds(lambda name: PlacementWish(avoid=(name,)), st.sampled_from(SIBLINGS)),
)


def allowed(spec: TaskSpec) -> set[str]:
    """Name the pools that a request may run in, by its own words."""
    pools = {"other"} if spec.model_ref == "n" else set(SIBLINGS)
    if spec.placement.mode == "pin":
        pools &= set(spec.placement.pool_ids)
    return pools - set(spec.placement.avoid)


class PlacementMachine(RuleBasedStateMachine):
    """Two sibling pools and a stranger; tasks with wishes come, end, fail and are tried again."""

    @initialize(replicas=st.tuples(st.integers(1, 2), st.integers(1, 2)))
    def begin(self, replicas: tuple[int, int]) -> None:
        self.core = Driver(
            pool_settings("a", replicas[0]), pool_settings("b", replicas[1]), pool_settings("other", model_ref="n")
        )
        self.count = 0
        self.specs: dict[str, TaskSpec] = {}
        self.running: dict[AttemptId, str] = {}

    def follow(self, effects: list[fx.AnyEffect]) -> None:
        for start in self.core.wanted(fx.StartAttempt, effects):
            pool = start.replica_id.rstrip("0123456789")[:-1]
            assert pool in allowed(start.spec), f"{start.spec.placement} was started in {pool}"
            self.running[start.attempt_id] = start.key
            self.specs.pop(start.key, None)

    @rule(wish=WISHES, model_ref=st.sampled_from(["m", "m", "n"]))
    def submit(self, wish: PlacementWish, model_ref: str) -> None:
        self.count += 1
        name = f"t{self.count}"
        effects = self.core.submit(name, placement=wish, model_ref=model_ref)
        if self.core.wanted(fx.Accept, effects):
            self.specs[key(name)] = self.core.task(name).spec
        self.follow(effects)

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99))
    def finish_one(self, pick: int) -> None:
        attempt = sorted(self.running)[pick % len(self.running)]
        del self.running[attempt]
        self.follow(self.core.complete(attempt))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99))
    def overload_one(self, pick: int) -> None:
        attempt = sorted(self.running)[pick % len(self.running)]
        name = self.running.pop(attempt)
        task = self.core.core.state.tasks[name]  # type: ignore[index]
        effects = self.core.fail(attempt, "engine_error")
        if not self.core.wanted(fx.Finish, effects):
            self.specs[name] = task.spec
        self.follow(effects)

    @invariant()
    def no_slot_idles_beside_a_task_that_may_run_there(self) -> None:
        if not hasattr(self, "core"):
            return
        state = self.core.core.state
        for pool in state.pools.values():
            for replica in pool.replicas.values():
                if not state.slots.free(replica.replica_id):
                    continue
                idle = [
                    k
                    for k, spec in self.specs.items()
                    if pool.pool_id in allowed(spec) and replica.replica_id not in state.tasks[k].tried  # type: ignore[index]
                ]
                assert idle == [], f"{replica.replica_id} idles while {idle} wait"


TestPlacement = pytest.mark.req("ORCH-3008", "ORCH-3011", "ORCH-4154", "ORCH-4162", "ORCH-4236")(
    PlacementMachine.TestCase
)
TestPlacement.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.req("ORCH-3009", "ORCH-3011")
def test_an_idle_sibling_takes_the_head_of_the_longer_queue() -> None:
    """Binding is late: what waits in one pool starts in its sibling as soon as that has a slot."""
    core = Driver(pool_settings("a"), pool_settings("b"))
    for number in range(2):
        core.submit(f"a{number}", placement=PlacementWish("pin", ("a",)))
    core.submit("b0", placement=PlacementWish("pin", ("b",)))
    core.submit("free1", placement=PlacementWish("prefer", ("a",)))
    core.submit("free2", placement=PlacementWish("prefer", ("a",)))
    core.complete(2)
    assert core.starts == ["a0", "b0", "free1"], "the pinned head is passed over, the next in line is taken"


def warm_core(**fields: object) -> Driver:
    """Bring session `s` to rest on pr0, which then runs a short task; pr1 is free."""
    core = Driver(pool_settings(replicas=2, strict=False), pool_settings("x", model_ref="n"))
    core.submit("first", session_id="s", model_ref="m", **fields)
    assert core.wanted(fx.StartAttempt)[-1].replica_id == "pr0"
    core.complete(1)
    core.submit("short", model_ref="m", max_tokens=8)
    assert core.wanted(fx.StartAttempt)[-1].replica_id == "pr0"
    return core


@pytest.mark.req("ORCH-3013", "ORCH-4250")
def test_a_task_waits_for_its_warm_replica_and_is_passed_at_most_four_times() -> None:
    """Later tasks take the cold slot, but not for ever."""
    core = warm_core()
    core.submit("warm", session_id="s", model_ref="m")
    assert core.starts == ["first", "short"]
    for number in range(6):
        core.submit(f"later{number}", model_ref="m")
    passed = []
    while "warm" not in core.starts:
        cold = core.wanted(fx.StartAttempt)[-1]
        assert cold.replica_id == "pr1"
        passed.append(core.starts[-1])
        core.complete(cold.attempt_id)
    assert passed == ["later0", "later1", "later2", "later3"]


@pytest.mark.req("ORCH-3013")
def test_the_warm_slot_goes_to_the_session_that_waits_for_it() -> None:
    """When the warm replica frees in time, the waiting turn starts there."""
    core = warm_core()
    core.submit("warm", session_id="s", model_ref="m")
    core.complete(2)
    start = core.wanted(fx.StartAttempt)[-1]
    assert (start.key, start.replica_id) == (key("warm"), ReplicaId("pr0"))


@pytest.mark.req("ORCH-3013", "ORCH-4250")
def test_waiting_for_warmth_ends_after_a_second_whatever_else_happens() -> None:
    """Traffic in other pools does not put the end of the wait off."""
    core = warm_core()
    core.submit("warm", session_id="s", model_ref="m")
    due = [t for t in core.wanted(fx.SetTimer) if t.key[0] == "warm"]
    for number in range(5):
        core.submit(f"elsewhere{number}", model_ref="n", after_ms=100)
    assert [t for t in core.wanted(fx.SetTimer) if t.key[0] == "warm"] == due
    assert due[0].at_ms == core.now_ms - 500 + 1_000
    core.handle(ev.TimerFired(due[0].key), after_ms=500)
    assert core.starts[-1] == "warm"


@pytest.mark.req("ORCH-4251")
@pytest.mark.parametrize("wish", [{"kv_hint": "cold"}, {"session_id": None}])
def test_who_asked_for_no_warmth_does_not_wait_for_it(wish: dict[str, object]) -> None:
    """A cold or sessionless task takes the free slot at once."""
    core = warm_core()
    core.submit("t", model_ref="m", **({"session_id": "s"} | wish))
    assert core.starts[-1] == "t"


@pytest.mark.req("ORCH-4167", "ORCH-4251")
def test_strict_never_waits_for_warmth() -> None:
    """A strict turn takes the first free slot, and its engine reuses no cache."""
    core = Driver(pool_settings(replicas=2))
    core.submit("first", session_id="s")
    core.complete(1)
    core.submit("busy")
    core.submit("t", session_id="s")
    start = core.wanted(fx.StartAttempt)[-1]
    assert (start.key, start.cache_prompt) == (key("t"), False)
