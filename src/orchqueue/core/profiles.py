"""Sampler profiles as data, and what a task makes of one.

A profile's name is a promise about text: its values never change. A change is a new name.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orchqueue.core.request import TaskSpec


class Profile(msgspec.Struct, frozen=True):
    """Every sampler that a task may set. Off: top_p 1, top_k 0, min_p 0, repeat_penalty 1; temperature 0 is greedy."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        """Tell whether the likeliest token is taken each time, so that no seed matters."""
        return self.temperature == 0


PROFILES: Mapping[str, Profile] = {
    "v1": Profile(temperature=0.7, top_p=0.95, top_k=40),
    "greedy-v1": Profile(temperature=0.0),
    "focused-v1": Profile(temperature=0.3, top_p=0.9, top_k=20),
}


def sampler_of(spec: TaskSpec, profile: str) -> Profile:
    """Give the samplers of a task: the profile's, and over them what the task names itself.

    Req: ORCH-3045, ORCH-4061, ORCH-4430

    >>> from orchqueue.core.request import Sampling
    >>> sampler_of(TaskSpec(prompt="hi", sampling=Sampling(top_k=5)), "v1")
    Profile(temperature=0.7, top_p=0.95, top_k=5, min_p=0.0, repeat_penalty=1.0)
    """
    chosen, named = PROFILES[profile], spec.sampling
    return Profile(
        temperature=chosen.temperature if named.temperature is None else named.temperature,
        top_p=chosen.top_p if named.top_p is None else named.top_p,
        top_k=chosen.top_k if named.top_k is None else named.top_k,
        min_p=chosen.min_p if named.min_p is None else named.min_p,
        repeat_penalty=chosen.repeat_penalty if named.repeat_penalty is None else named.repeat_penalty,
    )
