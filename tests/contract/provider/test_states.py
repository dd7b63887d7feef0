from __future__ import annotations

import re
from pathlib import Path

from tests.contract.provider.provider_states import STATES, ProviderStates
from tests.contract.provider.verification import Verification, interactions

LIST = Path(__file__).parents[1] / "provider_states.md"


def test_states_are_those_of_the_list_and_of_the_pact() -> None:
    """Each state is written down, can be brought about, and is one that some interaction begins in."""
    listed = re.findall(r"^\| ([a-z][^|]+?) \|", LIST.read_text(), re.MULTILINE)
    used = {state["name"] for one in interactions() for state in one["providerStates"]}
    assert set(listed) == set(STATES) == used
    assert len(listed) == len(set(listed))


def test_every_state_is_a_method_of_its_own() -> None:
    """No state stands for another, and each method says what it does."""
    methods = list(STATES.values())
    assert len(set(methods)) == len(methods)
    public = {name for name, member in vars(ProviderStates).items() if callable(member) and not name.startswith("_")}
    assert {method.__name__ for method in methods} == public - {"change", "leave"}


def test_one_interaction_leaves_nothing_to_the_next(verification: Verification) -> None:
    """After a full queue, other policies and an engine that is silent, a task finds a ready pool again, twice."""
    by_name = {one["description"]: one for one in interactions()}
    for description in ("a task for a full queue", "a task with defaults", "the pools", "a task with defaults"):
        assert verification.faults(by_name[description]) == []
