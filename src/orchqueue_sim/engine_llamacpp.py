"""A simulated llama.cpp server: its wire format over real HTTP, and its slots."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from orchqueue_sim import engine_text
from orchqueue_sim.engine_http import Script, SimulatedEngine, Slot

VERSION = "b0-simulated"
MODEL_PATH = "/models/simulated.gguf"


class SimulatedLlamacpp(SimulatedEngine):
    """The routes that the adapter uses."""

    server: ClassVar[str] = "llama.cpp"
    text_field: ClassVar[str] = "content"

    def error(self, status: int, message: str) -> object:
        """Make an error object."""
        kind = "invalid_request_error" if status == 400 else "server_error"
        return {"error": {"code": status, "message": message, "type": kind}}

    def is_completion(self, method: str, path: str) -> bool:
        """Tell a completion."""
        return (method, path) == ("POST", "/completion")

    def read(self, path: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Read a `/completion` body: `engine_text` has its words."""
        del path
        return request["prompt"], request | {"marker": request.get("mirostat_tau", 5.0)}

    def plain(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Answer all but completions."""
        match method, path:
            case "GET", "/health":
                return (503, self.error(503, "Loading model")) if self.loading else (200, {"status": "ok"})
            case "GET", "/props":
                return 200, self._props()
            case "GET", "/slots":
                if self.faults.hide_slots:
                    self.struck("hidden_slots")
                    return 501, self.error(501, "This server does not support slots endpoint.")
                return 200, [self._slot(slot) for slot in self._slots]
            case "GET", "/metrics":
                return 200, self._metrics().encode()
            case "POST", "/tokenize":
                return 200, {"tokens": engine_text.tokenize(json.loads(body)["content"])}
            case "POST", "/v1/embeddings":
                return 200, engine_text.embed(json.loads(body)["input"])
            case "POST", "/v1/rerank":
                request = json.loads(body)
                return 200, engine_text.rank(request["query"], request["documents"])
            case "POST", "/apply-template":
                if self.faults.template_fails:
                    return 500, self.error(500, "Conversation roles must alternate")
                return 200, {"prompt": engine_text.apply_template(json.loads(body)["messages"])}
        return 404, self.error(404, "File Not Found")

    def opening(self, script: Script) -> list[dict[str, Any]]:
        """Tell how far the prompt is read, where that was asked for."""
        if not script.echo.get("return_progress"):
            return []
        return [{"content": "", "tokens": [0], "stop": False, "tokens_predicted": 0, "prompt_progress": {}}]

    def token(self, script: Script, text: str, said: int) -> dict[str, Any] | None:
        """Give one event a token, its text empty while that is held back."""
        event = {"index": 0, "content": text, "tokens": [said], "stop": False}
        return event | {"tokens_predicted": said, "tokens_evaluated": script.prompt_tokens}

    def closing(self, script: Script, prefill_ms: float, decode_ms: float) -> list[dict[str, Any] | bytes]:
        """Give the last event with the counts."""
        output = script.output
        return [
            {
                "content": "", "stop": True, "stop_type": output.stop_type, "stopping_word": output.stopping_word,
                "tokens_predicted": output.tokens, "tokens_evaluated": script.prompt_tokens, "truncated": False,
                "timings": {
                    "cache_n": 0, "prompt_n": script.prompt_tokens, "prompt_ms": prefill_ms,
                    "predicted_n": output.tokens, "predicted_ms": decode_ms,
                },
            }
        ]  # fmt: skip

    def _slot(self, slot: Slot) -> dict[str, object]:
        entry: dict[str, object] = {
            "id": slot.number, "n_ctx": self.settings.ctx, "speculative": False, "is_processing": slot.busy
        }  # fmt: skip
        if slot.prompt_tokens:
            entry |= {"n_prompt_tokens": slot.prompt_tokens, "params": {"mirostat": 0, "mirostat_tau": slot.marker}}
        return entry

    def _props(self) -> dict[str, object]:
        return {
            "default_generation_settings": {"n_ctx": self.settings.ctx, "params": {}},
            "total_slots": self.settings.slots,
            "model_path": self.settings.model or MODEL_PATH,
            "chat_template": "chatml",
            "build_info": self.settings.version or VERSION,
            "simulated": True,
        }

    def _metrics(self) -> str:
        figures = {
            "prompt_tokens_total": self.prompt_tokens,
            "tokens_predicted_total": self.predicted_tokens,
            "requests_processing": self.busy,
            "requests_deferred": self.deferred,
            "simulated_requests_begun_total": self.begun,
        }
        return "".join(f"llamacpp:{name} {value}\n" for name, value in figures.items())
