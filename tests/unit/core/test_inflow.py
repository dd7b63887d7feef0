"""What keeps coming: lately, usually, by tenant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core import events as ev
from orchqueue.core import inflow
from orchqueue.core.estimate import Passers
from orchqueue.core.ids import Tenant
from orchqueue.core.inflow import LASTS_MS, LONG_MS, SHORT_MS, Flow, Inflow, faded
from tests.unit.core.driving import Driver

A, B = Tenant("a"), Tenant("b")
T0 = 1_000_000


@pytest.mark.req("ORCH-4365")
@given(amount=st.integers(0, 10**12), after_ms=st.integers(0, 10**9))
def test_what_fades_is_halved_by_each_half_life(amount: int, after_ms: int) -> None:
    """Between two halvings it goes on a straight line, never up, never below nothing, however long ago."""
    left = faded(amount, after_ms, 1_000)
    whole = after_ms // 1_000
    assert (amount >> min(64, whole + 1)) <= left + 1
    assert left <= amount >> min(64, whole)
    assert faded(amount, after_ms + 1, 1_000) <= left + 1
    assert faded(amount, -5, 1_000) == amount


@pytest.mark.req("ORCH-4365")
def test_a_steady_flow_is_told_as_what_it_is() -> None:
    """Half a slot's work each second, for long, keeps half of one slot and an eighth of four busy, however far ahead."""
    flows = Inflow()
    for second in range(4_000):
        flows.add(A, 500, T0 + 1_000 * second)
    now_ms = T0 + 4_000_000
    assert all(abs(flows.permille(now_ms, 1, ahead_ms) - 500) <= 5 for ahead_ms in (0, 60_000, 10**7))
    assert abs(flows.permille(now_ms, 4, 0) - 125) <= 2
    assert flows.whole.each_ms == 500


@pytest.mark.req("ORCH-4365")
def test_a_burst_is_expected_to_last_a_while_and_then_to_be_over() -> None:
    """Near ahead the latest rate counts, far ahead the usual one; halfway at `LASTS_MS`."""
    flows = Inflow()
    flows.add(A, 1, T0)
    begin_ms = T0 + 10_000_000
    for second in range(120):
        flows.add(A, 800, begin_ms + 1_000 * second)
    now_ms = begin_ms + 120_000
    near, middle, far = (flows.permille(now_ms, 1, ahead_ms) for ahead_ms in (0, LASTS_MS, 10**9))
    assert 550 <= near <= 800
    assert 5 <= far <= 12
    assert abs(middle - (near + far) // 2) <= 1
    assert flows.permille(now_ms + 20 * SHORT_MS, 1, 0) < 12, "the burst is over"


@pytest.mark.req("ORCH-4365")
def test_one_tenant_s_flow_can_be_left_out() -> None:
    """What others send is what all send without it; an unknown tenant sends nothing."""
    flows = Inflow()
    assert flows.others_permille([A], T0, 1, 0) == 0
    for second in range(600):
        flows.add(A, 300, T0 + 1_000 * second)
        flows.add(B, 100, T0 + 1_000 * second)
    now_ms = T0 + 600_000
    assert abs(flows.others_permille([A, Tenant("x")], now_ms, 1, 0) - 100) <= 6
    assert abs(flows.others_permille([B], now_ms, 1, 0) - 300) <= 6
    assert flows.others_permille([A, B], now_ms, 1, 0) <= 1
    assert len(flows) == 2


@pytest.mark.req("ORCH-4365")
def test_who_sends_nothing_for_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flows are bounded in time and in number."""
    flows = Inflow()
    flows.add(A, 5, T0)
    flows.add(B, 5, T0 + LONG_MS)
    assert len(flows) == 2
    flows.add(B, 5, T0 + LONG_MS + 1)
    assert len(flows) == 1
    monkeypatch.setattr(inflow, "REMEMBERED_AT_MOST", 3)
    for number in range(9):
        flows.add(Tenant(f"t{number}"), 5, T0 + LONG_MS + 1)
    assert len(flows) == 3


@pytest.mark.req("ORCH-4365")
def test_a_flow_adds_up_exactly() -> None:
    """Microseconds of work and thousandths of tasks, each fading at its own pace."""
    flow = Flow(T0)
    flow.add(7, T0)
    flow.add(3, T0 + SHORT_MS)
    assert (flow.at_ms, flow.short_us) == (T0 + SHORT_MS, 3_500 + 3_000)
    assert (flow.long_us, flow.tasks_milli) == (6_986 + 3_000, 998 + 1_000)
    assert Flow(T0).each_ms == 0


@pytest.mark.req("ORCH-4365", "ORCH-3029")
def test_a_batch_task_is_told_of_interactive_ones_still_to_come() -> None:
    """Where interactive tasks keep coming, a batch task is predicted to start later than what waits now would let it."""
    starts = []
    for busy in (False, True):
        core = Driver()
        for turn in range(300 if busy else 0):
            core.submit(f"i{turn}", max_tokens=100, after_ms=200)
            core.complete(turn + 1, tokens_out=100)
        core.submit("runs", max_tokens=100)
        core.submit("first", priority="batch", max_tokens=100)
        core.submit("second", priority="batch", max_tokens=100)
        told = core.task("second").admission
        assert told is not None
        starts.append(told.predicted_start_ms)
    assert starts[0] == 200
    assert 240 < starts[1] <= 200 + 2 * 8 * 100


@pytest.mark.req("ORCH-4365")
def test_other_tenants_still_to_come_are_told_of_too() -> None:
    """A deep backlog of one tenant is passed by newcomers of others, as far as they have come lately."""
    assert Passers(1, 2).permille == 1
    starts = []
    for others in (False, True):
        core = Driver()
        for turn in range(30):
            core.submit_of("light" if others else "heavy", f"t{turn}", max_tokens=100)
            core.complete(turn + 1, tokens_out=100)
            core.now_ms += 200
        for turn in range(5):
            core.submit_of("heavy", f"h{turn}", max_tokens=100)
        told = core.core.state.tasks[next(reversed(core.core.state.tasks))].admission
        assert told is not None
        starts.append(told.predicted_start_ms)
    assert starts[1] > starts[0]


@pytest.mark.req("ORCH-4365")
def test_others_are_those_whose_work_came() -> None:
    """Leaving out somebody who never sent anything leaves nobody out."""
    flows = Inflow()
    flows.add(A, 5, T0)
    flows.add(B, 5, T0)
    assert [flows.others(but) for but in ([], [A], [Tenant("x")], [A, Tenant("x")], [A, B])] == [2, 1, 2, 1, 0]


@pytest.mark.req("ORCH-4365", "ORCH-3029", "ORCH-4247")
def test_a_queue_that_came_back_after_a_crash_predicts_nothing_before_now() -> None:
    """Nobody's work came in this life yet, so nobody passes; the start is what stands before."""
    before = Driver()
    for name in ("runs", "one", "two"):
        before.submit(name, max_tokens=10)
    again = Driver()
    for name in ("runs", "one", "two"):
        again.handle(ev.TaskRecovered(before.task(name).accepted_record()))
    again.submit("new", max_tokens=10)
    told = again.task("new").admission
    assert told is not None
    assert (told.queue_position, told.predicted_start_ms) == (2, 30)
