"""A stand-in for TensorRT-LLM's model on a real tritonserver: its tensors by name, its gauges, the text of a llama.cpp server.

Runs inside the Python backend of `.venv-triton`, as `tensorrt_llm_bls`. The TensorRT-LLM backend itself needs an NVIDIA GPU and an
engine that was built for it. What is kept of it: one response for each piece of text, or all text so far where `accumulate_tokens`
is true; a stop word is still in the text that it ends; counts only where they are asked for, those of the output for each response;
a broken request fails as an error of the model; the gauge of active requests; an echo of the prompt for who does not exclude it.

Req: ORCH-4460
"""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import triton_python_backend_utils as pb_utils

UPSTREAM_TIMEOUT_S = 300
KEY_VARIABLE = "ORCHQUEUE_TRITON_UPSTREAM_KEY"
LISTS = ("stop_words", "bad_words")
# Theirs by ours. What TensorRT-LLM does not know is fixed, so that no default of llama.cpp decides.
SAMPLERS = {
    "max_tokens": "n_predict",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "random_seed": "seed",
}
FIXED = {
    "stream": True,
    "cache_prompt": False,
    "samplers": ["penalties", "top_k", "top_p", "temperature"],
    "min_p": 0.0,
    "repeat_last_n": 64,
}
RANDOM_SEED = 2**32 - 1
"""llama.cpp takes less bits, and this one for "choose one at random"."""
GUIDES = {"json_schema": "json_schema", "ebnf_grammar": "grammar"}


class CancelledError(Exception):
    """Nobody waits for the rest."""


class TritonPythonModel:
    """The model, under the name that the Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the parameters of `config.pbtxt` and register the gauges."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._upstream = urlsplit(parameters["upstream_url"])
        self._key = os.environ.get(KEY_VARIABLE, "")
        self._accumulate = parameters["accumulate_tokens"] == "true"
        self._room_tokens = int(parameters["max_tokens_in_paged_kv_cache"])
        self._lock = threading.Lock()
        self._kv_tokens: dict[int, int] = {}
        labels = {"model": args["model_name"], "version": args["model_version"]}
        # Gauges live as long as their families, so these have to be kept.
        self._families = [
            pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.GAUGE)
            for name, text in (
                ("nv_trt_llm_request_metrics", "TRT LLM request metrics"),
                ("nv_trt_llm_kv_cache_block_metrics", "TRT LLM KV cache block metrics"),
            )
        ]
        requests, blocks = self._families
        self._active = requests.Metric(labels={**labels, "request_type": "active"})
        self._fraction = blocks.Metric(labels={**labels, "kv_cache_block_type": "fraction"})

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        """Start a thread for each request; a decoupled model answers when it likes."""
        for request in requests:
            self._note(id(request), 0)
            threading.Thread(target=self._serve, args=(request,), daemon=True).start()

    def _note(self, request: int, kv_tokens: int | None) -> None:
        """Keep what a request holds, None when it is over, and tell it by the gauges."""
        with self._lock:
            if kv_tokens is None:
                self._kv_tokens.pop(request, None)
            else:
                self._kv_tokens[request] = kv_tokens
            self._active.set(len(self._kv_tokens))
            self._fraction.set(min(1.0, sum(self._kv_tokens.values()) / self._room_tokens))

    def _serve(self, request: pb_utils.InferenceRequest) -> None:
        sender = request.get_response_sender()
        error = None
        try:
            for response in self._decode(id(request), read_tensors(request), sender):
                sender.send(response)
        except CancelledError:
            pass
        except Exception as problem:  # noqa: BLE001 - whatever happens must reach the client, or the request never ends
            error = pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(problem)))
        finally:
            # Before the last response: who has seen the stream end must not find it running.
            self._note(id(request), None)
            final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            if error is None:
                sender.send(flags=final)
            else:
                sender.send(error, flags=final)

    def _decode(
        self, number: int, values: dict[str, Any], sender: pb_utils.InferenceResponseSender
    ) -> Iterator[pb_utils.InferenceResponse]:
        stops: list[str] = values.get("stop_words", [])
        said = "" if values.get("exclude_input_in_output") else values["text_input"]
        shown = "" if self._accumulate else said
        told = 0
        for event in self._events(llamacpp_body(values)):
            if sender.is_cancelled():
                raise CancelledError
            fresh, tokens = event["content"], event.get("tokens_predicted", 0)
            self._note(number, event.get("tokens_evaluated", 0) + tokens)
            said += fresh
            if fresh or event["stop"]:
                text = said if self._accumulate else shown + fresh
                shown = ""
                yield respond(values, text, event.get("tokens_evaluated", 0), tokens - told)
                told = tokens
            if event["stop"] or any(word in said for word in stops):
                return
        raise RuntimeError("llama.cpp ended its stream early")

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        upstream = http.client.HTTPConnection(
            self._upstream.hostname or "", self._upstream.port, timeout=UPSTREAM_TIMEOUT_S
        )
        try:
            upstream.request("POST", "/completion", json.dumps(body), {"Authorization": f"Bearer {self._key}"})
            answer = upstream.getresponse()
            if answer.status != 200:
                raise RuntimeError(answer.read().decode(errors="replace"))
            for line in answer:
                name, _, data = line.partition(b": ")
                if name == b"error":
                    raise RuntimeError(data.decode(errors="replace"))
                if name == b"data":
                    yield json.loads(data)
        finally:
            upstream.close()


def read_tensors(request: pb_utils.InferenceRequest) -> dict[str, Any]:
    """Give the inputs as plain values.

    Errors: ValueError where TensorRT-LLM's model would refuse.
    """
    values: dict[str, Any] = {}
    for tensor in request.inputs():
        flat = tensor.as_numpy().reshape(-1)
        if tensor.name() in LISTS:
            values[tensor.name()] = [word.decode() for word in flat if word]
        else:
            values[tensor.name()] = flat[0].decode() if flat.dtype == np.object_ else flat[0].item()
    if not values["text_input"]:
        raise ValueError("text_input is required")
    if values["max_tokens"] < 1:
        raise ValueError("max_tokens must be a single value > 0")
    return values


def llamacpp_body(values: dict[str, Any]) -> dict[str, Any]:
    """Say a request in llama.cpp's words.

    Errors: ValueError.
    """
    body = {theirs: values[ours] for ours, theirs in SAMPLERS.items() if ours in values}
    guide = values.get("guided_decoding_guide_type")
    if guide is not None:
        if guide not in GUIDES:
            raise ValueError(f"guided_decoding_guide_type {guide!r} is not supported")
        text = values.get("guided_decoding_guide", "")
        body[GUIDES[guide]] = json.loads(text) if guide == "json_schema" else text
    if "seed" in body:
        body["seed"] %= RANDOM_SEED
    return {**FIXED, **body, "prompt": values["text_input"], "ignore_eos": values.get("end_id", 0) == -1}


def respond(values: dict[str, Any], text: str, tokens_in: int, tokens_out: int) -> pb_utils.InferenceResponse:
    """Make one response."""
    tensors = [
        pb_utils.Tensor("text_output", np.array([[text.encode()]], dtype=np.object_)),
        pb_utils.Tensor("cum_log_probs", np.array([[0.0]], dtype=np.float32)),
        pb_utils.Tensor("output_log_probs", np.array([[[0.0]]], dtype=np.float32)),
    ]
    for name, count in (("num_input_tokens", tokens_in), ("num_output_tokens", tokens_out)):
        if values.get(f"return_{name}"):
            tensors.append(pb_utils.Tensor(name, np.array([[count]], dtype=np.int32)))
    return pb_utils.InferenceResponse(output_tensors=tensors)
