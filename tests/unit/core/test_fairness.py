"""Shares of the classes: by weight, work-conserving, nobody starved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchqueue.core import fairness

WEIGHTS = {"interactive": 8, "batch": 1}


def serve_next(state: fairness.ShareState, weights: dict[str, int], waiting: set[str]) -> str:
    name = fairness.order(state, weights, waiting)[0]
    fairness.serve(state, weights, name)
    return name


@pytest.mark.req("ORCH-4153")
def test_eight_interactive_starts_to_one_batch_start() -> None:
    """With both classes always waiting the starts come in the ratio of the weights."""
    state = fairness.ShareState()
    starts = [serve_next(state, WEIGHTS, {"interactive", "batch"}) for _ in range(90)]
    assert starts.count("batch") == 10
    assert starts[:9] == ["interactive"] * 8 + ["batch"]


@pytest.mark.req("ORCH-4155")
@given(
    heavy=st.integers(1, 20),
    light=st.integers(1, 20),
    arrivals=st.lists(st.sets(st.sampled_from(["interactive", "batch"]), min_size=1), max_size=120),
)
def test_a_waiting_class_is_passed_by_no_more_than_its_share(heavy: int, light: int, arrivals: list[set[str]]) -> None:
    """While a class keeps waiting, the other one starts at most ceil(weight ratio) times before it."""
    weights = {"interactive": heavy, "batch": light}
    state = fairness.ShareState()
    passed = dict.fromkeys(weights, 0)
    for waiting in arrivals:
        chosen = serve_next(state, weights, waiting)
        assert chosen in waiting
        for name, weight in weights.items():
            passed[name] = passed[name] + 1 if name in waiting and name != chosen else 0
            others = max(w for n, w in weights.items() if n != name)
            assert passed[name] <= -(-others // weight)


@pytest.mark.req("ORCH-4153")
def test_an_idle_class_saves_nothing_up() -> None:
    """A class that was away long does not come back with a claim to many starts in a row."""
    state = fairness.ShareState()
    for _ in range(1000):
        serve_next(state, WEIGHTS, {"interactive"})
    starts = [serve_next(state, WEIGHTS, {"interactive", "batch"}) for _ in range(18)]
    assert starts.count("batch") == 2


@pytest.mark.req("ORCH-4155")
@given(
    heavy=st.integers(1, 9),
    turns=st.lists(st.sets(st.sampled_from(["interactive", "batch"]), max_size=1), min_size=1, max_size=80),
)
def test_a_class_that_could_not_run_for_a_while_saves_no_starts_up(heavy: int, turns: list[set[str]]) -> None:
    """However often the tasks of one class were unfit for a free slot, batch waits for its share of starts at most."""
    weights = {"interactive": heavy, "batch": 1}
    state = fairness.ShareState()
    passed = 0
    for unfit in turns:
        ranked = fairness.order(state, weights, ["interactive", "batch"])
        chosen = next(name for name in ranked if name not in unfit)
        fairness.serve(state, weights, chosen)
        passed = 0 if chosen == "batch" or "batch" in unfit else passed + 1
        assert passed <= heavy
