"""A simulated vLLM server: the wire format of its OpenAI routes over real HTTP, its gauges, and its slots.

Req: ORCH-4442
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from orchqueue_sim import engine_text
from orchqueue_sim.engine_faults import Faults
from orchqueue_sim.engine_http import LateRefusal, Refused, Script, SimSettings, SimulatedEngine

VERSION = "0.32.0+simulated"
MODEL = "simulated"
DONE = b"[DONE]"
KINDS = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 503: "Service Unavailable"}
WORDS = {"max_tokens": "n_predict", "repetition_penalty": "repeat_penalty"}
"""Its names for what `engine_text.write` calls otherwise."""
STOPS_MAX = 4


class Vocabulary:
    """Numbers the tokens in the order in which they are first met, so that they can be turned back into text."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._tokens: list[str] = []

    def encode(self, text: str) -> list[int]:
        """Turn text into numbers."""
        found = []
        for token in engine_text.split(text):
            if token not in self._numbers:
                self._numbers[token] = len(self._tokens)
                self._tokens.append(token)
            found.append(self._numbers[token])
        return found

    def decode(self, numbers: list[int]) -> str:
        """Turn numbers into text.

        Errors: LateRefusal for a number that is no token.
        """
        for number in numbers:
            if not 0 <= number < len(self._tokens):
                raise LateRefusal(400, f"Token id {number} is out of vocabulary")
        return "".join(self._tokens[number] for number in numbers)


class SimulatedVllm(SimulatedEngine):
    """The routes that the adapter uses."""

    server: ClassVar[str] = "uvicorn"
    text_field: ClassVar[str] = "text"
    open_paths: ClassVar[frozenset[str]] = frozenset({"/health", "/version", "/metrics"})

    def __init__(self, settings: SimSettings, faults: Faults) -> None:
        super().__init__(settings, faults)
        self.model = settings.model or MODEL
        self._vocabulary = Vocabulary()

    def error(self, status: int, message: str) -> object:
        """Make an error object; a missing key is told in one word."""
        if status == 401:
            return {"error": "Unauthorized"}
        return {"error": {"message": message, "type": KINDS.get(status, "Error"), "param": None, "code": status}}

    def late(self, error: object) -> list[dict[str, Any] | bytes]:
        """Give the events of a stream that only refuses."""
        return [*super().late(error), DONE]

    def is_completion(self, method: str, path: str) -> bool:
        """Tell a completion."""
        return (method, path) == ("POST", "/v1/completions")

    def read(self, path: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Read a `/v1/completions` body."""
        del path
        self._check(request)
        asked, bound = request.get("prompt"), request.get("structured_outputs") or {}
        prompt = self._vocabulary.decode(asked) if isinstance(asked, list) else asked
        if not prompt:
            raise Refused(400, "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)")
        if bound.get("grammar") and not engine_text.is_grammar(bound["grammar"]):
            raise LateRefusal(400, "Invalid grammar specification: Failed to convert the grammar from GBNF to Lark")
        params = {WORDS.get(name, name): value for name, value in request.items()}
        return prompt, params | {"grammar": bound.get("grammar"), "json_schema": bound.get("json")}

    def plain(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Answer all but completions."""
        match method, path:
            case "GET", "/health":
                return (503 if self.loading else 200), b""
            case "GET", "/version":
                return 200, {"version": self.settings.version or VERSION}
            case "GET", "/v1/models":
                return 200, {"object": "list", "data": [self._card()]}
            case "GET", "/metrics":
                return 200, self._metrics().encode()
            case "POST", "/tokenize":
                return 200, self._tokenize(json.loads(body))
            case "POST", "/v1/embeddings":
                request = json.loads(body)
                self._check_model(request)
                return 200, engine_text.embed(request["input"])
            case "POST", "/v1/rerank":
                request = json.loads(body)
                self._check_model(request)
                return 200, engine_text.rank(request["query"], request["documents"])
            case "POST", "/detokenize":
                request = json.loads(body)
                self._check_model(request)
                return 200, {"prompt": self._vocabulary.decode(request["tokens"])}
        return 404, {"detail": "Not Found"}

    def token(self, script: Script, text: str, said: int) -> dict[str, Any] | None:
        """Give one event a token, its text empty while that is held back."""
        return self._event(script, text, said)

    def closing(self, script: Script, prefill_ms: float, decode_ms: float) -> list[dict[str, Any] | bytes]:
        """Give the end of the text, the usage where it was asked for, and `[DONE]`."""
        del prefill_ms, decode_ms
        output = script.output
        ended = self._event(script, "", output.tokens)
        ended["choices"][0]["finish_reason"] = "length" if output.stop_type == "limit" else "stop"
        ended["choices"][0]["stop_reason"] = output.stopping_word or None
        if not (script.echo.get("stream_options") or {}).get("include_usage"):
            return [ended, DONE]
        told = {"usage": _usage(script, output.tokens), "system_fingerprint": "vllm-0.32.0-simulated"}
        return [ended, self._event(script, "", output.tokens) | {"choices": [], **told}, DONE]

    def _check(self, request: dict[str, Any]) -> None:
        self._check_model(request)
        if request.get("max_tokens", 16) < 1:
            raise Refused(400, f"max_tokens must be at least 1, got {request['max_tokens']}.")
        if len(request.get("stop", [])) > STOPS_MAX:
            raise Refused(400, f"1 validation error: List should have at most {STOPS_MAX} items")
        if not -(2**63) <= request.get("seed", 0) < 2**63:
            raise Refused(400, "1 validation error: Input should be less than or equal to 9223372036854775807")
        bound = [name for name, value in (request.get("structured_outputs") or {}).items() if value is not None]
        if len(bound) > 1:
            raise Refused(400, f"You can only use one kind of structured outputs constraint, not {' and '.join(bound)}")

    def _check_model(self, request: dict[str, Any]) -> None:
        if request.get("model", self.model) != self.model:
            raise Refused(404, f"The model `{request['model']}` does not exist. Valid aliases: {self.model}.")

    def _event(self, script: Script, text: str, said: int) -> dict[str, Any]:
        event: dict[str, Any] = {
            "id": "cmpl-simulated", "object": "text_completion", "created": 0, "model": self.model,
            "choices": [
                {
                    "index": 0, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None,
                    "prompt_token_ids": None, "token_ids": None,
                }
            ],
        }  # fmt: skip
        if (script.echo.get("stream_options") or {}).get("continuous_usage_stats"):
            event["usage"] = _usage(script, said)
        return event

    def _card(self) -> dict[str, object]:
        return {
            "id": self.model, "object": "model", "created": 0, "owned_by": "vllm", "root": f"/models/{self.model}",
            "parent": None, "max_model_len": self.settings.ctx, "permission": [],
        }  # fmt: skip

    def _tokenize(self, request: dict[str, Any]) -> dict[str, object]:
        self._check_model(request)
        text = request.get("prompt")
        if text is None:
            if self.faults.template_fails:
                raise Refused(400, "Conversation roles must alternate")
            if not request["messages"]:
                raise Refused(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
            text = engine_text.apply_template(request["messages"])
        tokens = self._vocabulary.encode(text)
        return {"count": len(tokens), "max_model_len": self.settings.ctx, "tokens": tokens, "token_strs": None}

    def _metrics(self) -> str:
        if self.faults.hide_slots:
            self.struck("hidden_slots")
            return "# started with --disable-log-stats\n"
        used = sum(slot.prompt_tokens for slot in self._slots if slot.busy)
        labels = f'engine="0",model_name="{self.model}"'
        figures = {
            "num_requests_running": self.busy,
            "num_requests_waiting": self.deferred,
            "kv_cache_usage_perc": min(1.0, used / (self.settings.slots * self.settings.ctx)),
            "prompt_tokens_total": self.prompt_tokens,
            "generation_tokens_total": self.predicted_tokens,
        }
        lines = [f"vllm:{name}{{{labels}}} {float(value)}" for name, value in figures.items()]
        caching = f'block_size="16",enable_prefix_caching="{self.faults.prefix_caching}",engine="0"'
        return "\n".join([*lines, f"vllm:cache_config_info{{{caching}}} 1.0", ""])


def _usage(script: Script, said: int) -> dict[str, int]:
    read = script.prompt_tokens
    return {"prompt_tokens": read, "total_tokens": read + said, "completion_tokens": said}
