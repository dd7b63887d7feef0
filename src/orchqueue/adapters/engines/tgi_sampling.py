"""How a task's samplers are said in TGI's words.

TGI refuses the values that switch a sampler off, so one that is not used is left out; and any sampler that is named makes it sample,
whatever `do_sample` says. So greedy decoding names none.
"""

from __future__ import annotations

import msgspec

from orchqueue.adapters.engines.sampling import Feature, JsonValue, servable_sampler
from orchqueue.core.request import TaskSpec

SEED_LIMIT = 2**64

OFFERS: frozenset[Feature] = frozenset(
    {"messages", "tokenize", "stop", "repeat_penalty", "json_schema", "continuation"}
)


def generate_params(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
    """Give the `parameters` of a `/generate_stream` body.

    Errors: UnservableError.
    Req: ORCH-3045, ORCH-4061, ORCH-4062, ORCH-4063, ORCH-4171, ORCH-4172, ORCH-4221

    >>> generate_params(TaskSpec(prompt="hi", seed=7), "greedy-v1")["do_sample"]
    False
    """
    sampler, sampling = servable_sampler(spec, profile, "tgi", OFFERS, SEED_LIMIT), spec.sampling
    params: dict[str, JsonValue] = {
        "max_new_tokens": spec.max_tokens,
        "do_sample": not sampler.greedy,
        "seed": spec.seed,
        "repetition_penalty": sampler.repeat_penalty,
        "frequency_penalty": 0.0,
        "watermark": False,
        "return_full_text": False,
        "decoder_input_details": False,
        "details": True,
        "stop": list(sampling.stop),
    }
    if not sampler.greedy:
        params["temperature"] = sampler.temperature
        if sampler.top_p < 1:
            params["top_p"] = sampler.top_p
        if sampler.top_k:
            params["top_k"] = sampler.top_k
    if sampling.json_schema is not None:
        params["grammar"] = {"type": "json", "value": msgspec.Raw(sampling.json_schema.encode())}
    return params
