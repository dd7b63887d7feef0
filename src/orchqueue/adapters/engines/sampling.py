"""What every engine's mapping of a task shares: what is asked for, and what an engine does not offer.

Req: ORCH-4430
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from orchqueue.core.profiles import PROFILES, Profile, sampler_of
from orchqueue.core.request import TaskSpec

JsonValue = None | bool | int | float | str | msgspec.Raw | list[str] | list[int] | dict[str, "JsonValue"]
Feature = Literal[
    "messages",
    "tokenize",
    "stop",
    "ignore_eos",
    "min_p",
    "repeat_penalty",
    "json_schema",
    "grammar",
    "continuation",
    "embedding",
    "rerank",
]
FEATURES: tuple[Feature, ...] = get_args(Feature)
"""What an engine may offer or not, in the order in which it is told."""


class UnservableError(ValueError):
    """The engine cannot do what the task asks; trying again does not help."""


def wanted_features(spec: TaskSpec, profile: str) -> list[Feature]:
    """List what a task needs of the features that not every engine offers.

    >>> from orchqueue.core.request import Sampling
    >>> wanted_features(TaskSpec(prompt="hi", sampling=Sampling(min_p=0.1, stop=("END",))), "v1")
    ['stop', 'min_p']
    """
    sampling, sampler = spec.sampling, sampler_of(spec, profile)
    wanted: dict[Feature, bool] = {
        "messages": spec.messages is not None,
        "stop": bool(sampling.stop),
        "ignore_eos": bool(sampling.ignore_eos),
        "min_p": sampler.min_p > 0,
        "repeat_penalty": sampler.repeat_penalty != 1,
        "json_schema": sampling.json_schema is not None,
        "grammar": sampling.grammar is not None,
    }
    return [feature for feature in FEATURES if wanted.get(feature)]


def servable_sampler(spec: TaskSpec, profile: str, engine: str, offers: frozenset[Feature], seed_limit: int) -> Profile:
    """Give a task's samplers, where the engine can do all that it asks.

    `seed_limit`: the engine takes seeds from 0 to one less.

    Errors: UnservableError that names what it cannot do.
    Req: ORCH-4171, ORCH-4432
    """
    if profile not in PROFILES:
        raise UnservableError(f"{engine} has no mapping for sampler profile {profile!r}")
    missing = [feature for feature in wanted_features(spec, profile) if feature not in offers]
    if missing:
        raise UnservableError(f"{engine} does not offer {', '.join(missing)}; leave it out, or use another engine")
    if spec.prompt is None and spec.messages is None:
        raise UnservableError(f"{engine} serves completions of a prompt or messages only")
    if spec.seed is None or not 0 <= spec.seed < seed_limit:
        raise UnservableError(f"{engine} needs a seed from 0 to {seed_limit - 1}, not {spec.seed}")
    if spec.max_tokens < 1:
        raise UnservableError(f"max_tokens is {spec.max_tokens}; {engine} takes less than 1 for something else")
    if spec.sampling.grammar is not None and spec.sampling.json_schema is not None:
        raise UnservableError("grammar and json_schema exclude each other")
    return sampler_of(spec, profile)
