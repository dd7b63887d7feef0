"""A simulated Triton server with the models of TensorRT-LLM's backend: its wire format over real HTTP, its metrics on a port of its own.

Told apart by what real ones do too: `ensemble` gives each piece of text, `tensorrt_llm_bls` all text so far (`accumulate_tokens`).
`tests/conformance/engine/test_triton.py` holds it to what a real server answered.

Req: ORCH-4222, ORCH-4461
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any, ClassVar

import msgspec

from orchqueue_sim import engine_text
from orchqueue_sim.engine_faults import Faults
from orchqueue_sim.engine_http import Refused, Script, SimulatedEngine

VERSION = "2.51.0-simulated"
ENSEMBLE, BLS, DECODER = "ensemble", "tensorrt_llm_bls", "tensorrt_llm"
MODELS = (ENSEMBLE, BLS, DECODER)
REQUIRED = ("text_input", "max_tokens")
# Each input's type, each output's type.
INPUTS = {
    "text_input": "STRING", "max_tokens": "INT32", "bad_words": "STRING", "stop_words": "STRING", "exclude_input_in_output": "BOOL",
    "end_id": "INT32", "pad_id": "INT32", "top_k": "INT32", "top_p": "FP32", "temperature": "FP32", "repetition_penalty": "FP32",
    "presence_penalty": "FP32", "frequency_penalty": "FP32", "random_seed": "UINT64", "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL", "stream": "BOOL", "guided_decoding_guide_type": "STRING", "guided_decoding_guide": "STRING",
}  # fmt: skip
OUTPUTS = {
    "text_output": "STRING", "cum_log_probs": "FP32", "output_log_probs": "FP32", "num_input_tokens": "INT32",
    "num_output_tokens": "INT32",
}  # fmt: skip
_SIGNED = "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer"
_MODEL = "\0"
"""Begins the message of an error that is the model's."""


class ModelError(dict[str, str]):
    """An error of the model, which goes out as an event."""


class SimulatedTriton(SimulatedEngine):
    """The routes that the adapter uses."""

    server: ClassVar[str] = "triton-simulated"
    text_field: ClassVar[str] = "text_output"
    open_paths: ClassVar[frozenset[str]] = frozenset()

    _metrics_server: asyncio.Server | None = None

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """Listen, and for metrics on another port."""
        self._metrics_server = await asyncio.start_server(self._tell_metrics, host, 0)
        return await super().serve(host, port)

    @property
    def url_suffix(self) -> str:
        """Tell the port of the metrics as the adapter reads it."""
        assert self._metrics_server is not None
        return f"/?metrics_port={self._metrics_server.sockets[0].getsockname()[1]}"

    def error(self, status: int, message: str) -> object:
        """Make an error's body."""
        del status
        return ModelError(error=message[1:]) if message.startswith(_MODEL) else {"error": message}

    def is_completion(self, method: str, path: str) -> bool:
        """Tell a stream of a model that there is."""
        return method == "POST" and path in {f"/v2/models/{model}/generate_stream" for model in (ENSEMBLE, BLS)}

    def read(self, path: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Say a request in the words of `engine_text`; stop words are looked at later, for they stay in the text."""
        request["_model"] = path.split("/")[3]
        if request["max_tokens"] < 1:
            raise Refused(400, f"{_MODEL}{_inside(request)}max_tokens must be a single value > 0")
        guide = {"json_schema": "json_schema", "ebnf_grammar": "grammar"}.get(
            request.get("guided_decoding_guide_type", "")
        )
        params = {
            "n_predict": request["max_tokens"],
            "seed": request.get("random_seed"),
            "temperature": 0 if request.get("top_k") == 1 else request.get("temperature"),
            "top_k": request.get("top_k"),
            "top_p": request.get("top_p"),
            "repeat_penalty": request.get("repetition_penalty"),
            "ignore_eos": request.get("end_id") == -1,
        }
        if guide == "json_schema" and '"nonsense"' in request["guided_decoding_guide"]:
            raise Refused(400, f"{_MODEL}{_inside(request)}the schema cannot be compiled")
        return request["text_input"], params | ({guide: request["guided_decoding_guide"]} if guide else {})

    def _script(self, path: str, body: bytes, faults: Faults) -> Script:
        try:
            request = json.loads(body)
        except ValueError as error:
            raise Refused(500, "failed to parse the request JSON buffer: Invalid value. at 1") from error
        got = [name for name in INPUTS if name in request]
        if missing := [name for name in REQUIRED if name not in request]:
            text = f"[request id: <id_unknown>] expected number of inputs between 2 and {len(INPUTS)} but got {len(got)} inputs"
            raise Refused(
                400, f"{text}, but missing required input(s) {missing}. Please provide all required input(s)."
            )
        if not isinstance(request["max_tokens"], int):
            raise Refused(500, _SIGNED)
        try:
            script = super()._script(path, body, faults)
        except Refused as refused:
            raise Refused(400, _MODEL + str(refused).lstrip(_MODEL)) from refused
        except engine_text.GrammarError as error:
            raise Refused(400, f"{_MODEL}{error}") from error
        script.echo["_model"] = path.split("/")[3]
        return msgspec.structs.replace(script, output=_stopped(script.output, request.get("stop_words") or []))

    def token(self, script: Script, text: str, said: int) -> dict[str, Any] | None:
        """Give a response for some text. All text so far ends with U+FFFD while a character is not whole."""
        echo = script.echo
        before = echo.get("_said", _prompt_shown(script))
        echo["_said"] = before + text
        if echo["_model"] == BLS:
            return self._response(script, echo["_said"] + ("" if text else "\ufffd"), said)
        if not text:
            return None
        return self._response(script, text if "_told" in echo else before + text, said)

    def closing(self, script: Script, prefill_ms: float, decode_ms: float) -> list[dict[str, Any] | bytes]:
        """Give the last response: tokens that show no text."""
        del prefill_ms, decode_ms
        whole = script.echo.get("_said", _prompt_shown(script)) if script.echo["_model"] == BLS else ""
        return [self._response(script, whole, script.output.tokens)]

    def _response(self, script: Script, text: str, said: int) -> dict[str, Any]:
        echo = script.echo
        fresh = said - echo.get("_told", 0)
        echo["_told"] = said
        fields: dict[str, Any] = {"cum_log_probs": 0.0, "model_name": echo["_model"], "model_version": "1"}
        counts = {"num_input_tokens": script.prompt_tokens, "num_output_tokens": fresh}
        fields |= {name: count for name, count in counts.items() if echo.get(f"return_{name}")}
        fields["output_log_probs"] = 0.0
        if echo["_model"] == ENSEMBLE:
            fields |= {"sequence_end": False, "sequence_id": 0, "sequence_start": False}
        return fields | {"text_output": text}

    def plain(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Answer all but streams."""
        del body
        parts = path.split("/")
        if (method, path) in {("GET", "/v2/health/live"), ("GET", "/v2/health/ready")}:
            return (400 if self.loading and path.endswith("ready") else 200), b""
        if (method, path) == ("GET", "/v2"):
            return 200, {
                "name": "triton",
                "version": self.settings.version or VERSION,
                "extensions": ["model_repository"],
            }
        if (method, path) == ("POST", "/v2/repository/index"):
            return 200, [{"name": name, "version": "1", "state": "READY"} for name in MODELS]
        if len(parts) < 4 or parts[1:3] != ["v2", "models"]:
            return 404, b'{"error":"Not Found"}'
        model, verb = parts[3], "/".join(parts[4:])
        if model not in MODELS:
            if verb == "ready":
                return 400, b'{"error":"Model version not ready"}'
            return 404, self.error(404, f"Request for unknown model: '{model}' is not found")
        return self._about(model, verb)

    def _about(self, model: str, verb: str) -> tuple[int, object]:
        match verb:
            case "":
                shapes = [
                    [{"name": name, "datatype": kind, "shape": [-1, 1]} for name, kind in tensors.items()]
                    for tensors in (INPUTS, OUTPUTS)
                ]
                about = {"name": model, "versions": ["1"], "platform": _platform(model)}
                return 200, about | {"inputs": shapes[0], "outputs": shapes[1]}
            case "ready":
                return (400, b'{"error":"Model version not ready"}') if self.loading else (200, b"")
            case "config":
                return 200, self._config(model)
            case "stats":
                return 200, {"model_stats": [{"name": model, "version": "1", "inference_count": self.begun}]}
            case "generate":
                several = (
                    "generate expects model to produce exactly 1 response, use generate stream for model that generates"
                )
                return 200, self.error(200, f"{several} various number of responses")
        return 404, b'{"error":"Not Found"}'

    def _config(self, model: str) -> dict[str, object]:
        said = {
            ENSEMBLE: {},
            BLS: {"accumulate_tokens": "true", "tensorrt_llm_model_name": DECODER},
            DECODER: {"max_tokens_in_paged_kv_cache": str(self.settings.ctx * self.settings.slots)},
        }[model]
        config: dict[str, object] = {
            "name": model,
            "platform": "ensemble" if model == ENSEMBLE else "",
            "backend": {ENSEMBLE: "", BLS: "python", DECODER: "tensorrtllm"}[model],
            "max_batch_size": 8,
            "input": [{"name": name, "data_type": f"TYPE_{kind}", "dims": [1]} for name, kind in INPUTS.items()],
            "output": [{"name": name, "data_type": f"TYPE_{kind}", "dims": [-1]} for name, kind in OUTPUTS.items()],
            "parameters": {name: {"string_value": value} for name, value in said.items()},
            "model_transaction_policy": {"decoupled": True},
        }
        return config | ({"ensemble_scheduling": {"step": [{"model_name": DECODER}]}} if model == ENSEMBLE else {})

    def stream_error(self) -> bytes:
        """Give an error in the middle of a stream."""
        return b'data: {"error":"simulated fault"}\n\n'

    def _answer(self, writer: asyncio.StreamWriter, status: int, body: object) -> None:
        if not isinstance(body, ModelError):
            super()._answer(writer, status, body)
            return
        frame = self.frame(json.dumps(body).encode())
        writer.write(
            f"HTTP/1.1 {status} Simulated\r\nServer: {self.server}\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            f"Transfer-Encoding: chunked\r\n\r\n{len(frame):x}\r\n".encode()
            + frame
            + b"\r\n0\r\n\r\n"
        )

    async def _tell_metrics(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            super()._answer(writer, 200, self._metrics().encode())
            await writer.drain()
        writer.close()

    def _metrics(self) -> str:
        lines = [f'nv_inference_count{{model="{BLS}",version="1"}} {self.begun}']
        if self.faults.hide_slots:
            self.struck("hidden_slots")
        else:
            room = self.settings.ctx * self.settings.slots
            used = sum(slot.prompt_tokens for slot in self._slots if slot.busy)
            labels = f'model="{DECODER}",version="1"'
            lines += [
                f'nv_trt_llm_request_metrics{{request_type="active",{labels}}} {self.busy + self.deferred}',
                f'nv_trt_llm_request_metrics{{request_type="max",{labels}}} {self.settings.slots}',
                f'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="fraction",{labels}}} {min(1.0, used / room)}',
            ]
        return "".join(f"{line}\n" for line in lines)


def _platform(model: str) -> str:
    return {ENSEMBLE: "ensemble", BLS: "python", DECODER: "tensorrtllm"}[model]


def _inside(request: dict[str, Any]) -> str:
    return f"in ensemble '{ENSEMBLE}', " if request["_model"] == ENSEMBLE else ""


def _prompt_shown(script: Script) -> str:
    return "" if script.echo.get("exclude_input_in_output") else str(script.params["prompt"])


def _stopped(output: engine_text.Output, stops: list[str]) -> engine_text.Output:
    """End the text behind the piece that makes a stop word whole."""
    text, tokens = "", 0
    for index, piece in enumerate(output.pieces):
        text += piece.text
        tokens += piece.tokens
        if any(stop in text for stop in stops):
            return engine_text.Output(output.pieces[: index + 1], "word", "", tokens)
    return output
