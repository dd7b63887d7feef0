"""A simulated TGI router: its wire format over real HTTP, its limits and its figures.

Written from the published interface; no real router was at hand. Its batch is the slots of its base, each stepping by itself.

Req: ORCH-4454
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, ClassVar

import msgspec

from orchqueue_sim import engine_text
from orchqueue_sim.engine_faults import Faults, FaultyStream
from orchqueue_sim.engine_http import Refused, Script, SimSettings, SimulatedEngine, Slot
from orchqueue_sim.engine_tgi_rules import (
    BOS,
    EOS,
    STOPS_MAX,
    GenerateRequest,
    Parameters,
    apply_template,
    complaint,
    is_no_request,
    new_tokens,
    stopped,
    token_texts,
    tokenize,
    written,
)

VERSION = "0.0.0-simulated"
MODEL_ID = "simulated/words"
REVISION = "5ea1ed" + "0" * 34
FINISH_REASONS = {"limit": "length", "eos": "eos_token", "word": "stop_sequence"}
KINDS = {
    422: "validation", 424: "generation", 429: "overloaded", 500: "incomplete_generation", 503: "healthcheck",
}  # fmt: skip
UNREADABLE = "the body is no request"
HELD_SHARE = 0.15
"""How often a token shows no text because the next one may change its end."""


class RefusedInStream(Refused):
    """A request that is refused by an event: the router has sent its status by then."""


class TgiScript(Script, frozen=True):
    """One stream. `texts`: of each token, the end-of-sequence token included. `refusal`: the event instead of all that."""

    asked: Parameters = msgspec.field(default_factory=Parameters)
    texts: tuple[str, ...] = ()
    refusal: dict[str, Any] | None = None


class SimulatedTgi(SimulatedEngine):
    """The routes that the adapter uses."""

    server: ClassVar[str] = "text-generation-inference-simulated"
    text_field: ClassVar[str] = "text"
    open_paths: ClassVar[frozenset[str]] = frozenset({"/health", "/info", "/metrics", "/chat_tokenize"})
    head_first: ClassVar[bool] = True

    def __init__(self, settings: SimSettings, faults: Faults) -> None:
        super().__init__(settings, faults)
        self._requests: Counter[str] = Counter()
        self._calls_ended: Counter[str] = Counter()
        self._batched: set[int] = set()

    def error(self, status: int, message: str) -> object:
        """Make the body of an error; what the HTTP framework refuses is text, and a wrong key gets none."""
        if status in KINDS and not message.startswith(UNREADABLE):
            return _error_event(status, message)
        return b"" if status == 401 else message.encode()

    def is_completion(self, method: str, path: str) -> bool:
        """Tell a stream."""
        return (method, path) == ("POST", "/generate_stream")

    def read(self, path: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Read and validate a body: what the router itself finds wrong is told in the stream."""
        del path
        wanted = _generate_request(request)
        self._requests["count"] += 1
        if self.busy + self.deferred >= self.settings.max_requests:
            self._requests["overloaded"] += 1
            raise RefusedInStream(429, "Model is overloaded")
        prompt_tokens = len(tokenize(wanted.inputs, add_special=True))
        if problem := complaint(wanted, prompt_tokens, self.settings.ctx):
            self._requests["validation"] += 1
            raise RefusedInStream(422, f"Input validation error: {problem}")
        limit = new_tokens(wanted.parameters, prompt_tokens, self.settings.ctx)
        return BOS + wanted.inputs, written(wanted.parameters, limit)

    def plain(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Answer all but streams."""
        match method, path:
            case "GET", "/health":
                return (503, self.error(503, "unhealthy")) if self.loading else (200, b"")
            case "GET", "/info":
                return 200, self._info()
            case "GET", "/metrics":
                if self.faults.hide_slots:
                    self.struck("hidden_slots")
                    return 404, b""
                return 200, self._metrics().encode()
            case "POST", "/tokenize":
                inputs = _generate_request(json.loads(body)).inputs
                return 200, [token.described() for token in tokenize(inputs, add_special=True)]
            case "POST", "/chat_tokenize":
                if self.faults.template_fails:
                    return 422, {"error": "Template error: roles must alternate", "error_type": "template_error"}
                text = apply_template(json.loads(body)["messages"])
                tokens = [token.described() for token in tokenize(text, add_special=False)]
                return 200, {"tokenize_response": tokens, "templated_text": text}
        return 404, b""

    def token(self, script: Script, text: str, said: int) -> dict[str, Any]:
        """Give the event of one token."""
        del script
        return {
            "index": said, "token": {"id": 1000 + said, "text": text, "logprob": -0.5, "special": text == EOS},
            "generated_text": None, "details": None,
        }  # fmt: skip

    def closing(self, script: Script, prefill_ms: float, decode_ms: float) -> list[dict[str, Any] | bytes]:
        """Give what the last token's event adds: the whole text, its stop string included, and the counts."""
        del prefill_ms, decode_ms
        assert isinstance(script, TgiScript)
        details = {
            "finish_reason": FINISH_REASONS[script.output.stop_type], "generated_tokens": script.output.tokens,
            "seed": script.asked.seed if script.asked.samples else None, "input_length": script.prompt_tokens,
        }  # fmt: skip
        text = "".join(text for text in script.texts if text != EOS)
        return [{"generated_text": text, "details": details if script.asked.details else None}]

    def stream_error(self) -> bytes:
        """Give a failure of the model in the middle of a stream."""
        return self.frame(json.dumps(_error_event(424, "Request failed during generation: simulated fault")).encode())

    def frame(self, data: bytes) -> bytes:
        """Make an event; the router puts no space before its data."""
        return b"data:" + data + b"\n\n"

    def _script(self, path: str, body: bytes, faults: Faults) -> Script:
        request: dict[str, Any] = json.loads(body)
        try:
            prompt, params = self.read(path, request)
        except RefusedInStream as refused:
            refusal = _error_event(refused.status, str(refused))
            return TgiScript({}, 0, engine_text.Output((), "eos", "", 0), request, refusal=refusal)
        asked = _generate_request(request).parameters
        salt = str(self._cuts.random()) if faults.not_deterministic else ""
        output = stopped(engine_text.write(prompt, params, salt), asked.stop)
        texts = (*token_texts(output), *([EOS] if output.stop_type == "eos" else []))
        prompt_tokens = len(tokenize(prompt, add_special=False))
        return TgiScript({"prompt": prompt, **params}, prompt_tokens, output, request, asked, texts)

    async def _decode(self, writer: asyncio.StreamWriter, script: Script, faults: Faults) -> None:
        # The router answers before it looks at the request: it is in its queue with a response that has begun.
        assert isinstance(script, TgiScript)
        stream = FaultyStream(self, writer, faults, self._cuts)
        stream.begin()
        if script.refusal is not None:
            await stream.last([script.refusal])
        else:
            await super()._decode(writer, script, faults)

    async def _speak(self, stream: FaultyStream, script: Script, slot: Slot) -> None:
        assert isinstance(script, TgiScript)
        if stream.faults.first_token_delay_ms:
            self.struck("slow_first_token")
        await asyncio.sleep(
            script.prompt_tokens / self.settings.prefill_tokens_per_s + stream.faults.first_token_delay_ms / 1000
        )
        self.prompt_tokens += script.prompt_tokens
        held = ""
        for said, text in enumerate(script.texts, 1):
            if said > 1:
                await asyncio.sleep(1 / self.settings.tokens_per_s)
            self._calls_ended["prefill" if said == 1 else "decode"] += 1
            self._batched.add(slot.number)
            self.predicted_tokens += 1
            slot.prompt_tokens += 1
            held += text
            if said == len(script.texts):
                break
            hold = said < len(script.texts) - 1 and self._cuts.random() < HELD_SHARE
            await stream.event(self.token(script, "" if hold else held, said), said)
            held = held if hold else ""
        (added,) = self.closing(script, 0.0, 0.0)
        assert isinstance(added, dict)
        self._requests["success"] += 1
        await stream.last([self.token(script, held, len(script.texts)) | added])

    def _release(self, slot: Slot) -> None:
        # What was being computed when its reader went ends like any other run.
        self._calls_ended["decode"] += 1
        self._batched.discard(slot.number)
        super()._release(slot)

    def _info(self) -> dict[str, object]:
        return {
            "model_id": self.settings.model or MODEL_ID, "model_sha": REVISION, "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": self.settings.max_requests, "max_best_of": 2, "max_stop_sequences": STOPS_MAX,
            "max_input_tokens": self.settings.ctx - 1, "max_total_tokens": self.settings.ctx, "validation_workers": 2,
            "max_client_batch_size": 4, "router": "text-generation-router",
            "version": self.settings.version or VERSION, "sha": None, "docker_label": None,
        }  # fmt: skip

    def _metrics(self) -> str:
        calls = self._calls_ended
        busy = [slot for slot in self._slots if slot.busy]
        reading = sum(slot.number not in self._batched for slot in busy)
        figures: dict[str, int] = {
            "tgi_queue_size": self.deferred,
            "tgi_batch_current_size": len(busy) - reading,
            "tgi_batch_current_max_tokens": sum(slot.prompt_tokens for slot in busy),
            "tgi_batch_total_tokens": self.settings.ctx * self.settings.slots,
            'tgi_batch_inference_count{method="prefill"}': calls["prefill"] + reading,
            'tgi_batch_inference_count{method="decode"}': calls["decode"] + len(busy) - reading,
            'tgi_batch_inference_success{method="prefill"}': calls["prefill"],
            'tgi_batch_inference_success{method="decode"}': calls["decode"],
            "tgi_request_count": self._requests["count"],
            "tgi_request_success": self._requests["success"],
            **{f'tgi_request_failure{{err="{kind}"}}': self._requests[kind] for kind in ("overloaded", "validation")},
            "simulated_requests_begun_total": self.begun,
        }
        return "".join(f"{name} {value}\n" for name, value in figures.items())


def _error_event(status: int, message: str) -> dict[str, Any]:
    return {"error": message, "error_type": KINDS[status]}


def _generate_request(request: dict[str, Any]) -> GenerateRequest:
    """Read a body.

    Errors: Refused where it is none, as the HTTP framework says it.
    """
    try:
        wanted = msgspec.convert(request, GenerateRequest)
    except msgspec.ValidationError as error:
        raise Refused(422, f"{UNREADABLE}: {error}") from error
    if is_no_request(wanted.parameters):
        raise Refused(422, f"{UNREADABLE}: a number is outside of its range")
    return wanted
