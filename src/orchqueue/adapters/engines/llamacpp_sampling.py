"""How a task's samplers are said in llama.cpp's words.

Every sampler that a profile does not use is named and switched off, so that no default of an engine version leaks into the text.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orchqueue.adapters.engines.sampling import FEATURES, Feature, JsonValue, UnservableError, servable_sampler
from orchqueue.core.request import TaskSpec

SEED_LIMIT = 2**32 - 1
"""llama.cpp takes 2^32−1 (and −1) for "choose one at random"."""

OFFERS: frozenset[Feature] = frozenset(FEATURES)

_NEUTRAL: Mapping[str, JsonValue] = {
    "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
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


def sampler_params(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
    """Give the sampling part of a `/completion` body.

    Errors: UnservableError.
    Req: ORCH-3045, ORCH-4061, ORCH-4062, ORCH-4063, ORCH-4171, ORCH-4172

    >>> sampler_params(TaskSpec(prompt="hi", seed=7), "v1")["top_k"]
    40
    """
    sampler, sampling = servable_sampler(spec, profile, "llama.cpp", OFFERS, SEED_LIMIT), spec.sampling
    params: dict[str, JsonValue] = {
        **_NEUTRAL,
        "temperature": sampler.temperature,
        "top_p": sampler.top_p,
        "top_k": sampler.top_k,
        "min_p": sampler.min_p,
        "repeat_penalty": sampler.repeat_penalty,
        "seed": spec.seed,
        "n_predict": spec.max_tokens,
        "ignore_eos": bool(sampling.ignore_eos),
        "stop": list(sampling.stop),
    }
    if sampling.grammar is not None:
        # The engine's grammar parser reads a C string: it would take what stands before the NUL for the whole grammar.
        if "\0" in sampling.grammar:
            raise UnservableError("the grammar contains a NUL character, at which llama.cpp would cut it")
        params["grammar"] = sampling.grammar
    if sampling.json_schema is not None:
        params["json_schema"] = msgspec.Raw(sampling.json_schema.encode())
    return params
