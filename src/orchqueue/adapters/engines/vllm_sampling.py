"""How a task's samplers are said in vLLM's words.

Every sampler is named, so that neither the server's defaults nor the model's own `generation_config.json` leaks into the text.
"""

from __future__ import annotations

import msgspec

from orchqueue.adapters.engines.sampling import FEATURES, Feature, JsonValue, UnservableError, servable_sampler
from orchqueue.core.request import TaskSpec

SEED_LIMIT = 2**63
"""Seeds are 64-bit numbers with a sign; −1 means "choose one at random"."""

OFFERS: frozenset[Feature] = frozenset(FEATURES)


def sampler_params(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
    """Give the sampling part of a `/v1/completions` body.

    Errors: UnservableError.
    Req: ORCH-3045, ORCH-4061, ORCH-4062, ORCH-4063, ORCH-4171, ORCH-4172

    >>> sampler_params(TaskSpec(prompt="hi", seed=7), "v1")["top_k"]
    40
    """
    sampler, sampling = servable_sampler(spec, profile, "vLLM", OFFERS, SEED_LIMIT), spec.sampling
    params: dict[str, JsonValue] = {
        "temperature": sampler.temperature,
        "top_p": sampler.top_p,
        "top_k": sampler.top_k,
        "min_p": sampler.min_p,
        "repetition_penalty": sampler.repeat_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": spec.seed,
        "max_tokens": spec.max_tokens,
        "min_tokens": 0,
        "ignore_eos": bool(sampling.ignore_eos),
        "stop": list(sampling.stop),
        "include_stop_str_in_output": False,
        "skip_special_tokens": True,
    }
    if sampling.grammar is not None:
        # Seen: what stands behind a NUL is left away, and the rest is taken for the whole grammar.
        if "\0" in sampling.grammar:
            raise UnservableError("the grammar contains a NUL character, at which vLLM would cut it")
        params["structured_outputs"] = {"grammar": sampling.grammar}
    if sampling.json_schema is not None:
        params["structured_outputs"] = {"json": msgspec.Raw(sampling.json_schema.encode())}
    return params
