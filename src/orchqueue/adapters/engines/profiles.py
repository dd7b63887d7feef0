"""How a sampler profile is said in llama.cpp's words.

Every sampler that a profile does not use is named and switched off, so that no default of an engine version leaks into the text.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orchqueue.core.request import Sampling, TaskSpec

JsonValue = None | bool | int | float | str | msgspec.Raw | list[str]

SEED_LIMIT = 2**32 - 1
"""llama.cpp takes 2^32−1 (and −1) for "choose one at random"."""

_NEUTRAL: Mapping[str, JsonValue] = {
    "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "xtc_probability": 0.0,
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
    "n_probs": 0,
    "min_keep": 0,
    "n_keep": 0,
    "t_max_predict_ms": 0,
}

_PROFILES: Mapping[str, Mapping[str, JsonValue]] = {
    "v1": {"temperature": 0.7, "top_p": 0.95, "top_k": 40},
    "greedy-v1": {"temperature": 0.0, "top_p": 1.0, "top_k": 0},
}

_OVERRIDES = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "ignore_eos", "grammar")


class UnservableError(ValueError):
    """The engine cannot do what the task asks; trying again does not help."""


def sampler_params(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
    """Give the sampling part of a `/completion` body.

    Errors: UnservableError.
    Req: ORCH-3045, ORCH-4061, ORCH-4062, ORCH-4063, ORCH-4171, ORCH-4172

    >>> sampler_params(TaskSpec(prompt="hi", seed=7), "v1")["top_k"]
    40
    """
    if profile not in _PROFILES:
        raise UnservableError(f"llama.cpp has no mapping for sampler profile {profile!r}")
    if spec.seed is None or not 0 <= spec.seed < SEED_LIMIT:
        raise UnservableError(f"llama.cpp needs a seed from 0 to {SEED_LIMIT - 1}, not {spec.seed}")
    if spec.max_tokens < 1:
        raise UnservableError(f"max_tokens is {spec.max_tokens}; llama.cpp takes less than 1 for something else")
    sampling = spec.sampling
    params: dict[str, JsonValue] = {**_NEUTRAL, **_PROFILES[profile], "seed": spec.seed, "n_predict": spec.max_tokens}
    params["ignore_eos"] = False
    for name in _OVERRIDES:
        value: float | bool | str | None = getattr(sampling, name)
        if value is not None:
            params[name] = value
    params["stop"] = list(sampling.stop)
    if sampling.json_schema is not None:
        params["json_schema"] = msgspec.Raw(sampling.json_schema.encode())
    _refuse_cut(sampling)
    return params


def _refuse_cut(sampling: Sampling) -> None:
    # The engine's grammar parser reads a C string: it would take what stands before the NUL for the whole grammar.
    if sampling.grammar is not None and "\0" in sampling.grammar:
        raise UnservableError("the grammar contains a NUL character, at which llama.cpp would cut it")
    if sampling.grammar is not None and sampling.json_schema is not None:
        raise UnservableError("grammar and json_schema exclude each other")
