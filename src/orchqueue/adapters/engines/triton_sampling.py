"""How a task is said in the tensors of TensorRT-LLM's models.

Triton drops an input that its model does not declare, without a word. So nothing is sent that the configuration does not name, and what
a task needs and the model lacks is refused.

Req: ORCH-4222, ORCH-4462
"""

from __future__ import annotations

from collections.abc import Mapping

from orchqueue.adapters.engines.sampling import Feature, JsonValue, UnservableError, servable_sampler
from orchqueue.adapters.engines.triton_messages import ServedModel
from orchqueue.core.request import TaskSpec

SEED_LIMIT = 2**64
"""`random_seed` is an uint64."""

OFFERS: frozenset[Feature] = frozenset(
    {"stop", "ignore_eos", "repeat_penalty", "json_schema", "grammar", "continuation"}
)
"""No tokenizer and no chat template stand behind Triton's routes."""

_NEUTRAL: Mapping[str, JsonValue] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "beam_width": 1,
}
"""What changes nothing, so that a model need not declare it."""

_ASKED: Mapping[str, JsonValue] = {
    "stream": True,
    "exclude_input_in_output": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}
"""What we would like; `TritonReader` does without. So it does without `stop_words`."""

_RENAMED: Mapping[str, str] = {"random_seed": "seed", "stream": "streaming"}
"""Names of newer releases."""

NO_END_ID = -1


def sampler_words(spec: TaskSpec, profile: str) -> dict[str, JsonValue]:
    """Give what decides the text, as inputs. Greedy is the likeliest of one, for a temperature of 0 is not taken.

    Errors: UnservableError.
    Req: ORCH-3045, ORCH-4061, ORCH-4062, ORCH-4063, ORCH-4171
    """
    sampler, sampling = servable_sampler(spec, profile, "triton", OFFERS, SEED_LIMIT), spec.sampling
    words: dict[str, JsonValue] = {
        **_NEUTRAL,
        "max_tokens": spec.max_tokens,
        "random_seed": spec.seed,
        "repetition_penalty": sampler.repeat_penalty,
    }
    if sampler.greedy:
        words["top_k"] = 1
    else:
        words |= {"temperature": sampler.temperature, "top_k": sampler.top_k, "top_p": sampler.top_p}
    if sampling.stop:
        words["stop_words"] = list(sampling.stop)
    if sampling.ignore_eos:
        words["end_id"] = NO_END_ID
    guide = ("json_schema", sampling.json_schema) if sampling.json_schema else ("ebnf_grammar", sampling.grammar)
    if guide[1] is not None:
        words |= {"guided_decoding_guide_type": guide[0], "guided_decoding_guide": guide[1]}
    return words


def request_fields(
    spec: TaskSpec, words: Mapping[str, JsonValue], model: ServedModel, said: str
) -> dict[str, JsonValue]:
    """Give the body of a `generate_stream` request, of inputs that the model declares only.

    Errors: UnservableError that names what the task needs and the model lacks.
    """
    fields: dict[str, JsonValue] = {}
    greedy = words["top_k"] == 1
    for name, value in {"text_input": (spec.prompt or "") + said, **words, **_ASKED}.items():
        declared = model.first_input(name, _RENAMED.get(name, name))
        may_lack = name in _ASKED or name == "stop_words" or _NEUTRAL.get(name) == value
        if declared is not None:
            fields[declared] = value
        elif not may_lack and not (greedy and name == "random_seed"):
            raise UnservableError(f"model {model.name} declares no input {name}, which the task needs")
    return fields
