"""Sampler profiles, and what a task makes of one."""

from __future__ import annotations

import pytest

from orchqueue.core.profiles import PROFILES, Profile, sampler_of
from orchqueue.core.request import Sampling, TaskSpec


@pytest.mark.req("ORCH-4172", "ORCH-4430")
def test_profiles_never_change() -> None:
    """A profile's name is a promise about text: these are its values for ever, and a change is a new name."""
    assert PROFILES["v1"] == Profile(temperature=0.7, top_p=0.95, top_k=40, min_p=0.0, repeat_penalty=1.0)
    assert PROFILES["greedy-v1"] == Profile(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0)
    assert PROFILES["focused-v1"] == Profile(temperature=0.3, top_p=0.9, top_k=20, min_p=0.0, repeat_penalty=1.0)
    assert [name for name, profile in PROFILES.items() if profile.greedy] == ["greedy-v1"]


@pytest.mark.req("ORCH-4061", "ORCH-4430")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_tasks_own_values_win(profile: str) -> None:
    """Each value that a task names replaces the profile's, a zero too, and what it leaves out stays."""
    own = {"temperature": 0.0, "top_p": 0.5, "top_k": 0, "min_p": 0.25, "repeat_penalty": 1.5}
    for name, value in own.items():
        spec = TaskSpec(prompt="x", sampling=Sampling(**{name: value}))  # type: ignore[arg-type]
        expected = {field: getattr(PROFILES[profile], field) for field in own} | {name: value}
        assert sampler_of(spec, profile) == Profile(**expected)
