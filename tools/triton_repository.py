"""Write a model repository for tritonserver: `tensorrt_llm_bls` with TensorRT-LLM's tensors, and `ensemble` over it.

The names, types and shapes are those that the TensorRT-LLM backend documents for its models of the same names.

Req: ORCH-4460
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "scripts" / "triton_model.py"
BLS = "tensorrt_llm_bls"
ENSEMBLE = "ensemble"
REQUIRED = ("text_input", "max_tokens")
INPUTS = {
    "text_input": ("STRING", "1"),
    "max_tokens": ("INT32", "1"),
    "bad_words": ("STRING", "-1"),
    "stop_words": ("STRING", "-1"),
    "exclude_input_in_output": ("BOOL", "1"),
    "end_id": ("INT32", "1"),
    "pad_id": ("INT32", "1"),
    "top_k": ("INT32", "1"),
    "top_p": ("FP32", "1"),
    "temperature": ("FP32", "1"),
    "repetition_penalty": ("FP32", "1"),
    "presence_penalty": ("FP32", "1"),
    "frequency_penalty": ("FP32", "1"),
    "random_seed": ("UINT64", "1"),
    "return_num_input_tokens": ("BOOL", "1"),
    "return_num_output_tokens": ("BOOL", "1"),
    "stream": ("BOOL", "1"),
    "guided_decoding_guide_type": ("STRING", "1"),
    "guided_decoding_guide": ("STRING", "1"),
}
OUTPUTS = {
    "text_output": ("STRING", "-1"),
    "cum_log_probs": ("FP32", "-1"),
    "output_log_probs": ("FP32", "-1, -1"),
    "num_input_tokens": ("INT32", "1"),
    "num_output_tokens": ("INT32", "1"),
}


def write_repository(
    into: Path, upstream_url: str, *, kv_tokens: int = 2048, max_batch_size: int = 8, accumulate_tokens: bool = False
) -> None:
    """Make both models; their text comes from the llama.cpp server at the URL, whose KV memory has room for so many tokens."""
    for model in (BLS, ENSEMBLE):
        (into / model / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(MODEL, into / BLS / "1" / "model.py")
    parameters = {
        "upstream_url": upstream_url,
        "accumulate_tokens": str(accumulate_tokens).lower(),
        "max_tokens_in_paged_kv_cache": str(kv_tokens),
    }
    (into / BLS / "config.pbtxt").write_text(
        f'name: "{BLS}"\nbackend: "python"\nmax_batch_size: {max_batch_size}\n'
        f"model_transaction_policy {{ decoupled: true }}\n{_tensors()}{_parameters(parameters)}"
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )
    maps = _maps("input_map", INPUTS) + _maps("output_map", OUTPUTS)
    (into / ENSEMBLE / "config.pbtxt").write_text(
        f'name: "{ENSEMBLE}"\nplatform: "ensemble"\nmax_batch_size: {max_batch_size}\n{_tensors()}'
        f'ensemble_scheduling {{ step [ {{ model_name: "{BLS}" model_version: -1\n{maps}}} ] }}\n'
    )


def _tensors() -> str:
    inputs = [
        f'  {{ name: "{name}" data_type: TYPE_{kind} dims: [ {dims} ]{"" if name in REQUIRED else " optional: true"} }}'
        for name, (kind, dims) in INPUTS.items()
    ]
    outputs = [
        f'  {{ name: "{name}" data_type: TYPE_{kind} dims: [ {dims} ] }}' for name, (kind, dims) in OUTPUTS.items()
    ]
    return "input [\n" + ",\n".join(inputs) + "\n]\noutput [\n" + ",\n".join(outputs) + "\n]\n"


def _parameters(values: Mapping[str, str]) -> str:
    return "".join(
        f"parameters {{ key: {json.dumps(name)} value: {{ string_value: {json.dumps(value)} }} }}\n"
        for name, value in values.items()
    )


def _maps(kind: str, names: Mapping[str, object]) -> str:
    return "".join(f'  {kind} {{ key: "{name}" value: "{name}" }}\n' for name in names)
